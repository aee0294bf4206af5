"""What the prober and the healers know: checks, service levels, incidents, links between servers, notices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.facts.instances import RUNNING, Tenant
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, Histogram, gauge
from controlplane.monitoring import states
from controlplane.monitoring.causes import ancestors

#: Service level -> the check that measures it. It is missed while that check, or one that it needs, has an incident.
LEVELS = {"login": "login", "delivery": "archive", "federation": "s2s", "calls": "turn"}
_BEHIND = {level: ancestors(check) | {check} for level, check in LEVELS.items()}
SECONDS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)

_CHECKS = """
SELECT check_name, place, state, count(*) FROM monitoring_checkstate GROUP BY check_name, place, state
"""
_DURATIONS = """
SELECT check_name, place, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms)
FROM monitoring_checkstate WHERE duration_ms IS NOT NULL GROUP BY check_name, place
"""
_DOWN = """
SELECT instance_id, check_name, place, cause FROM monitoring_checkstate WHERE state = 'down'
"""
_PLACES = """
SELECT name, shard, extract(epoch FROM clock_timestamp() - seen_at)::float8, cut_off FROM monitoring_probeplace
"""
_WATCHED = "SELECT DISTINCT instance_id FROM monitoring_probeplan"
_OPEN = """
SELECT i.kind, i.cause, i.instance_id, coalesce(n.name, ''), i.subject,
  array(SELECT jsonb_array_elements_text(coalesce(i.details->'follows', '[]'))),
  extract(epoch FROM i.started_at)::float8
FROM monitoring_incident i LEFT JOIN fleet_node n ON n.id = i.node_id WHERE i.ended_at IS NULL
"""
_LINKS = "SELECT state, count(*) FROM monitoring_s2slink GROUP BY state"
_LINKS_DOWN = "SELECT instance_id, count(*) FROM monitoring_s2slink WHERE state = 'down' GROUP BY instance_id"
_NOTICES = """
SELECT count(*) FILTER (WHERE sent_at IS NULL AND given_up_at IS NULL), count(*) FILTER (WHERE given_up_at IS NOT NULL),
  coalesce(extract(epoch FROM clock_timestamp() - min(created_at)
    FILTER (WHERE sent_at IS NULL AND given_up_at IS NULL))::float8, 0)
