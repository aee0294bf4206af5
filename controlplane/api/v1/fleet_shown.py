"""Nodes, placements and rollouts as bodies. Private keys never; role variables only to those who may change them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Count, Sum

from controlplane.api.v1.shown import url
from controlplane.drivers.node import hostkeys
from controlplane.fleet import blast, keys
from controlplane.fleet.blast import BlastRadius
from controlplane.fleet.models import Node, Placement, Rollout
from controlplane.fleet.placing import SPREAD, Candidate
from controlplane.reconcile.models import Condition

_PLAIN = (
    *("name", "connection", "runtime", "address", "ssh_port", "ssh_user", "carries_instances", "edge"),
    *("public_addresses", "private_address", "instance_network", "base_port", "labels", "standing", "accepting"),
    "created_at",
)
_PLACES = (
    *("root", "state_dir", "runtime_dir", "supervisor_socket", "edge_socket", "edge_map_dir", "control_group"),
    *("facts", "facts_at", "prepared_at"),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is asked once for all nodes of a page: node -> (instances, memory), node -> its conditions in order."""

    use: Mapping[int, tuple[int, int]]
    conditions: Mapping[str, Sequence[Condition]]


def known_of(rows: Sequence[Node]) -> Known:
    """Two queries, however many nodes."""
    use = Placement.objects.filter(node__in=rows).order_by().values("node_id")
    use = use.annotate(count=Count("pk"), memory=Sum("instance__plan__memory_mib"))
    found: dict[str, list[Condition]] = {}
    for condition in Condition.objects.filter(kind="Node", object_id__in=[row.name for row in rows]):
        found.setdefault(condition.object_id, []).append(condition)
    return Known({row["node_id"]: (row["count"], row["memory"]) for row in use}, found)


def node_listed(row: Node, known: Known) -> dict[str, Any]:
    instances, memory = known.use.get(row.pk, (0, 0))
    status = {condition.type: condition for condition in known.conditions.get(row.name, ())}
    reachable = status.get("Reachable")
    ready = status.get("Ready")
    name = row.name
    return {
        **{field: getattr(row, field) for field in _PLAIN},
        "ready": ready is not None and ready.status == "True",
        "reachable": None if reachable is None or reachable.status == "Unknown" else reachable.status == "True",
        "summary": ready.message if ready is not None else "No pass has looked at it yet.",
        "memory_mib": row.capacity_mib,
        "memory_used_mib": memory,
        "instances": instances,
        "links": {
            "self": url("node", name=name),
            "events": url("node-events", name=name),
            "blast_radius": url("node-blast-radius", name=name),
            "audit": f"{url('audit')}?kind=Node&object_id={name}",
        },
    }


def node(row: Node, *, secrets: bool) -> dict[str, Any]:
    """All of it. ``secrets``: with the values of the roles' variables."""
    known = known_of([row])
    line = keys.authorized_line(row)
    counted = blast_counts(blast.blast_radius(row))
    return {
        **node_listed(row, known),
        **{field: getattr(row, field) for field in _PLACES},
        "variables": row.variables if secrets else dict.fromkeys(row.variables),
        "conditions": [condition(one) for one in known.conditions.get(row.name, ())],
        "host_keys": [host_key(one) for one in row.host_keys],
        "seen_host_keys": [host_key(one) for one in row.seen_host_keys],
        "authorized_key": line,
        "install_command": install_command(line) if line else "",
        "key_rotations": {"asked": row.rotate_key, "done": row.rotated_key},
        "preparations": {"asked": row.prepare_wanted, "done": row.prepare_done},
        "blast_radius": counted,
    }


def condition(row: Condition) -> dict[str, Any]:
    fields = ("type", "status", "reason", "message", "remedy", "stalled", "observed_generation", "last_transition")
    return {name: getattr(row, name) for name in fields}


def host_key(text: str) -> dict[str, str]:
    """A pinned or a seen key; of one that was given by its fingerprint there is no more yet."""
    if hostkeys.is_fingerprint(text):
        return {"type": "", "fingerprint": text, "line": ""}
    return {"type": text.split()[0], "fingerprint": hostkeys.fingerprint(text), "line": text}


def install_command(line: str) -> str:
    """One line for a shell on the node that puts ``line`` into authorized_keys, once."""
    said, file = shlex.quote(line), "~/.ssh/authorized_keys"
    return f"umask 077; mkdir -p ~/.ssh; grep -qxF -e {said} {file} 2>/dev/null || printf '%s\\n' {said} >> {file}"


def blast_counts(found: BlastRadius) -> dict[str, int]:
    body = blast_radius(found)
    del body["node"]
    return {name: len(value) if isinstance(value, list) else value for name, value in body.items()}


def blast_radius(found: BlastRadius) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in asdict(found).items()}


def drained(row: Node, *, secrets: bool) -> dict[str, Any]:
    found = blast.blast_radius(row)
    message = f"{row.name} takes no new instances."
    if found.instances:
        message += (
            f" The {found.instances} that are there stay and run: this release moves none of them to other nodes, "
        )
        message += "so terminate them or leave them. Retire the node when it is empty."
    else:
        message += " None are there: it can be retired."
    if found.led:
        message += f" DNS leaves out its edge wherever another leads to an instance; {found.only_here} have no other."
    return {"message": message, "blast_radius": blast_radius(found), "node": node(row, secrets=secrets)}


def preview(found: blast.Preview) -> dict[str, Any]:
    return {
        "node": found.node.name if found.node is not None else None,
        "explanation": found.explanation,
        "remedy": found.remedy,
        "candidates": [candidate(one) for one in found.candidates],
        "before": blast_radius(found.before) if found.before is not None else None,
        "after": blast_radius(found.after) if found.after is not None else None,
    }


def candidate(found: Candidate) -> dict[str, Any]:
    return {
        "node": found.node.name,
        "fits": not found.reason,
        "reason": found.reason,
        "message": found.message,
        "labels": found.node.labels,
        "memory_free_mib": found.free_mib,
        "instances": found.instances,
        "beside": dict(zip((*SPREAD, "node"), found.beside, strict=True)),
    }


def rollout(row: Rollout) -> dict[str, Any]:
    return {
        "id": row.pk,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason,
        "nodes": [_part(name, row.results.get(name, {})) for name in row.nodes],
        "created_by": row.created_by,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "links": {
            "self": url("rollout", number=row.pk),
            "events": url("rollout-events", number=row.pk),
            "nodes": url("nodes"),
        },
    }


def _part(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    versions = entry.get("versions", {})
    return {
        "name": name,
        "state": entry.get("state", "waiting"),
        "message": entry.get("error") or entry.get("message", ""),
        "started_at": entry.get("started_at"),
        "finished_at": entry.get("finished_at"),
        "versions_before": versions.get("before", {}),
        "versions_after": versions.get("after", {}),
        "tasks_changed": entry.get("tasks"),
    }
