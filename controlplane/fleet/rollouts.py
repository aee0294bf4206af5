"""Rollouts: one change of many nodes, one at a time. Who starts and calls them off, and how far each node is.

A rollout wishes: it cordons a node and asks for its preparation. The node's own pass, which holds the node's lease,
prepares it and notes the result here; ``provisioning.rollout`` watches, judges and goes on to the next node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from controlplane.drivers.node.base import Prepared
from controlplane.fleet import admission
from controlplane.fleet.models import Node, Rollout
from controlplane.reconcile import history, watch
from controlplane.values.errors import Conflict, InvalidInput
from tenants import audit
from tenants.principal import SYSTEM, Principal

KINDS = ("upgrade", "prepare")
#: The event of a preparation that somebody asked for.
ASKED = "PrepareAsked"
#: States of a node within a rollout.
WAITING, RUNNING, DONE, FAILED, LEFT = "waiting", "running", "done", "failed", "left"


@transaction.atomic
def start_rollout(
    *, kind: str, nodes: Sequence[Node] | None = None, canary: Node | None = None, principal: Principal
) -> Rollout:
    """Begin with the canary (the first by name without one), then the others by name. ``nodes`` None: all there are.

    ``InvalidInput`` for nodes that Roost does not prepare; ``Conflict`` while another rollout runs.
    """
    if kind not in KINDS:
        raise InvalidInput("kind", f"There is no rollout of kind {kind!r}.", remedy=f"Use one of: {', '.join(KINDS)}.")
    chosen = _chosen(nodes)
    names = sorted(node.name for node in chosen)
    if canary is not None:
        if canary.name not in names:
            raise InvalidInput("canary", f"{canary.name} is not among the nodes of the rollout.")
        names.remove(canary.name)
        names.insert(0, canary.name)
    results = {name: {"state": WAITING} for name in names}
    try:
        with transaction.atomic():
            rollout = Rollout.objects.create(kind=kind, nodes=names, results=results, created_by=principal.name)
    except IntegrityError as error:
        raise Conflict("Another rollout runs.", remedy="Wait for its end, or call it off.") from error
    audit.record(
        principal=principal,
        action="rollout.start",
        kind="Rollout",
        object_id=str(rollout.pk),
        summary=f"Rollout of kind {kind} over {len(names)} nodes, {names[0]} first",
    )
    history.record("Rollout", str(rollout.pk), "Started", message=f"{', '.join(names)}; by {principal.name}.")
    watch.touch("Rollout", rollout.pk)
    return rollout


def _chosen(nodes: Sequence[Node] | None) -> list[Node]:
    if nodes is None:
        found = list(Node.objects.exclude(connection="local").exclude(standing=Node.RETIRED).exclude(prepared=""))
        if not found:
            raise InvalidInput("nodes", "There is no node that Roost has prepared.", remedy="Enrol one.")
        return found
    if not nodes:
        raise InvalidInput("nodes", "Name at least one node.")
    for node in nodes:
        if node.connection == "local":
            raise InvalidInput("nodes", f"{node.name} is prepared by the launcher.", remedy="Leave it out.")
        if node.standing == Node.RETIRED:
            raise InvalidInput("nodes", f"{node.name} is retired.", remedy="Leave it out.")
    return list({node.pk: node for node in nodes}.values())


@transaction.atomic
def cancel_rollout(*, rollout: Rollout, principal: Principal) -> Rollout:
    """Go on to no other node. A preparation under way comes to its end; the node takes new instances again."""
    row = Rollout.objects.select_for_update().get(pk=rollout.pk)
    if row.state != Rollout.RUNNING:
        raise Conflict(f"The rollout {row.pk} does not run any more.")
    for name in row.nodes:
        if row.results[name]["state"] == RUNNING:
            uncordon(row, name)
        if row.results[name]["state"] in (RUNNING, WAITING):
            row.results[name]["state"] = LEFT
    close(row, Rollout.CANCELLED, f"Called off by {principal.name}.")
    audit.record(
        principal=principal,
        action="rollout.cancel",
        kind="Rollout",
        object_id=str(row.pk),
        summary=f"Rollout {row.pk} called off",
    )
    watch.touch("Rollout", row.pk)
    return row


@transaction.atomic
def ask_prepare(*, node: Node, principal: Principal) -> Node:
    """Have the roles applied to the node once more, now."""
    if node.connection == "local":
        raise InvalidInput("node", f"{node.name} is prepared by the launcher.", remedy="Run ./roost up.")
    audit.record(
        principal=principal,
        action="node.prepare",
        kind="Node",
        object_id=node.name,
        summary=f"Preparation of {node.name} asked for",
    )
    _ask(node, f"By {principal.name}.")
    node.refresh_from_db()
    return node


def _ask(node: Node, message: str) -> None:
    Node.objects.filter(pk=node.pk).update(prepare_wanted=F("prepare_wanted") + 1)
    history.record("Node", node.name, ASKED, message=message)
    watch.touch("Node", node.name)


# What the rollout's pass does to one node. Each is called in a transaction with the rollout's row locked.


def begin(row: Rollout, node: Node, *, ready: Sequence[str]) -> None:
    """Cordon the node, note what it runs and who was ready on it, and ask for its preparation."""
    entry: dict[str, Any] = {
        "state": RUNNING,
        "message": "It is prepared.",
        "started_at": timezone.now().isoformat(),
        "versions": {"before": dict(node.facts.get("versions", {})), "after": {}},
        "ready": list(ready),
        "cordoned": node.standing == Node.ACTIVE,
        "prepare": node.prepare_wanted + 1,
    }
    if entry["cordoned"]:
        admission.set_standing(node=node, standing=Node.CORDONED, principal=SYSTEM)
    _ask(node, f"By rollout {row.pk}.")
    _put(row, node.name, entry)


def change(row: Rollout, name: str, **values: Any) -> None:
    """Note something of a node."""
    _put(row, name, {**row.results[name], **values})


def finish(row: Rollout, name: str, *, state: str, message: str) -> None:
    """The node is done, or failed. A failed one stays cordoned: an operator looks first."""
    if state == DONE:
        uncordon(row, name)
    elif row.results[name].get("cordoned"):
        message = f"{message} It takes no new instances until somebody uncordons it."
    change(row, name, state=state, message=message, finished_at=timezone.now().isoformat())
    history.record("Rollout", str(row.pk), f"Node{state.capitalize()}", message=f"{name}: {message}")


def uncordon(row: Rollout, name: str) -> None:
    """Take back what the rollout did to the node's standing, unless somebody has changed it meanwhile."""
    if not row.results[name].get("cordoned"):
        return
    node = Node.objects.filter(name=name, standing=Node.CORDONED).first()
    if node is not None:
        admission.set_standing(node=node, standing=Node.ACTIVE, principal=SYSTEM)
    change(row, name, cordoned=False)


