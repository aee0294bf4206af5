"""Cron with time zones: the days on which clocks change, whole years of awkward zones, and hostile words."""

from __future__ import annotations

import datetime
import time

import pytest

from controlplane.backups import policy, schedule
from controlplane.values.errors import InvalidInput

pytestmark = pytest.mark.db


def utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.UTC)


def test_the_hour_that_is_left_out_runs_when_it_is_over() -> None:
    # In Berlin 02:30 of 29 March 2026 does not exist: the clock goes from 02:00 to 03:00 at 01:00 UTC.
    assert schedule.next_after("30 2 * * *", "Europe/Berlin", utc(2026, 3, 28, 12)) == utc(2026, 3, 29, 1)
    assert schedule.next_after("30 2 * * *", "Europe/Berlin", utc(2026, 3, 29, 1)) == utc(2026, 3, 30, 0, 30)


def test_the_doubled_hour_runs_once() -> None:
    # 02:30 of 25 October 2026 is there twice, at 00:30 and at 01:30 UTC.
    first = schedule.next_after("30 2 * * *", "Europe/Berlin", utc(2026, 10, 24, 12))
    assert first == utc(2026, 10, 25, 0, 30)
    assert schedule.next_after("30 2 * * *", "Europe/Berlin", first) == utc(2026, 10, 26, 1, 30)
    for moment in (utc(2026, 10, 25, 0, 31), utc(2026, 10, 25, 1), utc(2026, 10, 25, 1, 31)):
        assert schedule.last("30 2 * * *", "Europe/Berlin", moment) == first


ZONES = ("Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "UTC")
YEARS = [(expression, zone) for expression in ("30 2 * * *", "45 1 * * *") for zone in ZONES]
# Not Lord Howe's, whose clocks are moved by half an hour: of several runs on such a day cron passes over one.
YEARS += [("15 */6 * * *", zone) for zone in ZONES if zone != "Australia/Lord_Howe"]


@pytest.mark.parametrize(("expression", "zone"), YEARS)
def test_a_whole_year_forwards_and_backwards(expression: str, zone: str) -> None:
    moment, count = utc(2026, 1, 1), 0
    while moment < utc(2027, 1, 1):
        after = schedule.next_after(expression, zone, moment)
        assert after is not None
        assert moment < after <= moment + datetime.timedelta(hours=26)
        assert schedule.last(expression, zone, after) == after
        before = schedule.last(expression, zone, after - datetime.timedelta(seconds=1))
        assert before is not None
        assert before < after
        moment, count = after, count + 1
    # One a day, or four: no day is left out, and none has two, whatever the clocks do.
    assert count - 1 == 365 * (4 if "*/6" in expression else 1)


def test_now_itself_is_a_time() -> None:
    assert schedule.last("0 0 * * *", "UTC", utc(2026, 1, 1)) == utc(2026, 1, 1)
    assert schedule.next_after("0 0 * * *", "UTC", utc(2026, 1, 1)) == utc(2026, 1, 2)
    assert schedule.last("", "UTC", utc(2026, 1, 1)) is None
    assert schedule.next_after("", "UTC", utc(2026, 1, 1)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("* * * * *", "*/5 * * * *", "0,59 * * * *", "30 2 30 2 *", "0 0 31 2,4,6 *", "a b c d e", "0 0 * * * *"),
        *(
            "@daily",
            "0 0 * * * ; rm -rf /",
            "\x00",
            "0" * 5000,
            "² 0 * * *",
            "0 0 1-3/0 * *",
            "60 0 * * *",
            "0 24 * * *",
        ),
        *("0 0 * *", "0 0 99999999999999999999 * *", "-1 0 * * *", "0 0 * * 9", "1" + ",1" * 49 + " 0 * * *"),
        *(["0 2 * * *"], 5, None, {"a": 1}),
    ],
)
def test_hostile_words_are_refused_at_once(text) -> None:
    began = time.process_time()
    with pytest.raises(InvalidInput) as refused:
        policy.checked({"full_cron": text if text is not None else ["x"]})
    assert refused.value.field == "full_cron"
    assert time.process_time() - began < 2


@pytest.mark.parametrize("text", ["30 2 * * *", "0 0 29 2 *", "0 3 * * MON-FRI", "0 3 L * *", "  0   4 * *  1 ", ""])
def test_what_cron_knows_is_taken(text: str) -> None:
    assert policy.checked({"full_cron": text}) == {"full_cron": " ".join(text.split())}


@pytest.mark.parametrize(
    "zone", ["../../etc/passwd", "localtime", "Mars/Phobos", "", 7, None, "Europe/Berlin\n", "/UTC"]
)
def test_no_time_zone(zone) -> None:
    with pytest.raises(InvalidInput):
        schedule.time_zone(zone)


@pytest.mark.parametrize(
    "values",
    [
        {"keep": {}},
        {"keep": {"last": 0}},
        {"keep": {"last": -1}},
        {"keep": {"last": True}},
        {"keep": {"hours": 3}},
        {"keep": "all"},
        {"keep": {"last": 10**9}},
        {"check_days": "7"},
        {"jitter_s": 10**6},
        {"expire_days": -1},
        {"paused_at": "now"},
        {"no_such": 1},
    ],
)
def test_hostile_values_are_refused(values) -> None:
    with pytest.raises(InvalidInput):
        policy.checked(values)
