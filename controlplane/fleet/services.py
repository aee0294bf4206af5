"""Enrols nodes, places instances, and keeps the edge's routes. Never looks into zones or certificates."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, Sum
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.edge.base import Backend
from controlplane.drivers.node.base import NodeTarget
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, hold
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from tenants.errors import QuotaExceeded
from tenants.models import Instance, Plan


def target_of(node: Node) -> NodeTarget:
    """The node as its driver wants it."""
    return NodeTarget(
        name=node.name,
        connection=node.connection,
        runtime=node.runtime,
        address=node.address,
        state_dir=node.state_dir,
        runtime_dir=node.runtime_dir,
        supervisor_socket=node.supervisor_socket,
    )


def memory_used_mib(node: Node) -> int:
    """Sum of the plans' memory of all instances placed there."""
    used = node.placements.aggregate(used=Sum("instance__plan__memory_mib"))["used"]
    return int(used or 0)


def check_room(instance: Instance, plan: Plan) -> None:
    """``QuotaExceeded`` if the instance's node has not the memory that ``plan`` wants more; one unplaced has room.

    Call it in the transaction that changes the plan: the node stays locked, so no other takes that memory.
    """
    node = Node.objects.select_for_update(of=("self",)).filter(placements__instance=instance).first()
    if node is None:
        return
    present = Instance.objects.values_list("plan__memory_mib", flat=True).get(pk=instance.pk)
    more, free = plan.memory_mib - present, node.memory_mib - memory_used_mib(node)
    if more > max(0, free):
        raise QuotaExceeded(
            "plan",
            f"The plan {plan.slug} takes {more} MiB more memory, and the instance's machine has not as much free.",
            remedy="Choose a plan with less memory, or ask the provider for room.",
        )


def check_rooms(plan: Plan, memory_mib: int) -> None:
    """The same for all instances on a plan whose memory is to change, node by node; in that transaction, too."""
    more = memory_mib - plan.memory_mib
    if more <= 0:
        return
    for node in Node.objects.select_for_update().order_by("pk"):
        wanted = more * node.placements.filter(instance__plan=plan).count()
        free = node.memory_mib - memory_used_mib(node)
        if wanted > max(0, free):
            raise QuotaExceeded(
                "memory_mib",
                f"The instances on {node.name} would take {wanted} MiB more, and {max(0, free)} MiB are free.",
                remedy="Give the node more memory, or make a new plan and put instances on it one by one.",
            )


def place(instance: Instance, lease: Lease) -> Placement:
    """Choose a node with room and reserve an address and ports on it; the one chosen before if there is one.

    ``Rejected`` if no node has room: the remedy says what to add.
    """
    placement = Placement.objects.select_related("node").filter(instance=instance).first()
    if placement is not None:
        return placement
    wanted = instance.plan.memory_mib
    with transaction.atomic():
        hold(lease)
        # The nodes are locked in one order, so two placements at once cannot take the same address.
        nodes = list(Node.objects.select_for_update().filter(accepting=True).order_by("pk"))
        free = {node.pk: node.memory_mib - memory_used_mib(node) for node in nodes}
        fitting = sorted((n for n in nodes if free[n.pk] >= wanted), key=lambda n: (-free[n.pk], n.pk))
        for node in fitting:
            address = next(_free_addresses(node), None)
            if address is None:
                continue
            why = f"{node.name} had the most memory free: {free[node.pk]} MiB, {wanted} MiB wanted."
            try:
                return Placement.objects.create(
                    instance=instance,
                    node=node,
                    address=address,
                    base_port=node.base_port,
                    proxy65_port=_free_proxy65_port(),
                    explanation=why,
                )
            except IntegrityError as error:
                raise Unavailable(f"The address {address} was taken meanwhile; it is tried again by itself.") from error
    if not nodes:
        raise Rejected("No node accepts instances.", remedy="Enrol a node, or let one accept instances again.")
    raise Rejected(f"No node has {wanted} MiB of memory and an address free.", remedy="Add a node or remove instances.")


def _free_addresses(node: Node) -> Iterator[str]:
    """Host addresses of the node's instance network that no instance has, ascending."""
    taken = set(node.placements.values_list("address", flat=True))
    network = ipaddress.ip_network(node.instance_network)
    for host in network.hosts() if network.num_addresses > 1 else iter([network.network_address]):
        if str(host) not in taken:
            yield str(host)


