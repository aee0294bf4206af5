"""One pass over a rollout: looks how far the node is whose turn it is, and goes on, waits or stops.

All it knows is in the rollout's row, so a pass that was killed is made up for by the next one. The node's own pass
prepares it and restarts engines; whether tenants are well afterwards is said by walks that began after the change.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from django.db.models import F
from django.utils import timezone

from controlplane.fleet import rollouts
from controlplane.fleet import services as fleet
from controlplane.fleet.models import EdgeRoute, Node, Placement, Rollout
from controlplane.provisioning.models import Walk
from controlplane.reconcile import conditions, faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding
from controlplane.reconcile.watch import Next
from tenants.models import Instance

#: From a node's turn until all on it is well again; then the rollout stops.
LIMIT_S = 900.0
POLL_S = 5.0
ENDED_S = 7 * 86400.0
#: Of the instances on other machines that an edge leads to, so many are walked through as well.
SAMPLE = 10
ENGINES = ("prosody", "ejabberd")
#: Conditions of a node that have to be true after the change; those that it has not are not asked for.
NODE_CONDITIONS = ("HostKeyTrusted", "Reachable", "Prepared", "Converged", "EdgeServing")


def reconcile(lease: Lease) -> Next | None:
    """None: the rollout is gone."""
    row = Rollout.objects.filter(pk=lease.object_id).first()
    if row is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    again_s = _step(lease) if row.state == Rollout.RUNNING else ENDED_S
    row.refresh_from_db()
    conditions.write(lease, _findings(row), generation=0)
    return Next(again_s)


def _step(lease: Lease) -> float:
    """One step of the node whose turn it is; seconds until the next one."""
    with leases.holding(lease):
        row = Rollout.objects.select_for_update().get(pk=lease.object_id)
        if row.state != Rollout.RUNNING:
            return ENDED_S
        name = _turn(row)
        if name is None:
            rollouts.close(row, Rollout.DONE)
            return ENDED_S
        node = Node.objects.filter(name=name).exclude(standing=Node.RETIRED).first()
        if node is None:
            return _stop(row, name, "The node is gone or retired.")
        entry = row.results[name]
        if entry["state"] == rollouts.WAITING:
            rollouts.begin(row, node, ready=_ready(_concerned(node)))
            again_s = POLL_S
        elif entry.get("error"):
            again_s = _stop(row, name, entry["error"])
        elif entry.get("changed_at"):
            again_s = _judge(row, node, entry)
        elif entry.get("prepared"):
            _verify(row, node, entry)
            again_s = POLL_S
        else:
            again_s = _in_time(row, node, entry, _what_it_waits_for(node))
    faults.point("rollout-step")
    return again_s


def _turn(row: Rollout) -> str | None:
    """The first node that is not done."""
    return next((name for name in row.nodes if row.results[name]["state"] != rollouts.DONE), None)


def _what_it_waits_for(node: Node) -> str:
    """What the node says of itself while it is not prepared yet."""
    known = conditions.of("Node", node.name)
    for type_ in NODE_CONDITIONS:
        if type_ in known and known[type_].status == "False":
            return f"{type_} is False: {known[type_].message}"
    return "It is prepared."


def _verify(row: Rollout, node: Node, entry: dict[str, Any]) -> None:
    """The node is prepared: restart the engines whose package is another one, and have everybody walked through."""
    before, after = entry["versions"]["before"], entry["versions"]["after"]
    moved = [engine for engine in ENGINES if before.get(engine) and before.get(engine) != after.get(engine)]
    restarted = fleet.restart_engines(node, moved)
    keys = sorted(set(entry["ready"]) & set(_concerned(node)))
    Instance.objects.filter(key__in=keys).update(verify_generation=F("verify_generation") + 1)
    for key in keys:
        watch.touch("Instance", key)
    watch.touch("Node", node.name)
    message = f"{restarted} engines restart; waits for walks through {len(keys)} instances."
    rollouts.change(row, node.name, changed_at=timezone.now().isoformat(), message=message)
    changes = [
        f"{name} {before.get(name, 'none')} -> {after[name]}" for name in after if before.get(name) != after[name]
    ]
    history.record(
        "Rollout",
        str(row.pk),
        "NodePrepared",
        message=f"{node.name}: {', '.join(changes) or 'the same versions'}. {message}",
    )


def _judge(row: Rollout, node: Node, entry: dict[str, Any]) -> float:
    """Done if the node and all that were ready on it before are well since the change."""
    since = datetime.datetime.fromisoformat(entry["changed_at"])
    wanting = _unwell(node) or _unproven(node, entry["ready"], since)
    if wanting:
        return _in_time(row, node, entry, wanting)
    left_out = Placement.objects.filter(node=node).exclude(instance__key__in=entry["ready"]).count()
    said = f"All well since {timezone.now():%H:%M:%S} UTC."
    if left_out:
        said += f" {left_out} instances were not ready before and not waited for."
    rollouts.finish(row, node.name, state=rollouts.DONE, message=said)
    return 0.0


def _in_time(row: Rollout, node: Node, entry: dict[str, Any], wanting: str) -> float:
    """Wait on, or stop when the node's time is over."""
    started = datetime.datetime.fromisoformat(entry["started_at"])
    if (timezone.now() - started).total_seconds() > LIMIT_S:
        return _stop(row, node.name, f"Not well again within {LIMIT_S / 60:.0f} minutes. {wanting}")
    if entry["message"] != wanting:
        rollouts.change(row, node.name, message=wanting)
    return POLL_S


