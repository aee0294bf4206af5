"""Lets a node take new instances, or stops it from doing so. What runs there is not touched."""

from __future__ import annotations

from django.db import transaction

from controlplane.fleet.models import Node
from controlplane.reconcile import history, watch
from tenants import audit
from tenants.models import Instance
from tenants.principal import Principal


@transaction.atomic
def set_accepting(*, node: Node, accepting: bool, principal: Principal) -> Node:
    """Nothing happens if it is so already. Instances that wait for a place are looked at at once."""
    node = Node.objects.select_for_update().get(pk=node.pk)
    if node.accepting == accepting:
        return node
    node.accepting = accepting
    node.save(update_fields=["accepting"])
    said = "accepts new instances" if accepting else "takes no new instances"
    audit.record(
        principal=principal,
        action="node.uncordon" if accepting else "node.cordon",
        kind="Node",
        object_id=node.name,
        summary=f"{node.name} {said}",
    )
    history.record("Node", node.name, "Uncordoned" if accepting else "Cordoned", message=f"By {principal.name}.")
    if accepting:
        for key in Instance.objects.filter(placement=None).values_list("key", flat=True):
            watch.touch("Instance", key)
    return node
