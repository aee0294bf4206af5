"""What the public status pages show: how it is now, and 90 days day by day. Few queries, no names of others.

A day is judged by its incidents (``wording`` says which count, and as what); samples say only whether anybody looked.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from django.db import connection
from django.db.models import Count, Q
from django.db.models.functions import TruncDate
from django.utils import timezone

from controlplane.fleet.models import Placement
from controlplane.monitoring import maintenance, outage
from controlplane.monitoring.models import CheckState, Incident, Maintenance, SampleHour
from controlplane.monitoring.wording import DOWN, PARTIAL, PARTS, PUBLIC_KINDS, Wording, wording
from tenants.models import Instance

DAYS = 90
OK, NONE, WORK, PAUSED = "ok", "none", "maintenance", "paused"
#: More than this much of a day out of service makes it a bad one, seconds.
BAD_DAY_S = 300.0
#: So much for each server on the average makes a disturbed day of all together: a two-thousandth, seconds.
DISTURBED_S = 43.2
#: A check that was not made for so long says nothing.
FRESH = datetime.timedelta(minutes=30)
SHOWN_INCIDENTS = 50
#: The check that every cheap round has a sample of, as a whole.
EACH_ROUND = "quick"

Span = tuple[datetime.datetime, datetime.datetime]


@dataclass(frozen=True, slots=True)
class Day:
    """``level``: ok, partial, down or none (nobody looked). ``down_s``: out of service; for the provider per server."""

    date: datetime.date
    level: str
    down_s: float
    partial_s: float


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the service over the days. ``name``: of ``wording.PARTS``."""

    name: str
    level: str
    days: Sequence[Day]
    uptime: float | None


@dataclass(frozen=True, slots=True)
class PublicIncident:
    wording: Wording
    started_at: datetime.datetime
    ended_at: datetime.datetime | None
    #: How many servers it concerns; 1 on a tenant's page.
    servers: int = 1


@dataclass(frozen=True, slots=True)
class Status:
    """All that a page shows. ``uptime``: of 1, over the days on which somebody looked; None: nobody did."""

    level: str
    days: Sequence[Day]
    uptime: float | None
    parts: Sequence[tuple[str, str]] = ()
    open: Sequence[PublicIncident] = ()
    past: Sequence[PublicIncident] = ()
    running: Sequence[Maintenance] = ()
    coming: Sequence[Maintenance] = ()
    servers: int = 1
    numbers: dict[str, int] = field(default_factory=dict)


def public_instance(domain: str) -> Instance | None:
    """The instance with a page: its domain is proven, and it is not on its way out."""
    rows = Instance.objects.whole().filter(domain__name=domain, domain__proven_at__isnull=False)
    return rows.filter(deletion_requested_at=None).first()


def of_instance(instance: Instance, now: datetime.datetime | None = None) -> Status:
    """One tenant's page."""
    return with_parts(instance, now, parts=())[0]


def with_parts(
    instance: Instance, now: datetime.datetime | None = None, *, parts: Iterable[str] = PARTS
) -> tuple[Status, list[Part]]:
    """One tenant's page, and the days of each part.

    A part's uptime counts what concerns that part as out of service, although most of the server works then; and all
    parts are while the server is not reached.
    """
    now = now or timezone.now()
    begin = _first_day(now)
    rows = outage.affecting(instance).filter(_within(begin)).order_by("-started_at")
    told = [one for row in rows if (one := _public(row.kind, row.cause, row.subject, row.started_at, row.ended_at, 1))]
    looked = _hours_looked_at(instance, begin)
    fresh = _is_fresh(Q(instance=instance), now)
    if fresh:
        looked[now.date()] = max(looked[now.date()], 1)
    days = _days(told, looked, begin, now)
    mine = maintenance.of(instance)
    running = list(maintenance.running(now).filter(mine).order_by("ends_at"))
    present = [one for one in told if one.ended_at is None]
    whole = Status(
        level=PAUSED if not instance.should_run else _level(present, running, fresh),
        days=days,
        uptime=_uptime(days, looked, now),
        parts=[(PARTS[name], _part_level(name, present, fresh)) for name in PARTS],
        open=present,
        past=[one for one in told if one.ended_at is not None][:SHOWN_INCIDENTS],
        running=running,
        coming=list(maintenance.coming(within=datetime.timedelta(days=30), at=now).filter(mine)),
    )
    found = []
    for name in parts:
        own = [one for one in told if one.wording.part == name or _cuts_off(one)]
        days = _days(own, looked, begin, now)
        lost = days if name == "reach" else _days([_as_down(one) for one in own], looked, begin, now)
        found.append(Part(name, _part_level(name, present, fresh), days, _uptime(lost, looked, now)))
    return whole, found