def _free_proxy65_port() -> int:
    low, high = settings.ROOST["PROXY65_PORTS"]
    taken = set(Placement.objects.values_list("proxy65_port", flat=True))
    for port in range(low, high + 1):
        if port not in taken:
            return port
    raise Rejected(f"All proxy65 ports {low}-{high} are taken.", remedy="Widen ROOST_PROXY65_PORTS and the edge's.")


def want(placement: Placement, *, digest: str, state: str, lease: Lease) -> None:
    """Write what the node should apply; the node is touched if that is new. When to try again is the node's affair."""
    if placement.wanted_digest == digest and placement.wanted_state == state:
        return
    fresh = {"wanted_digest": digest, "wanted_state": state, "error": "", "failures": 0, "retry_at": None}
    with transaction.atomic():
        hold(lease)
        Placement.objects.filter(pk=placement.pk).update(**fresh)
        watch.touch("Node", placement.node.name)
    for name, value in fresh.items():
        setattr(placement, name, value)


def mark_loaded(placement: Placement, lease: Lease) -> None:
    """The engine has read what the node applied last."""
    with transaction.atomic():
        hold(lease)
        Placement.objects.filter(pk=placement.pk, applied_digest=placement.applied_digest).update(
            loaded_digest=placement.applied_digest
        )
    placement.loaded_digest = placement.applied_digest


def apply_again(placement: Placement, lease: Lease) -> None:
    """The world is not what the node said it applied (a process is gone): have it applied once more."""
    with transaction.atomic():
        hold(lease)
        Placement.objects.filter(pk=placement.pk).update(applied_digest="")
        watch.touch("Node", placement.node.name)
    placement.applied_digest = ""


def stale_placements(node: Node, *, limit: int) -> list[Placement]:
    """Placements whose applied state differs from the wanted one and whose retry time has come, the first ``limit``.

    Those that never were applied, or longest ago, come first: nobody is passed over by others that change often.
    """
    rows = (
        node.placements.filter(~Q(wanted_digest=""))
        .filter(~Q(applied_digest=F("wanted_digest")))
        .filter(Q(retry_at__isnull=True) | Q(retry_at__lte=timezone.now()))
        .select_related("instance__domain", "instance__plan", "instance__organisation", "node")
        .order_by(F("applied_at").asc(nulls_first=True), "pk")
    )
    return list(rows[:limit])


def release_placement(instance: Instance) -> None:
    """Give address and ports back; only after the node has removed the instance."""
    Placement.objects.filter(instance=instance).delete()


def route(instance: Instance, hosts: list[DomainName], placement: Placement, lease: Lease) -> EdgeRoute:
    """The intent row of the instance's route, as it should be now."""
    wanted = {
        "hosts": [host.ascii for host in hosts],
        "address": placement.address,
        "base_port": placement.base_port,
        "proxy65_port": placement.proxy65_port,
    }
    row = EdgeRoute.objects.filter(instance=instance).first()
    if row is not None and all(getattr(row, k) == v for k, v in wanted.items()):
        return row
    with transaction.atomic():
        hold(lease)
        row, _ = EdgeRoute.objects.update_or_create(instance=instance, defaults={**wanted, "routed_at": None})
    return row


def has_route(instance: Instance) -> bool:
    """True if the edge may still lead to the instance."""
    return EdgeRoute.objects.filter(instance=instance).exists()


def is_routed(row: EdgeRoute) -> bool:
    """True if the edge routes all names and the proxy65 port as the row says, at this moment."""
    routes, address = wiring.edge_driver().lookup([DomainName(h) for h in row.hosts], row.proxy65_port)
    backend = Backend(row.address, row.base_port)
    return address == row.address and all(routes.get(host) == backend for host in row.hosts)


def publish_route(row: EdgeRoute) -> None:
    """Write the row into the edge; safe to run twice."""
    driver = wiring.edge_driver()
    driver.set_routes([DomainName(h) for h in row.hosts], Backend(row.address, row.base_port))
    driver.set_tcp_port(row.proxy65_port, row.address)
    EdgeRoute.objects.filter(pk=row.pk).update(routed_at=timezone.now())


def remove_route(instance: Instance) -> None:
    """Take the instance out of the edge, then the row away. Connections that are open end with the process."""
    row = EdgeRoute.objects.filter(instance=instance).first()
    if row is None:
        return
    driver = wiring.edge_driver()
    driver.delete_routes([DomainName(h) for h in row.hosts])
    driver.delete_tcp_port(row.proxy65_port)
    row.delete()
