"""Says what a node is for: takes new instances, takes none, is to be emptied. What runs there is not touched."""

from __future__ import annotations

from django.db import transaction

from controlplane.fleet import edges, placing
from controlplane.fleet.models import Node
from controlplane.fleet.networks import check_networks
from controlplane.reconcile import history, watch
from controlplane.values.errors import Conflict
from tenants import audit
from tenants.principal import Principal

#: Standing -> (action in the audit, what is said of the node).
_SAID = {
    Node.ACTIVE: ("node.uncordon", "accepts new instances"),
    Node.CORDONED: ("node.cordon", "takes no new instances"),
    Node.DRAINING: ("node.drain", "is to be emptied"),
    Node.RETIRED: ("node.retire", "is out of use"),
}


@transaction.atomic
def set_standing(*, node: Node, standing: str, principal: Principal) -> Node:
    """Nothing happens if it is so already. Instances that wait for a place are looked at at once.

    ``Conflict`` if it is to be retired and still carries instances or leads to some.
    """
    node = Node.objects.select_for_update().get(pk=node.pk)
    if node.standing == standing:
        return node
    if standing == Node.RETIRED and node.placements.exists():
        raise Conflict(
            f"{node.name} still carries {node.placements.count()} instances.",
            remedy="Drain it first, and move or terminate what is there.",
        )
    if standing == Node.RETIRED and node.scratches.exists():
        raise Conflict(
            f"{node.name} still carries {node.scratches.count()} engines of restores or drills.",
            remedy="Wait until they are over; what a restore left there goes with the next full backup.",
        )
    if standing == Node.RETIRED and (alone := edges.left_alone_by(node)):
        raise Conflict(
            f"No other edge leads to {alone} instances.",
            remedy="Enrol another shared edge first, or give their nodes edges of their own.",
        )
    was_retired, node.standing = node.standing == Node.RETIRED, standing
    if was_retired:
        check_networks(node)  # another machine may have its addresses now
    node.save(update_fields=["standing"])
    action, said = _SAID[standing]
    audit.record(principal=principal, action=action, kind="Node", object_id=node.name, summary=f"{node.name} {said}")
    history.record("Node", node.name, standing.capitalize(), message=f"By {principal.name}.")
    watch.touch("Node", node.name)
    if node.edge != Node.NO_EDGE:
        edges.touch_led(node)  # DNS leaves out edges that are drained, and routes of retired ones go
    if standing == Node.ACTIVE:
        placing.wake_waiting()
    return node


def refresh_node(*, node: Node) -> None:
    """Have the node looked at now; nothing of it is changed."""
    watch.touch("Node", node.name)