def _as_down(one: PublicIncident) -> PublicIncident:
    return replace(one, wording=replace(one.wording, level=DOWN))


def _cuts_off(one: PublicIncident) -> bool:
    return one.wording.level == DOWN and one.wording.part == "reach"


def of_provider(now: datetime.datetime | None = None) -> Status:
    """All servers together: how many, never which."""
    now = now or timezone.now()
    begin = _first_day(now)
    counted = Instance.objects.filter(deletion_requested_at=None, suspended_at=None)
    servers = counted.count()
    on_node = Counter(Placement.objects.filter(instance__in=counted).values_list("node_id", flat=True))
    rows = Incident.objects.filter(_within(begin), kind__in=PUBLIC_KINDS).order_by("-started_at")
    columns = ("kind", "cause", "subject", "started_at", "ended_at", "instance_id", "node_id")
    told = [
        one
        for kind, cause, subject, start, end, instance, node in rows.values_list(*columns)
        if (one := _public(kind, cause, subject, start, end, 1 if instance else on_node[node]))
    ]
    looked = _days_looked_at(begin, now)
    fresh = _is_fresh(Q(), now)
    if fresh:
        looked[now.date()] = max(looked[now.date()], 1)
    days = _days(told, looked, begin, now, servers=servers)
    work = Q(organisation=None, instance=None)
    running = list(maintenance.running(now).filter(work).order_by("ends_at"))
    present = _together([one for one in told if one.ended_at is None])
    hurt = min(servers, sum(one.servers for one in present if one.wording.level == DOWN))
    present = [_milder(one, servers) for one in present]
    return Status(
        level=_level(present, running, fresh),
        days=days,
        uptime=_uptime(days, looked, now),
        parts=[(PARTS[name], _part_level(name, present, fresh)) for name in PARTS],
        open=present,
        running=running,
        coming=list(maintenance.coming(within=datetime.timedelta(days=30), at=now).filter(work)),
        servers=servers,
        numbers={"servers": servers, "down": hurt},
    )


def _public(
    kind: str,
    cause: str,
    subject: str,
    started_at: datetime.datetime,
    ended_at: datetime.datetime | None,
    servers: int,
) -> PublicIncident | None:
    """None if the public is not told of it, or nobody is concerned any more."""
    said = wording(kind, cause, subject)
    return PublicIncident(said, started_at, ended_at, servers) if said is not None and servers else None


def _together(found: Iterable[PublicIncident]) -> list[PublicIncident]:
    """Those that say the same as one, with the number of servers and the earliest beginning."""
    groups: dict[Wording, list[PublicIncident]] = {}
    for one in found:
        groups.setdefault(one.wording, []).append(one)
    return [
        PublicIncident(said, min(one.started_at for one in group), None, sum(one.servers for one in group))
        for said, group in groups.items()
    ]


def _milder(one: PublicIncident, servers: int) -> PublicIncident:
    """Of all servers together: what stops less than half of them is a disturbance."""
    if one.servers * 2 >= servers:
        return one
    return replace(one, wording=replace(one.wording, level=PARTIAL))


def _first_day(now: datetime.datetime) -> datetime.datetime:
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return start - datetime.timedelta(days=DAYS - 1)


def _within(begin: datetime.datetime) -> Q:
    return Q(ended_at=None) | Q(ended_at__gte=begin)


def _hours_looked_at(instance: Instance, begin: datetime.datetime) -> Counter[datetime.date]:
    """How many hours of each day have samples of the cheap round: one row for each hour, found by an index."""
    rows = SampleHour.objects.filter(instance_key=instance.key, check_name=EACH_ROUND, hour__gte=begin, samples__gt=0)
    return Counter(dict(rows.annotate(day=TruncDate("hour")).values_list("day").annotate(n=Count("pk"))))