FROM monitoring_notice
"""


def families(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family | Histogram]:
    yield from _checks(known, labels)
    told = rows(_OPEN)
    yield from _levels(known, labels, told)
    yield from _incidents(known, labels, told)
    yield from _links(known, labels)
    waiting, given_up, oldest = rows(_NOTICES)[0]
    yield gauge("roost_notices", "Notices by state.", ("state",), [("waiting", waiting), ("given_up", given_up)])
    yield gauge("roost_notice_oldest_waiting_seconds", "How long the oldest has been waiting.", (), [(oldest,)])


def _checks(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    yield gauge("roost_checks", "Checks of instances by state.", ("check", "place", "state"), rows(_CHECKS))
    durations = [
        (check, place, quantile, value / 1000)
        for check, place, values in rows(_DURATIONS)
        for quantile, value in zip(("0.5", "0.95", "0.99"), values, strict=True)
    ]
    yield gauge(
        "roost_check_duration_seconds",
        "How long each instance's last look took, over all instances.",
        ("check", "place", "quantile"),
        durations,
    )
    places = rows(_PLACES)
    yield gauge(
        "roost_prober_silent_seconds",
        "How long a prober has said nothing; more than a minute takes its vote away.",
        ("place", "shard"),
        [row[:3] for row in places],
    )
    yield gauge(
        "roost_prober_cut_off",
        "Whether a prober reaches none of its references.",
        ("place", "shard"),
        [(place, shard, cut_off) for place, shard, _, cut_off in places],
    )
    if labels.shown:
        yield gauge(
            "roost_instance_check_down",
            "1 for each check that fails, as one place sees it.",
            ("instance", "node", "check", "place", "cause"),
            [
                (one.label, one.node, check, place, cause, 1)
                for pk, check, place, cause in rows(_DOWN)
                if (one := known.get(pk)) is not None
            ],
        )


def _levels(known: dict[int, Tenant], labels: TenantLabels, told: Iterable[tuple[Any, ...]]) -> Iterator[Family]:
    """Nothing is said of an instance that nobody looks at, nor of any while no prober can judge."""
    failing: dict[int, set[str]] = {}
    broken: set[int] = set()
    for kind, _, pk, _, subject, follows, _ in told:
        if kind == "check" and pk is not None:
            failing.setdefault(pk, set()).update({subject.rpartition(":")[2], *follows})
        elif kind == "link" and pk is not None:
            broken.add(pk)
    seen = {pk for (pk,) in rows(_WATCHED)} if states.voters() else set()
    watched = [one for one in known.values() if one.pk in seen and one.desired == RUNNING]
    measured = [
        (one, level, not (failing.get(one.pk, set()) & behind) and not (level == "federation" and one.pk in broken))
        for one in watched
        for level, behind in _BEHIND.items()
    ]
    counted: dict[tuple[str, str, str], int] = {}
    for one, level, met in measured:
        name = (level, one.engine, "met" if met else "missed")
        counted[name] = counted.get(name, 0) + 1
    engines = sorted({one.engine for one in watched})
    yield gauge(
        "roost_level_instances",
        "Instances that are watched, by whether they meet a service level now: login, delivery, federation, calls.",
        ("level", "engine", "state"),
        [
            (level, engine, state, counted.get((level, engine, state), 0))
            for level in LEVELS
            for engine in engines
            for state in ("met", "missed")
        ],
    )
    if labels.shown:
        yield gauge(
            "roost_instance_level_met",
            "Whether an instance meets a service level now.",
            ("instance", "node", "level"),
            [(one.label, one.node, level, met) for one, level, met in measured],
        )


def _incidents(
    known: dict[int, Tenant], labels: TenantLabels, told: Iterable[tuple[Any, ...]]
) -> Iterator[Family | Histogram]:
    counted: dict[tuple[str, str], int] = {}
    for kind, cause, *_ in told:
        counted[kind, cause] = counted.get((kind, cause), 0) + 1
    yield gauge("roost_incidents_open", "Open incidents.", ("kind", "cause"), [(*k, n) for k, n in counted.items()])
    yield gauge(
        "roost_node_incident_open",
        "1 for each open incident of a node.",
        ("node", "kind", "cause"),
        {(node, kind, cause, 1) for kind, cause, _, node, *_ in told if node},
    )
    for name, text, ended in (
        ("roost_incident_notice_seconds", "From the first sign of an incident until it was noticed.", "noticed_at"),
        ("roost_incident_heal_seconds", "From the first sign of an incident until its end.", "ended_at"),
    ):
        yield Histogram(name, text, ("kind",), SECONDS, rows(_histogram(ended)))
    if labels.shown:
        yield gauge(
            "roost_instance_incident_open",
            "Open incidents of an instance.",
            ("instance", "node", "kind", "cause"),
            _of_instances(known, told),
        )


def _of_instances(known: dict[int, Tenant], told: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """An instance may have several of one cause, such as links to several servers."""
    counted: dict[tuple[str, ...], int] = {}
    for kind, cause, pk, *_ in told:
        if pk in known:
            name = (known[pk].label, known[pk].node, kind, cause)
            counted[name] = counted.get(name, 0) + 1
    return [(*name, number) for name, number in counted.items()]


def _histogram(until: str) -> str:
    """Counts below each bound, of all incidents that have ended. ``until`` is one of two constants above."""
    took = f"extract(epoch FROM {until} - started_at)::float8"
    below = ", ".join(f"count(*) FILTER (WHERE took <= {bound})" for bound in SECONDS)
    return (
        f"SELECT kind, {below}, count(*), coalesce(sum(took), 0) "  # noqa: S608  (constants of this module)
        f"FROM (SELECT kind, greatest(0, {took}) AS took FROM monitoring_incident WHERE ended_at IS NOT NULL) ended "
        "GROUP BY kind"
    )


def _links(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    yield gauge("roost_s2s_links", "Links to other servers by state.", ("state",), rows(_LINKS))
    if labels.shown:
        yield gauge(
            "roost_instance_s2s_links_down",
            "Links that do not answer, of each instance that has any.",
            ("instance", "node"),
            [(one.label, one.node, number) for pk, number in rows(_LINKS_DOWN) if (one := known.get(pk)) is not None],
        )
