"""One pass over a node: is it the right one, is it reached, prepared, converged, does its edge serve.

It comes every twenty seconds, so that a node that is lost is known within a minute, and one that is back gets what it
missed without anyone's doing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from controlplane import wiring
from controlplane.fleet import routes
from controlplane.fleet.edges import touch_instances
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.provisioning.nodes import converge, reach, rotation
from controlplane.provisioning.nodes.reach import Look
from controlplane.provisioning.prepare import prepared
from controlplane.reconcile import conditions
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding
from controlplane.reconcile.watch import Next
from controlplane.values.errors import RoostError
from tenants.models import Instance

LOOK_S = 20.0
RETIRED_S = 3600.0
ORDER = ("HostKeyTrusted", "Reachable", "Prepared", "Converged", "EdgeServing", "Accepting", "Ready")


def reconcile(lease: Lease) -> Next | None:
    """Look, and bring about what is wanted of it. None: the node is gone."""
    node = Node.objects.filter(name=lease.object_id).first()
    if node is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    known = conditions.of(lease.kind, lease.object_id)
    if node.standing == Node.RETIRED:
        return _retired(node, lease, known)
    look = reach.look(node, lease, known)
    if look.ok:
        trouble = rotation.rotate(node, lease)
        if trouble:
            look = Look(look.trusted, Finding("Reachable", "True", "KeyNotRotated", trouble))
    _tell(node, lease, look, known)
    findings = [look.trusted, look.reachable]
    again_s, failed = LOOK_S * random.uniform(0.8, 1.2), False
    if look.ok:
        is_prepared = prepared(node, lease, order=ORDER)
        findings.append(is_prepared)
        if node.prepared or is_prepared.status == "True":
            run = converge.converge(node, lease)
            findings.append(run.finding)
            again_s, failed = min(again_s, run.again_s), run.failed
        else:
            findings.append(Finding("Converged", "Unknown", "Waiting", "Waits for Prepared."))
        if node.edge != Node.NO_EDGE:
            findings.append(routes.serving(node, lease))
    else:
        findings += _unreached(node, known)
    findings.append(_accepting(node))
    _write(node, lease, [*findings, _ready(findings)], known)
    return Next(again_s, failed)


def _tell(node: Node, lease: Lease, look: Look, known: Mapping[str, Condition]) -> None:
    """Write what may take minutes to be followed by the rest; if it turned, wake all whom it concerns."""
    turned = _turned(look.trusted, known) or _turned(look.reachable, known)
    findings = [look.trusted, look.reachable]
    if not turned:
        conditions.write(lease, findings, generation=0, order=ORDER, known=known)
        return
    with leases.holding(lease):
        conditions.write(lease, findings, generation=0, order=ORDER, known=known)
        touch_instances(node.placements.values_list("instance__key", flat=True))
        if node.edge != Node.NO_EDGE:
            routes.touch_led(node)


def _turned(finding: Finding, known: Mapping[str, Condition]) -> bool:
    """Whether instances can be told something new; that a node is well from the start is nothing new."""
    before = known[finding.type].status if finding.type in known else "True"
    return (before == "False") != (finding.status == "False")


def _unreached(node: Node, known: Mapping[str, Condition]) -> list[Finding]:
    """What cannot be known now; ``Prepared`` stays as it was."""
    said = "The node is not reached."
    before = known.get("Prepared")
    findings = [
        Finding("Prepared", before.status, before.reason, before.message, before.remedy, stalled=before.stalled)
        if before is not None and before.reason != "Preparing"
        else Finding("Prepared", "Unknown", "Waiting", "Waits for Reachable."),
        Finding("Converged", "Unknown", "Unreachable", said),
    ]
    if node.edge != Node.NO_EDGE:
        findings.append(Finding("EdgeServing", "Unknown", "Unreachable", said))
    return findings


def _accepting(node: Node) -> Finding:
    if node.standing == Node.CORDONED:
        return Finding("Accepting", "False", "Cordoned", "No new instances are placed here.")
    if node.standing == Node.DRAINING:
        left = node.placements.count()
        return Finding("Accepting", "False", "Draining", f"{left} instances are left.")
    if not node.carries_instances:
        return Finding("Accepting", "False", "EdgeOnly", "It is an edge and carries no instances.")
    return Finding("Accepting", "True", "Accepting", "New instances may be placed here.")


def _ready(findings: list[Finding]) -> Finding:
    """All but ``Accepting``; else the first that is not, and why."""
    for finding in findings:
        if finding.status != "True" and finding.type != "Accepting":
            return Finding(
                "Ready",
                "False",
                finding.reason,
                f"{finding.type}: {finding.message}",
                finding.remedy,
                stalled=finding.stalled,
            )
    return Finding("Ready", "True", "Ready", "It does all that it should.")


def _write(node: Node, lease: Lease, findings: list[Finding], known: Mapping[str, Condition]) -> None:
    """All conditions; one that this node has no more goes. Whoever waits for a place is told of a new one."""
    was_ready = "Ready" in known and known["Ready"].status == "True"
    gone = known.keys() - {finding.type for finding in findings}
    becomes_ready = findings[-1].status == "True" and not was_ready
    if not gone and not becomes_ready:
        conditions.write(lease, findings, generation=0, order=ORDER)
        return
    with leases.holding(lease):
        if gone:
            Condition.objects.filter(kind=lease.kind, object_id=lease.object_id, type__in=gone).delete()
        conditions.write(lease, findings, generation=0, order=ORDER)
        if becomes_ready and node.accepting:
            touch_instances(Instance.objects.filter(placement=None).values_list("key", flat=True))


def _retired(node: Node, lease: Lease, known: Mapping[str, Condition]) -> Next:
    """It is left alone; the connection to it is not kept."""
    try:
        wiring.line(target_of(node)).close()
    except RoostError:
        pass  # a key that does not open any more has no connection either
    said = "It is out of use."
    _write(node, lease, [Finding(name, "False", "Retired", said) for name in ("Accepting", "Ready")], known)
    return Next(RETIRED_S)
