"""Samples are kept in days, rolled up by the hour, and dropped when they are old."""

from __future__ import annotations

import datetime

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from controlplane.monitoring import partitions
from controlplane.monitoring.models import Sample, SampleHour

pytestmark = [pytest.mark.db, pytest.mark.django_db]

DAY = datetime.timedelta(days=1)


def sample(at: datetime.datetime, ok: bool, ms: float, check: str = "quick") -> Sample:
    return Sample(at=at, instance_key="abcdefgh", check_name=check, place="here", ok=ok, duration_ms=ms)


def test_partitions_are_there_before_they_are_needed():
    now = timezone.now()
    partitions.keep(now)
    partitions.keep(now)
    today = now.astimezone(datetime.UTC).date()
    assert [day for day, _ in partitions.days()] == [today + offset * DAY for offset in range(-1, 4)]
    Sample.objects.bulk_create([sample(now + 2 * DAY, True, 1.0)], ignore_conflicts=True)
    assert Sample.objects.count() == 1


def test_hours_are_sums_and_may_be_made_again():
    now = timezone.now().replace(minute=30, second=0, microsecond=0)
    partitions.make_ahead(now)
    hour = now.replace(minute=0)
    minute = datetime.timedelta(minutes=1)
    first = [sample(now - minute, True, 10.0), sample(now, False, 30.0), sample(now, True, 5.0, "login")]
    Sample.objects.bulk_create(first, ignore_conflicts=True)
    partitions.keep(now)
    row = SampleHour.objects.get(check_name="quick")
    assert (row.hour, row.samples, row.failures, row.duration_ms_mean, row.duration_ms_max) == (hour, 2, 1, 20.0, 30.0)
    # A late one of the hour before, and one more of this hour.
    more = [sample(now + minute, True, 50.0), sample(hour - minute, True, 7.0)]
    Sample.objects.bulk_create(more, ignore_conflicts=True)
    partitions.keep(now)
    assert SampleHour.objects.get(check_name="quick", hour=hour).samples == 3
    assert SampleHour.objects.get(hour=hour - 60 * minute).samples == 1
    assert SampleHour.objects.count() == 3


def test_what_is_old_goes():
    now = timezone.now()
    past = now - (settings.ROOST["SAMPLE_DAYS"] + 2) * DAY
    partitions.make_ahead(past)
    Sample.objects.bulk_create([sample(past, True, 1.0)], ignore_conflicts=True)
    SampleHour.objects.create(instance_key="a", check_name="quick", hour=now - 401 * DAY)
    partitions.keep(now)
    oldest = now.astimezone(datetime.UTC).date() - settings.ROOST["SAMPLE_DAYS"] * DAY
    assert all(day >= oldest for day, _ in partitions.days())
    assert not Sample.objects.exists()
    # Its hour was rolled up before it went; what is older than all goes, too.
    assert [(row.instance_key, row.samples) for row in SampleHour.objects.all()] == [("abcdefgh", 1)]


def test_a_question_for_one_instance_reads_few_partitions():
    partitions.keep()
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN SELECT * FROM monitoring_sample WHERE instance_key = 'a' AND at > now() - interval '1 hour'"
        )
        plan = " ".join(row[0] for row in cursor.fetchall())
    assert "Subplans Removed" in plan
