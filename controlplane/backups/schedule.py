"""When a cron expression says so, in a time zone: the last time that should have been, and the next.

Pure: the moment is given. Days on which clocks are put forward or back are cron's affair, as Debian's cron has it: what
would fall into the hour that is left out runs when it is over, what falls into the doubled one runs once.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import zoneinfo
from collections.abc import Iterator
from functools import lru_cache

from cronsim import CronSim, CronSimError

from controlplane.values.errors import InvalidInput

MAX_LENGTH = 100
_ALPHABET = re.compile(r"[0-9A-Za-z*,/#-]{1,60}(?: [0-9A-Za-z*,/#-]{1,60}){4}")
#: So many times are looked at for the shortest distance of two: enough for a week of hourly ones.
_LOOKED_AT = 200
#: More than clocks are ever put back.
_SLACK = datetime.timedelta(hours=3)
_ANY = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def cron(text: str, *, field: str, shortest_s: int) -> str:
    """The expression with single spaces; "" (never) is one too. ``InvalidInput`` if it is none, never fits a day, or
    has two times less than ``shortest_s`` apart.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise InvalidInput(field, f"That is no cron expression of up to {MAX_LENGTH} characters.")
    words = " ".join(text.split())
    if not words:
        return ""
    if not _ALPHABET.fullmatch(words):
        raise InvalidInput(
            field,
            "That is no cron expression.",
            remedy='Give minute, hour, day, month and weekday, such as "30 2 * * *"; leave it empty for never.',
        )
    try:
        times = CronSim(words, _ANY)
        before: datetime.datetime | None = None
        for _ in range(_LOOKED_AT):
            at = next(times)
            if before is not None and (at - before).total_seconds() < shortest_s:
                raise InvalidInput(
                    field,
                    f"Two times of {words!r} are less than {shortest_s // 60} minutes apart.",
                    remedy="Choose them further apart.",
                )
            before = at
            if (at - _ANY).days > 800:
                break
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(field, f"{words!r} is no cron expression, or has no time at all: {error}.") from error
    return words


def time_zone(text: str, *, field: str = "time_zone") -> str:
    """A name of the IANA data base, such as Europe/Berlin."""
    if not isinstance(text, str) or text not in _zones():
        raise InvalidInput(field, "There is no such time zone.", remedy="Give a name such as Europe/Berlin, or UTC.")
    return text


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "Factory"}


def last(expression: str, zone: str, now: datetime.datetime) -> datetime.datetime | None:
    """The latest time of it up to ``now``, in UTC; None if it has none ("": never)."""
    return next((at for at in _times(expression, zone, now + _SLACK, reverse=True) if at <= now), None)


def next_after(expression: str, zone: str, now: datetime.datetime) -> datetime.datetime | None:
    """The first time of it after ``now``, in UTC; None if it has none."""
    return next((at for at in _times(expression, zone, now - _SLACK, reverse=False) if at > now), None)


def _times(expression: str, zone: str, begin: datetime.datetime, *, reverse: bool) -> Iterator[datetime.datetime]:
    """Its times from ``begin`` on. cron looks at a wall clock, and within a doubled hour its next time may be past: so
    whoever asks begins earlier than needed, and passes over what does not fit.
    """
    if not expression:
        return
    try:
        for at in CronSim(expression, begin.astimezone(zoneinfo.ZoneInfo(zone)), reverse=reverse):
            yield at.astimezone(datetime.UTC)
    except (CronSimError, OverflowError):
        return


def jitter(key: str, kind: str, width_s: int) -> datetime.timedelta:
    """How much later than the schedule says this instance begins: always the same, and spread over ``width_s``."""
    share = int.from_bytes(hashlib.sha256(f"{kind} {key}".encode()).digest()[:4]) / (1 << 32)
    return datetime.timedelta(seconds=int(share * width_s))
