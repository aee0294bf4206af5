"""The routes of each instance at each of its edges, and each edge's table as a whole.

The rows (``EdgeRoute``) are the intent; an instance's pass brings its own to its edges, an edge's own pass compares
the whole table, so that an edge that was away gets what it missed. A row is written before the edge and deleted after
it; whoever compares reads the edge first and the rows then, and so never takes a new route for a stranger's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from django.db.models import Exists, OuterRef
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.edge.base import Backend, EdgeDriver, Synced
from controlplane.fleet.edges import (
    addresses_of,
    edges_of,
    is_new,
    left_alone_by,
    outgoing,
    sources_of,
    touch_instances,
    touch_led,
)
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.fleet.services import target_of
from controlplane.reconcile import history
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.names import DomainName
from tenants.models import Instance

__all__ = [
    "addresses_of",
    "edges_of",
    "left_alone_by",
    "outgoing",
    "route",
    "serving",
    "sources_of",
    "sync_edge",
    "touch_led",
]

#: ``EdgeRoute.base_port`` of a route that is to be taken away: the row stays until its edge has forgotten it.
WITHDRAWN = 0
_SAID = ("hosts", "address", "base_port", "proxy65_port")


def driver_of(edge: Node) -> EdgeDriver:
    return wiring.edge_driver(target_of(edge), socket=edge.edge_socket, map_dir=edge.edge_map_dir)


def rows_of(instance: Instance) -> list[EdgeRoute]:
    """All of its rows, with their edges and whether those are out of reach (``is_away``); one query."""
    away = Condition.objects.filter(
        kind="Node", object_id=OuterRef("edge__name"), type__in=("Reachable", "HostKeyTrusted"), status="False"
    )
    rows = EdgeRoute.objects.filter(instance=instance).select_related("edge").annotate(edge_is_away=Exists(away))
    return list(rows.order_by("edge__name"))


def is_away(row: EdgeRoute) -> bool:
    """True if its edge is not reached, as that node's own pass found."""
    return bool(getattr(row, "edge_is_away", False))


def is_left_out(row: EdgeRoute) -> bool:
    """True if nobody waits for this edge: it is away, or not in use yet."""
    return is_away(row) or is_new(row.edge)


def is_gone(edge: Node) -> bool:
    """True if it is no edge any more; nobody waits for it to forget its table."""
    return edge.edge == Node.NO_EDGE or edge.standing == Node.RETIRED


def route(
    instance: Instance,
    hosts: Sequence[DomainName],
    placement: Placement,
    lease: Lease,
    *,
    edges: Sequence[Node],
    rows: Sequence[EdgeRoute],
) -> list[EdgeRoute]:
    """Its rows as they should be now: one per edge that leads to it, the others withdrawn. ``rows``: ``rows_of``.

    Nothing is asked or written if they are so. ``Rejected`` if an edge could not reach the address.
    """
    said = {
        "hosts": [host.ascii for host in hosts],
        "address": placement.address,
        "base_port": placement.base_port,
        "proxy65_port": placement.proxy65_port,
    }
    known = {row.edge_id: row for row in rows}
    fresh = []
    for edge in edges:
        _check_reach(placement, edge)
        row = known.pop(edge.pk, None)
        if row is None or any(getattr(row, name) != value for name, value in said.items()):
            fresh.append(EdgeRoute(instance=instance, edge=edge, **said))
    stale = [row.pk for row in known.values() if row.base_port != WITHDRAWN]
    if not fresh and not stale:
        return list(rows)
    with holding(lease):
        if fresh:
            EdgeRoute.objects.bulk_create(
                fresh, update_conflicts=True, unique_fields=["instance", "edge"], update_fields=_SAID
            )
        if stale:
            EdgeRoute.objects.filter(pk__in=stale).update(base_port=WITHDRAWN)
    return rows_of(instance)


def _check_reach(placement: Placement, edge: Node) -> None:
    """On another machine a loopback address is somebody else's: nothing is forwarded there."""
    near = edge.pk == placement.node_id or edge.connection == placement.node.connection == "local"
    if not near and (placement.address == "::1" or placement.address.startswith("127.")):
        raise Rejected(
            f"The edge {edge.name} cannot reach {placement.address} on {placement.node.name}.",
            remedy="Give the node an edge of its own, or an instance network that the shared edges reach.",
        )


def is_routed(row: EdgeRoute) -> bool:
    """True if the edge routes all names and the proxy65 port as the row says, at this moment."""
    found, address = driver_of(row.edge).leads([DomainName(h) for h in row.hosts], row.proxy65_port)
    backend = Backend(row.address, row.base_port)
    return address == row.address and all(found.get(host) == backend for host in row.hosts)


def publish(rows: Sequence[EdgeRoute]) -> None:
    """Bring rows to their edges; safe to run twice. One that fails does not keep the others from theirs."""

    def one(row: EdgeRoute) -> None:
        hosts = [DomainName(h) for h in row.hosts]
        driver_of(row.edge).publish(hosts, Backend(row.address, row.base_port), row.proxy65_port)
        row.routed_at = timezone.now()

    try:
        _each(rows, one)
    finally:
        done = [row for row in rows if row.routed_at is not None]
        EdgeRoute.objects.filter(pk__in=[row.pk for row in done]).update(routed_at=timezone.now())


