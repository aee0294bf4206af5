"""Scratches: where one is made, what its node should apply of it, and what was applied. What it is for is its owner's.

The row comes first and goes last, so that nothing of one is ever left on a node that nobody knows of.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q
from django.utils import timezone

from controlplane.fleet.models import Node, Placement, Scratch
from controlplane.fleet.placing import choose, memory_used_mib, refusal, wake_waiting
from controlplane.fleet.reservation import free_seat
from controlplane.fleet.services import APPLYING
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, hold
from controlplane.values.bundle import ABSENT
from controlplane.values.errors import Rejected, Unavailable
from tenants.models import Instance, instance_key


def of(lease: Lease, purpose: str = Scratch.SCRATCH) -> Scratch | None:
    """The one whose owner the lease is for."""
    rows = Scratch.objects.select_related("node", "instance__domain", "instance__plan", "instance__organisation")
    return rows.filter(owner_kind=lease.kind, owner_id=lease.object_id, purpose=purpose).first()


def make(instance: Instance, lease: Lease, *, engine: str, node: Node | None = None) -> Scratch:
    """Reserve an address and memory for a scratch of the instance; the one that was made before if there is one.

    ``node``: that one and no other; by default the instance's own, or any other if that is full. ``Unavailable`` if
    there is no room now, ``Rejected`` if there will be none.
    """
    present = of(lease)
    if present is not None:
        return present
    try:
        with transaction.atomic():
            hold(lease)
            nodes = list(Node.objects.select_for_update(no_key=True).order_by("pk"))
            chosen = _chosen(instance, nodes, node)
            seat = free_seat(chosen, last_address=_last_address(chosen))
            if seat is None:
                raise Unavailable(f"All addresses of {chosen.name} are taken.", remedy="Enrol another node.")
            made = Scratch.objects.create(
                key=_free_key(),
                instance=instance,
                node=chosen,
                engine=engine,
                address=seat.address,
                base_port=seat.base_port,
                memory_mib=instance.plan.memory_mib,
                owner_kind=lease.kind,
                owner_id=lease.object_id,
            )
    except IntegrityError as error:
        raise Unavailable("The address was taken meanwhile; another is tried by itself.") from error
    found = of(lease)
    assert found is not None, made  # made under this lease
    return found


def _chosen(instance: Instance, nodes: Sequence[Node], wanted: Node | None) -> Node:
    """An operator's choice has to have room; whether it takes new instances is the operator's affair."""
    plan = instance.plan
    choice = choose(instance.organisation, plan=plan, labels=instance.node_labels, nodes=nodes)
    at_home = Placement.objects.filter(instance=instance).values_list("node_id", flat=True).first()
    only = wanted.pk if wanted is not None else None
    for candidate in choice.candidates:
        if candidate.node.pk == (only or at_home):
            room = candidate.reason in ("", "Cordoned", "Draining", "Labels")
            if room and candidate.node.capacity_mib - memory_used_mib(candidate.node) >= plan.memory_mib:
                return candidate.node
            if only:
                raise Unavailable(f"{candidate.node.name}: {candidate.message or 'it has not the memory free.'}")
    if only:
        raise Rejected("There is no such node.")
    if choice.chosen is None:
        raise refusal(choice, plan, instance.node_labels)
    return choice.chosen


def _last_address(node: Node) -> str | None:
    """The highest that is taken there."""
    last = [rows.aggregate(last=Max("address"))["last"] for rows in (node.placements, node.scratches)]
    return max((one for one in last if one is not None), key=ipaddress.ip_address, default=None)


def _free_key() -> str:
    """One that no instance has: it names a unix user and a directory, as theirs do."""
    while True:
        key = instance_key()
        if not Instance.objects.filter(key=key).exists() and not Scratch.objects.filter(key=key).exists():
            return key


def want(scratch: Scratch, *, digest: str, state: str, lease: Lease) -> None:
    """Write what the node should apply; the node is touched if that is new."""
    if scratch.wanted_digest == digest and scratch.wanted_state == state:
        return
    fresh = {"wanted_digest": digest, "wanted_state": state, "error": "", "failures": 0, "retry_at": None}
    with transaction.atomic():
        hold(lease)
        Scratch.objects.filter(pk=scratch.pk).update(**fresh)
        watch.touch("Node", scratch.node.name)
    for name, value in fresh.items():
        setattr(scratch, name, value)


def release(scratch: Scratch, lease: Lease) -> None:
    """The node has removed it: address and memory are free again. ``Rejected`` before that."""
    with transaction.atomic():
        hold(lease)
        row = Scratch.objects.select_for_update().filter(pk=scratch.pk).first()
        if row is None:
            return
        gone = row.wanted_state == ABSENT and row.applied_digest == row.wanted_digest
        if not gone and (row.wanted_digest or row.applied_digest):
            raise Rejected(f"The scratch {row.key} is still on its node.")
        row.delete()
        wake_waiting()


def stale(node: Node, *, limit: int) -> list[Scratch]:
    """Those of the node that wait for it, as ``services.stale_placements``."""
    rows = (
        node.scratches.exclude(wanted_digest="")
        .exclude(applied_digest=F("wanted_digest"))
        .filter(Q(retry_at__isnull=True) | Q(retry_at__lte=timezone.now()))
        .select_related("instance__domain", "instance__plan", "instance__organisation", "node")
        .order_by(F("applied_at").asc(nulls_first=True), "pk")
    )
    return list(rows[:limit])


def mark_applying(scratches: Sequence[Scratch], lease: Lease) -> None:
    """As ``services.mark_applying``: a run begins, and until it ends nobody knows what these have."""
    known = Scratch.objects.filter(pk__in=[row.pk for row in scratches]).exclude(applied_digest__in=["", APPLYING])
    with transaction.atomic():
        hold(lease)
        known.update(applied_digest=APPLYING)


def touch_owners_of(instance: Instance) -> int:
    """Have whoever has scratches of an instance look at them, since it is to go; how many there are."""
    owners = list(Scratch.objects.filter(instance=instance).values_list("owner_kind", "owner_id"))
    for kind, object_id in owners:
        watch.touch(kind, object_id)
    return len(owners)
