"""Prepared: the node's machine has what the roles of this release say. A part of the node's own pass.

It runs the roles when the machine never was prepared or when somebody asked for it; a release of Roost with newer
roles only makes it say so, since many machines are changed one at a time, by a rollout. The launcher prepares the
machine that it runs on itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.node.base import Prepared
from controlplane.fleet import rollouts, routes
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.provisioning import machine
from controlplane.provisioning.renewal import Renewal
from controlplane.reconcile import conditions, faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.models import Event
from controlplane.reconcile.step import Finding
from controlplane.values.errors import Rejected, RoostError, Unavailable

log = logging.getLogger(__name__)

CONDITION = "Prepared"
LEASE_S = 180.0
#: A bare machine with a slow mirror takes its time; the lease is renewed meanwhile.
TIMEOUT_S = 1200.0
#: After a failure it is tried again by itself, later each time; asked for, at once.
RETRY_S, RETRY_CAP_S = 30.0, 1800.0
FAILED, DONE = "PrepareFailed", "Prepared"


def prepared(node: Node, lease: Lease, *, order: Sequence[str] = ()) -> Finding:
    """Prepare the node if that is due, and say how it stands. ``order``: the conditions of the node's kind.

    Raises ``LeaseLost``; the run is cancelled then. Takes minutes if it prepares.
    """
    if node.connection == "local":
        return Finding(CONDITION, "True", "Launcher", "The launcher prepares this machine.")
    try:
        groups, variables = meaning(node)
    except Rejected as error:
        return Finding(CONDITION, "False", "Rejected", error.message, error.remedy, stalled=True)
    digest = machine.digest_of(groups, variables)
    if node.prepared and node.prepare_done >= node.prepare_wanted:
        if node.prepared == digest:
            return Finding(CONDITION, "True", "AsWanted", _since(node))
        remedy = "Start a rollout of kind «prepare», or have this node prepared."
        return Finding(CONDITION, "True", "Outdated", f"{_since(node)} The roles or its row changed since.", remedy)
    failure = _waits(node)
    if failure is not None:
        return failure
    before = "Waits for a run of the roles that has begun."
    status = "True" if node.prepared else "False"
    conditions.write(lease, [Finding(CONDITION, status, "Preparing", before)], generation=0, order=order)
    return _run(node, lease, groups, variables, digest)


def meaning(node: Node) -> tuple[tuple[str, ...], dict[str, object]]:
    """Groups and variables of the roles for this node, as its row says. ``Rejected`` if that does not fit."""
    edges = routes.edges_of(node) if node.carries_instances else []
    low, high = settings.ROOST["PROXY65_PORTS"]
    return machine.groups_of(node), machine.variables_of(node, edges=edges, proxy65_ports=(low, high))


def _since(node: Node) -> str:
    return f"Prepared {node.prepared_at:%Y-%m-%d %H:%M} UTC." if node.prepared_at else "Prepared."


def _waits(node: Node) -> Finding | None:
    """What to say while a failed preparation waits for its next try; None if it is to be tried now."""
    known = [FAILED, DONE, rollouts.ASKED]
    events = Event.objects.filter(kind="Node", object_id=node.name, type__in=known).order_by("-txid", "-id")
    failures = []
    for event in events[:12]:
        if event.type != FAILED:
            break
        failures.append(event)
    if not failures:
        return None
    wait_s = min(RETRY_CAP_S, RETRY_S * 2 ** (len(failures) - 1))
    left_s = wait_s - (timezone.now() - failures[0].at).total_seconds()
    if left_s <= 0:
        return None
    # When it is tried again is no part of the message, which would be another one in each pass.
    return _failed(failures[0].message)


def _failed(message: str) -> Finding:
    remedy = "It is tried again by itself, within half an hour at most; asked for, at once."
    return Finding(CONDITION, "False", "Failed", message, remedy)


def _run(node: Node, lease: Lease, groups: Sequence[str], variables: dict[str, object], digest: str) -> Finding:
    wanted = node.prepare_wanted
    renewal = Renewal(lease, lease_s=LEASE_S)
    faults.point("before-prepare")
    try:
        done = wiring.node_driver().prepare(
            target_of(node),
            groups=groups,
            variables=variables,
            fence=lease.fence,
            timeout_s=TIMEOUT_S,
            cancelled=renewal,
            upgrade=rollouts.upgrades(node),
        )
    except RoostError as error:
        if renewal.lost:
            raise LeaseLost(f"{node.name} was taken over while it was prepared.") from error
        if isinstance(error, Unavailable):
            return Finding(CONDITION, "False", "Unavailable", error.message, error.remedy)
        log.warning("%s: %s", node.name, error)
        with leases.holding(lease):
            history.record("Node", node.name, FAILED, message=error.message)
            rollouts.note_failed(node, wanted=wanted, message=error.message)
        return _failed(error.message)
    faults.point("after-prepare")
    _store(node, lease, done, digest, wanted)
    return Finding(CONDITION, "True", "AsWanted", _since(node))


def _store(node: Node, lease: Lease, done: Prepared, digest: str, wanted: int) -> None:
    first = not node.prepared
    now = timezone.now()
    with leases.holding(lease):
        # First of all, as the rollout's pass locks its row before a node's, too.
        rollouts.note_prepared(node, done, wanted=wanted)
        Node.objects.filter(pk=node.pk).update(prepared=digest, prepared_at=now, prepare_done=wanted)
        history.record("Node", node.name, DONE, message=f"{done.changed} tasks changed something.")
        if first and node.edge == Node.SHARED_EDGE:
            _open_for(node)
    node.prepared, node.prepared_at, node.prepare_done = digest, now, wanted


def _open_for(edge: Node) -> None:
    """The nodes that a new shared edge leads to have to let its private address in."""
    led = Node.objects.carrying().exclude(connection="local").exclude(edge=Node.OWN_EDGE).exclude(pk=edge.pk)
    names = list(led.exclude(prepared="").values_list("name", flat=True))
    Node.objects.filter(name__in=names).update(prepare_wanted=F("prepare_wanted") + 1)
    for name in names:
        watch.touch("Node", name)