def remove_routes(instance: Instance, lease: Lease) -> list[EdgeRoute]:
    """Take the instance out of its edges, each row after its edge; the rows of edges that are not reached stay.

    Connections that are open end with the process.
    """
    rows = rows_of(instance)
    if any(row.base_port != WITHDRAWN for row in rows):
        with holding(lease):
            EdgeRoute.objects.filter(instance=instance).update(base_port=WITHDRAWN)
    return withdraw(rows)


def withdraw(rows: Sequence[EdgeRoute]) -> list[EdgeRoute]:
    """Take rows that are marked as withdrawn from their edges, and delete them; those of edges that are away stay."""

    def one(row: EdgeRoute) -> None:
        if not is_away(row) and row.edge.standing != Node.RETIRED and not _never_had_it(row):
            # One that is no edge any more may have no HAProxy: then there is nothing to forget.
            with suppress(RoostError) if is_gone(row.edge) else nullcontext():
                driver_of(row.edge).withdraw([DomainName(h) for h in row.hosts], row.proxy65_port)
        EdgeRoute.objects.filter(pk=row.pk, base_port=WITHDRAWN).delete()

    _each([row for row in rows if is_removable(row)], one)
    return [row for row in rows if not is_removable(row)]


def is_removable(row: EdgeRoute) -> bool:
    """True if a withdrawn row can go now: its edge is reached, or has nothing to forget, or is none any more."""
    return is_gone(row.edge) or _never_had_it(row) or not is_left_out(row)


def _never_had_it(row: EdgeRoute) -> bool:
    return is_new(row.edge) and row.routed_at is None


def _each(rows: Iterable[EdgeRoute], do: Callable[[EdgeRoute], None]) -> None:
    """Try all; then raise for those that failed, by name. ``Unavailable`` if waiting may help any of them."""
    failed: list[tuple[EdgeRoute, RoostError]] = []
    for row in rows:
        try:
            do(row)
        except RoostError as error:
            failed.append((row, error))
    if not failed:
        return
    message = " ".join(f"{row.edge.name}: {error.message}" for row, error in failed)
    remedy = next((error.remedy for _, error in failed if error.remedy), "")
    if any(isinstance(error, Unavailable) for _, error in failed):
        raise Unavailable(message, remedy=remedy)
    raise Rejected(message, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Table:
    """What an edge should have, by its rows."""

    rows: Sequence[EdgeRoute]
    routes: dict[str, Backend]
    ports: dict[int, str]


def _table_of(edge: Node) -> Table:
    rows = list(EdgeRoute.objects.filter(edge=edge).select_related("instance"))
    led = [row for row in rows if row.base_port != WITHDRAWN]
    return Table(
        rows,
        {host: Backend(row.address, row.base_port) for row in led for host in row.hosts},
        {row.proxy65_port: row.address for row in led},
    )


def serving(node: Node, lease: Lease) -> Finding:
    """The condition EdgeServing of a node with an edge: its HAProxy answers and has exactly the rows' routes.

    One question; what differs is corrected. ``lease``: the node's. Raises ``LeaseLost`` only.
    """
    try:
        driver = driver_of(node)
        health = driver.health()
        table = _table_of(node)
        if health.digest == driver.digest(table.routes, table.ports):
            _settle(node, lease, table, Synced())
        else:
            sync_edge(node, lease)
            table = _table_of(node)
    except Unavailable as error:
        return Finding("EdgeServing", "False", "EdgeSilent", error.message, error.remedy)
    except RoostError as error:
        return Finding("EdgeServing", "False", "EdgeRejected", error.message, error.remedy, stalled=True)
    led = sum(row.base_port != WITHDRAWN for row in table.rows)
    message = f"HAProxy {health.version} leads {len(table.routes)} names to {led} instances."
    return Finding("EdgeServing", "True", "Serving", message)


def sync_edge(node: Node, lease: Lease) -> Synced:
    """Bring this edge's whole table to what the rows say: add, change, and remove what is nobody's.

    ``lease``: the node's. Instances that it gives their first route here are looked at again, for DNS.
    """
    driver = driver_of(node)
    seen = driver.table()
    table = _table_of(node)
    synced = driver.sync(seen, table.routes, table.ports)
    _settle(node, lease, table, synced)
    return synced


def _settle(node: Node, lease: Lease, table: Table, synced: Synced) -> None:
    """The edge has what the rows said: note it on those that waited for it, and drop those that it should forget."""
    first = [row for row in table.rows if row.routed_at is None and row.base_port != WITHDRAWN]
    over = [row for row in table.rows if row.base_port == WITHDRAWN]
    if not first and not over and not synced:
        return
    with holding(lease):
        EdgeRoute.objects.filter(pk__in=[row.pk for row in first], routed_at=None).update(routed_at=timezone.now())
        EdgeRoute.objects.filter(pk__in=[row.pk for row in over], base_port=WITHDRAWN).delete()
        touch_instances({row.instance.key for row in (*first, *over)})
        if synced:
            told = f"{synced.added} added, {synced.changed} changed, {synced.removed} removed."
            history.record("Node", node.name, "EdgeCorrected", reason="TableDiffered", message=told)
