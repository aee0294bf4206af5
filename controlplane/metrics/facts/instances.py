"""Instances: how many, their conditions, and of each single one whether it is Ready and what is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, gauge

RUNNING, SUSPENDED, TERMINATING = "running", "suspended", "terminating"

_INSTANCES = """
SELECT i.id, i.key, o.slug, d.name, i.engine, p.slug, coalesce(n.name, ''),
  CASE WHEN i.deletion_requested_at IS NOT NULL THEN 'terminating'
       WHEN i.suspended_at IS NOT NULL THEN 'suspended' ELSE 'running' END
FROM tenants_instance i
JOIN tenants_organisation o ON o.id = i.organisation_id
JOIN tenants_domain d ON d.id = i.domain_id
JOIN tenants_plan p ON p.id = i.plan_id
LEFT JOIN fleet_placement f ON f.instance_id = i.id
LEFT JOIN fleet_node n ON n.id = f.node_id
"""
_CONDITIONS = """
SELECT kind, type, status, reason, count(*) FROM reconcile_condition GROUP BY kind, type, status, reason
"""
_NOT_TRUE = """
SELECT object_id, type, status, reason, stalled FROM reconcile_condition WHERE kind = 'Instance' AND status <> 'True'
"""
_READY = """
SELECT object_id, extract(epoch FROM last_transition)::float8 FROM reconcile_condition
WHERE kind = 'Instance' AND type = 'Ready' AND status = 'True'
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An instance with what its series are labelled with. ``label``: its key, or what stands for it."""

    pk: int
    key: str
    organisation: str
    domain: str
    engine: str
    plan: str
    node: str
    desired: str
    label: str


def tenants(labels: TenantLabels) -> dict[int, Tenant]:
    """By their rows' numbers."""
    return {row[0]: Tenant(*(*row, labels.of(row[1]))) for row in rows(_INSTANCES)}


def families(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    counted: dict[tuple[str, str], int] = {}
    for one in known.values():
        counted[one.engine, one.desired] = counted.get((one.engine, one.desired), 0) + 1
    yield gauge(
        "roost_instances",
        "Instances by engine and by what is wanted of them.",
        ("engine", "desired"),
        [(*labels_, count) for labels_, count in sorted(counted.items())],
    )
    yield gauge(
        "roost_conditions",
        "Conditions of all kinds of resources.",
        ("kind", "condition", "status", "reason"),
        rows(_CONDITIONS),
    )
    if labels.shown:
        yield from _each(known, labels)


def _each(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    by_key = {one.key: one for one in known.values()}
    yield gauge(
        "roost_instance_info",
        "1 for each instance, with what it is: join it to the other series by the label instance.",
        ("instance", "organisation", "domain", "engine", "plan", "node", "desired"),
        [_info(one, labels) for one in known.values()],
    )
    ready = {key for key, _ in rows(_READY)}
    yield gauge(
        "roost_instance_ready",
        "Whether each instance that should run is Ready.",
        ("instance", "node"),
        [(one.label, one.node, one.key in ready) for one in known.values() if one.desired == RUNNING],
    )
    lacking: list[Any] = []
    for key, type_, status, reason, stalled in rows(_NOT_TRUE):
        one = by_key.get(key)
        if one is not None and one.desired == RUNNING:
            lacking.append((one.label, one.node, type_, status, reason, "true" if stalled else "false", 1))
    yield gauge(
        "roost_instance_condition_not_true",
        "1 for each condition that is not true of an instance that should run. Those that are true have no series.",
        ("instance", "node", "condition", "status", "reason", "stalled"),
        lacking,
    )


def _info(one: Tenant, labels: TenantLabels) -> tuple[Any, ...]:
    organisation, domain = (one.organisation, one.domain) if labels.named else ("", "")
    return (one.label, organisation, domain, one.engine, one.plan, one.node, one.desired, 1)