def _stop(row: Rollout, name: str, message: str) -> float:
    rollouts.finish(row, name, state=rollouts.FAILED, message=message)
    rollouts.close(row, Rollout.STOPPED, f"{name}: {message}")
    return ENDED_S


def _concerned(node: Node) -> list[str]:
    """Keys of the instances that the node carries, and of some of those that its edge leads to elsewhere."""
    here = Instance.objects.filter(
        placement__node=node, placement__wanted_state="running", suspended_at=None, deletion_requested_at=None
    )
    keys = list(here.order_by("key").values_list("key", flat=True))
    if node.edge == Node.SHARED_EDGE:
        routed = EdgeRoute.objects.filter(edge=node).exclude(instance__placement__node=node)
        routed = routed.filter(instance__suspended_at=None, instance__deletion_requested_at=None)
        keys += list(routed.order_by("instance__key").values_list("instance__key", flat=True)[:SAMPLE])
    return keys


def _ready(keys: Sequence[str]) -> list[str]:
    rows = Condition.objects.filter(kind="Instance", type="Ready", status="True", object_id__in=keys)
    return sorted(rows.values_list("object_id", flat=True))


def _unwell(node: Node) -> str:
    """What is not well with the node itself; empty if all is."""
    known = conditions.of("Node", node.name)
    for type_ in NODE_CONDITIONS:
        if type_ in known and known[type_].status != "True":
            return f"{type_} is {known[type_].status}: {known[type_].message}"
    return ""


def _unproven(node: Node, ready: Sequence[str], since: datetime.datetime) -> str:
    """Who of those that were ready has no walk since the change or since its restart; empty if all have."""
    keys = set(ready) & set(_concerned(node))
    proven = set()
    walks = Walk.objects.filter(instance__key__in=keys, ok=True, at__gt=since).exclude(instance__placement=None)
    for walk in walks.select_related("instance__placement"):
        placement = walk.instance.placement
        applied = placement.applied_digest == placement.wanted_digest
        if applied and (placement.applied_at is None or walk.at > placement.applied_at):
            proven.add(walk.instance.key)
    open_ = sorted(keys - (proven & set(_ready(sorted(keys)))))
    if not open_:
        return ""
    return f"{len(open_)} of {len(keys)} instances are not Ready with a walk since the change, {open_[0]} first."


def _findings(row: Rollout) -> list[Finding]:
    done = sum(1 for entry in row.results.values() if entry["state"] == rollouts.DONE)
    count = f"{done} of {len(row.nodes)} nodes are done."
    if row.state == Rollout.RUNNING:
        name = _turn(row)
        now = f"{name}: {row.results[name].get('message', 'its turn')}" if name else ""
        return [
            Finding("Progressing", "True", "InProgress", f"{count} {now}".strip()),
            Finding("Succeeded", "Unknown", "InProgress", count),
        ]
    if row.state == Rollout.DONE:
        return [Finding("Progressing", "False", "Done", count), Finding("Succeeded", "True", "Done", count)]
    if row.state == Rollout.CANCELLED:
        return [
            Finding("Progressing", "False", "Cancelled", row.reason),
            Finding("Succeeded", "False", "Cancelled", f"{count} {row.reason}"),
        ]
    remedy = "Look at that node, put it right and uncordon it; then start another rollout. The others are as they were."
    return [
        Finding("Progressing", "False", "Stopped", row.reason),
        Finding("Succeeded", "False", "Stopped", f"{count} {row.reason}", remedy, stalled=True),
    ]