_ANY_SAMPLE = """
SELECT day::date FROM generate_series(%s::timestamptz, %s::timestamptz, interval '1 day') AS day
WHERE EXISTS (SELECT 1 FROM monitoring_samplehour WHERE hour >= day AND hour < day + interval '1 day')
"""


def _days_looked_at(begin: datetime.datetime, now: datetime.datetime) -> Counter[datetime.date]:
    """24 for each day with any sample at all: one look into an index for each day, however many tenants there are."""
    with connection.cursor() as cursor:
        cursor.execute(_ANY_SAMPLE, [begin, now])
        return Counter({day: 24 for (day,) in cursor.fetchall()})


def _is_fresh(of: Q, now: datetime.datetime) -> bool:
    return CheckState.objects.filter(of, last_at__gte=now - FRESH).exists()


def _days(
    told: Sequence[PublicIncident],
    looked: Counter[datetime.date],
    begin: datetime.datetime,
    now: datetime.datetime,
    *,
    servers: int = 1,
) -> list[Day]:
    """The days, the oldest first. Incidents of one server that overlap count once; of many each by its share."""
    spans: dict[tuple[int, str], list[tuple[Span, float]]] = {}
    for one in told:
        share = min(1.0, one.servers / max(1, servers))
        for number, span in _by_day(one, begin, now):
            spans.setdefault((number, one.wording.level), []).append((span, share))
    days = []
    for number in range(DAYS):
        date = (begin + datetime.timedelta(days=number)).date()
        down_s, partial_s = (_seconds(spans.get((number, level), []), servers) for level in (DOWN, PARTIAL))
        hit = (number, DOWN) in spans or (number, PARTIAL) in spans
        if servers > 1:  # one of many for a moment is no disturbance of all
            hit = down_s + partial_s > DISTURBED_S
        level = DOWN if down_s > BAD_DAY_S else PARTIAL if hit else OK if looked[date] else NONE
        days.append(Day(date, level, down_s, partial_s))
    return days


def _by_day(one: PublicIncident, begin: datetime.datetime, now: datetime.datetime) -> Iterator[tuple[int, Span]]:
    """The days that it touches, as numbers from ``begin``, and which part of it lies in each."""
    start, end = max(one.started_at, begin), min(one.ended_at or now, now)
    while start < end:
        number = (start - begin).days
        until = min(end, begin + datetime.timedelta(days=number + 1))
        yield number, (start, until)
        start = until


def _seconds(spans: Sequence[tuple[Span, float]], servers: int) -> float:
    if servers <= 1:
        return _length(span for span, _ in spans)
    return min(86_400.0, sum((b - a).total_seconds() * share for (a, b), share in spans))


def _length(spans: Iterable[Span]) -> float:
    """Seconds that they cover together."""
    total, reached = 0.0, None
    for a, b in sorted(spans):
        a = a if reached is None else max(a, reached)
        if b > a:
            total += (b - a).total_seconds()
        reached = b if reached is None else max(b, reached)
    return total


def _uptime(days: Sequence[Day], looked: Counter[datetime.date], now: datetime.datetime) -> float | None:
    seen_s = down_s = 0.0
    for day in days:
        length_s = 86_400.0
        if day.date == now.date():
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
            length_s = max(1.0, (now - midnight).total_seconds())
        seen = min(length_s, looked[day.date] * 3600.0)
        if seen or day.down_s:
            seen_s += max(seen, day.down_s)
            down_s += min(day.down_s, length_s)
    return None if seen_s == 0 else max(0.0, 1 - down_s / seen_s)


def _level(present: Sequence[PublicIncident], running: Sequence[Maintenance], fresh: bool) -> str:
    levels = {one.wording.level for one in present}
    if DOWN in levels:
        return DOWN
    if PARTIAL in levels:
        return PARTIAL
    return WORK if running else OK if fresh else NONE


def _part_level(name: str, present: Sequence[PublicIncident], fresh: bool) -> str:
    """A part fails if something of its own does; nothing else works while the server is not reached."""
    own = {one.wording.level for one in present if one.wording.part == name}
    if DOWN in own or any(_cuts_off(one) for one in present):
        return DOWN
    return PARTIAL if PARTIAL in own else OK if fresh else NONE