def close(row: Rollout, state: str, reason: str = "") -> None:
    """The rollout has ended."""
    row.state, row.reason, row.finished_at = state, reason, timezone.now()
    row.save(update_fields=["state", "reason", "finished_at", "results"])
    history.record("Rollout", str(row.pk), state.capitalize(), message=reason)


def _put(row: Rollout, name: str, entry: Mapping[str, Any]) -> None:
    row.results = {**row.results, name: dict(entry)}
    row.save(update_fields=["results"])


# What the node's pass asks and tells.


def upgrades(node: Node) -> bool:
    """True if the node's preparation is to bring newer packages: a rollout of that kind is at it."""
    row = Rollout.objects.filter(state=Rollout.RUNNING, kind="upgrade").first()
    return row is not None and _is_prepared_for(row, node)


def note_prepared(node: Node, done: Prepared, *, wanted: int) -> None:
    """Tell the rollout that is at this node, if one is. In the transaction that stores the preparation."""
    row = Rollout.objects.select_for_update().filter(state=Rollout.RUNNING).first()
    if row is None or not _is_prepared_for(row, node) or wanted < row.results[node.name]["prepare"]:
        return
    # A run that was killed may have upgraded already: what was there before the rollout began is what counts.
    before = row.results[node.name]["versions"]["before"] or dict(done.before)
    change(
        row,
        node.name,
        prepared=True,
        tasks=done.changed,
        versions={"before": before, "after": dict(done.versions)},
    )
    watch.touch("Rollout", row.pk)


def note_failed(node: Node, *, wanted: int, message: str) -> None:
    """The same for a preparation that failed."""
    row = Rollout.objects.select_for_update().filter(state=Rollout.RUNNING).first()
    if row is not None and _is_prepared_for(row, node) and wanted >= row.results[node.name]["prepare"]:
        change(row, node.name, error=message)
        watch.touch("Rollout", row.pk)


def _is_prepared_for(row: Rollout, node: Node) -> bool:
    entry = row.results.get(node.name, {})
    return entry.get("state") == RUNNING and not entry.get("prepared")
