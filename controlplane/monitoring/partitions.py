"""The table of samples in days: partitions made ahead, rolled up by the hour, dropped when they are old.

Each function may be called by any number of processes at once, as often as they like; ``keep`` is all of it.
"""

from __future__ import annotations

import datetime

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from controlplane.monitoring.models import SampleHour

#: Partitions are there so many days before they are needed: a prober that stands still for a while still can write.
AHEAD_DAYS = 3
TABLE = "monitoring_sample"
#: Only one process at a time changes partitions or rolls up (pg_advisory_xact_lock).
_LOCK = 7_077_001

Day = datetime.date


def keep(now: datetime.datetime | None = None) -> None:
    """Make partitions, roll up what is new, drop what is old. Does nothing while another process does it."""
    now = now or timezone.now()
    with transaction.atomic():
        if not _locked():
            return
        make_ahead(now)
        roll_up(now)
        drop_old(now)


def make_ahead(now: datetime.datetime) -> None:
    """The partitions from yesterday's to those of the next days."""
    today = now.astimezone(datetime.UTC).date()
    there = {day for day, _ in days()}
    with connection.cursor() as cursor:
        for offset in range(-1, AHEAD_DAYS + 1):
            day = today + datetime.timedelta(days=offset)
            if day in there:
                continue
            end = day + datetime.timedelta(days=1)
            # Names and bounds are made of a date: nothing of them comes from outside.
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {_name(day)} PARTITION OF {TABLE} "
                f"FOR VALUES FROM ('{day:%Y-%m-%d} 00:00:00+00') TO ('{end:%Y-%m-%d} 00:00:00+00')"
            )


def days() -> list[tuple[Day, str]]:
    """(day, table) of each partition that is there, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = %s::regclass",
            [TABLE],
        )
        names = [str(row[0]) for row in cursor.fetchall()]
    prefix = f"{TABLE}_"
    return sorted(
        (datetime.datetime.strptime(name.removeprefix(prefix), "%Y%m%d").date(), name)
        for name in names
        if name.startswith(prefix)
    )


#: Hours from %s on are computed anew, so that it does not matter how often or how late this runs.
_ROLL_UP = f"""
INSERT INTO monitoring_samplehour
  (instance_key, check_name, hour, samples, failures, duration_ms_mean, duration_ms_max)
SELECT instance_key, check_name, date_trunc('hour', at, 'UTC'), count(*), count(*) FILTER (WHERE NOT ok),
       avg(duration_ms), max(duration_ms)
FROM {TABLE} WHERE at >= %s AND at < %s
GROUP BY 1, 2, 3
ON CONFLICT (instance_key, check_name, hour) DO UPDATE SET
  samples = EXCLUDED.samples, failures = EXCLUDED.failures,
  duration_ms_mean = EXCLUDED.duration_ms_mean, duration_ms_max = EXCLUDED.duration_ms_max
"""  # noqa: S608  (a constant)


def roll_up(now: datetime.datetime) -> None:
    """Bring the hours up to date, from the last one that is there (or the oldest sample) to now."""
    newest = SampleHour.objects.order_by("-hour").values_list("hour", flat=True).first()
    partitions = days()
    if not partitions:
        return
    oldest = datetime.datetime.combine(partitions[0][0], datetime.time(), datetime.UTC)
    # The hour before the newest, too: a batch may have been written late.
    since = max(oldest, newest - datetime.timedelta(hours=1)) if newest else oldest
    with connection.cursor() as cursor:
        cursor.execute(_ROLL_UP, [since, now + datetime.timedelta(days=1)])


def drop_old(now: datetime.datetime) -> None:
    """Drop partitions and hours that are past their time (``ROOST_SAMPLE_DAYS``, ``ROOST_SAMPLE_HOURS_DAYS``)."""
    today = now.astimezone(datetime.UTC).date()
    first = today - datetime.timedelta(days=settings.ROOST["SAMPLE_DAYS"])
    with connection.cursor() as cursor:
        for day, name in days():
            if day < first:
                cursor.execute(f"DROP TABLE {name}")
    SampleHour.objects.filter(hour__lt=now - datetime.timedelta(days=settings.ROOST["SAMPLE_HOURS_DAYS"])).delete()


def _name(day: Day) -> str:
    return f"{TABLE}_{day:%Y%m%d}"


def _locked() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        row = cursor.fetchone()
        return bool(row and row[0])
