"""Nodes and edges: their conditions, memory, disks, clocks, what they carry, and how far their tables are behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.fleet.models import Node
from controlplane.metrics.facts.asked import rows
from controlplane.metrics.text import Family, gauge

MIB = 1024 * 1024
_CONDITIONS = """
SELECT object_id, type, status, reason FROM reconcile_condition WHERE kind = 'Node'
"""
_CARRIED = """
SELECT n.name, count(f.id), coalesce(sum(p.memory_mib), 0),
  count(f.id) FILTER (WHERE f.wanted_digest <> f.applied_digest), count(f.id) FILTER (WHERE f.error <> '')
FROM fleet_node n LEFT JOIN fleet_placement f ON f.node_id = n.id
LEFT JOIN tenants_instance i ON i.id = f.instance_id LEFT JOIN tenants_plan p ON p.id = i.plan_id
WHERE n.standing <> 'retired' AND n.carries_instances GROUP BY n.name
"""
_ROUTES = """
SELECT n.name, CASE WHEN r.routed_at IS NULL THEN 'waiting' ELSE 'routed' END, count(*)
FROM fleet_edgeroute r JOIN fleet_node n ON n.id = r.edge_id GROUP BY 1, 2
"""
_ROLLOUTS = "SELECT state, count(*) FROM fleet_rollout GROUP BY state"


def families() -> Iterator[Family]:
    nodes = list(Node.objects.exclude(standing=Node.RETIRED).defer("key_sealed", "next_key_sealed"))
    names = {node.name for node in nodes}
    yield gauge(
        "roost_node_info",
        "1 for each node that is in use.",
        ("node", "standing", "edge", "connection"),
        [(node.name, node.standing, node.edge, node.connection, 1) for node in nodes],
    )
    said = [row for row in rows(_CONDITIONS) if row[0] in names]
    yield gauge(
        "roost_node_condition",
        "Whether each condition of each node is true.",
        ("node", "condition", "reason"),
        [(node, condition, reason, status == "True") for node, condition, status, reason in said],
    )
    yield from _facts(nodes)
    yield from _carried(nodes)
    yield gauge(
        "roost_edge_routes", "Routes by edge; waiting: the edge was not told yet.", ("edge", "state"), rows(_ROUTES)
    )
    yield gauge("roost_rollouts", "Rollouts by state.", ("state",), rows(_ROLLOUTS))


def _facts(nodes: list[Node]) -> Iterator[Family]:
    """What each node told of itself last; a node that did not say it has no sample."""
    for name, fact, scale, text in (
        ("roost_node_memory_bytes", "memory_mib", MIB, "Memory of the machine."),
        ("roost_node_memory_available_bytes", "memory_available_mib", MIB, "Memory that is available."),
        ("roost_node_disk_bytes", "disk_total_mib", MIB, "Size of the disk of the instances."),
        ("roost_node_disk_free_bytes", "disk_free_mib", MIB, "What of it is free."),
        ("roost_node_load", "load", 1, "Load average of one minute."),
        ("roost_node_cpus", "cpus", 1, "Processors."),
        ("roost_node_uptime_seconds", "uptime_s", 1, "Since its start."),
        ("roost_node_clock_offset_seconds", "clock_offset_s", 1, "How far its clock is ahead of the control plane's."),
    ):
        yield gauge(name, text, ("node",), _fact(nodes, fact, scale))
    yield gauge(
        "roost_node_facts_time_seconds",
        "When it told that, in seconds since 1970.",
        ("node",),
        [(node.name, node.facts_at.timestamp()) for node in nodes if node.facts_at is not None],
    )


def _fact(nodes: list[Node], fact: str, scale: int) -> list[tuple[Any, ...]]:
    found = [(node.name, node.facts.get(fact)) for node in nodes]
    return [(name, value * scale) for name, value in found if isinstance(value, int | float)]


def _carried(nodes: list[Node]) -> Iterator[Family]:
    capacity = [(node.name, node.capacity_mib * MIB) for node in nodes if node.carries_instances]
    carried = rows(_CARRIED)
    yield gauge("roost_node_capacity_bytes", "Memory of each node for all instances together.", ("node",), capacity)
    yield gauge(
        "roost_node_committed_bytes",
        "What the plans of the instances there may use together.",
        ("node",),
        [(name, memory * MIB) for name, _, memory, _, _ in carried],
    )
    yield gauge("roost_node_instances", "Instances on each node.", ("node",), [(name, n) for name, n, *_ in carried])
    yield gauge(
        "roost_node_instances_behind",
        "Instances of which the node has not yet applied what is wanted.",
        ("node",),
        [(row[0], row[3]) for row in carried],
    )
    yield gauge(
        "roost_node_instances_failed",
        "Instances that the node could not apply last time.",
        ("node",),
        [(row[0], row[4]) for row in carried],
    )
