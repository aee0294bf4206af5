"""Which edges lead to which instances, under which addresses, and whose word engines take. An edge is a node with
HAProxy.

A node with an own edge leads to its own instances; all others share the shared edges, so that moving an instance
between nodes changes no record in DNS. What an edge's table has is ``routes``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.reconcile import watch

#: So many instances a second are looked at again when an edge changes: a pass is cheap, two thousand at once are not.
TOUCHED_PER_S = 40
#: Seconds that edges which no longer lead to an instance go on forwarding for those who still know their addresses.
OVERLAP_S = 90.0


def edges_of(node: Node) -> list[Node]:
    """The edges that lead to the instances of this node, by name."""
    if node.edge == Node.OWN_EDGE:
        return [node]
    return list(Node.objects.edges().filter(edge=Node.SHARED_EDGE))


def is_new(edge: Node) -> bool:
    """True for a machine that was never prepared: it gets routes, and nobody waits for it."""
    return edge.connection != "local" and not edge.prepared


def outgoing(edges: Sequence[Node], rows: Iterable[EdgeRoute]) -> list[Node]:
    """Edges that led to the instance and do not any more, but forward still: ``edges`` have to take over first.

    They have when one of them has had the route for ``OVERLAP_S``. A retired edge forwards no more. ``rows``: the
    instance's, with their edges.
    """
    leading = {edge.pk for edge in edges}
    since = timezone.now() - timedelta(seconds=OVERLAP_S)
    some = [(row, row.routed_at) for row in rows if row.base_port and row.routed_at is not None]
    if any(row.edge_id in leading and at <= since for row, at in some):
        return []
    return [row.edge for row, _ in some if row.edge_id not in leading and row.edge.standing != Node.RETIRED]


def addresses_of(edges: Sequence[Node], rows: Iterable[EdgeRoute] = ()) -> tuple[str, ...]:
    """Public addresses of these edges, as DNS should have them for the instance with these routes.

    Those that have the route; before any of them has it, those that still have (``outgoing``), or else those that
    will. Edges that are drained are named only if there are no others.
    """
    rows = list(rows)
    routed = {row.edge_id for row in rows if row.routed_at is not None and row.base_port}
    staying = [edge for edge in edges if edge.standing not in (Node.DRAINING, Node.RETIRED)]
    chosen = (
        [edge for edge in staying if edge.pk in routed]
        or [edge for edge in edges if edge.pk in routed and edge.standing != Node.RETIRED]
        or outgoing(edges, rows)
        or [edge for edge in staying if not is_new(edge)]
        or staying
        or list(edges)
    )
    found = tuple(dict.fromkeys(address for edge in chosen for address in edge.public_addresses))
    if not found and chosen and all(edge.connection == "local" for edge in chosen):
        return tuple(settings.ROOST["EDGE_ADDRESSES"])
    return found


def sources_of(placement: Placement, edges: Sequence[Node]) -> tuple[str, ...]:
    """Addresses that these edges connect to the instance from: whose PROXY headers are believed.

    HAProxy connects from the edge's private address (``EdgeConfig.sources``). Without one of the family, an edge
    reaches its own machine's IPv4 addresses from the very address that it connects to, and loopback from its first.
    """
    found = list(settings.ROOST["EDGE_SOURCES"]) if placement.node.connection == "local" else []
    found += [edge.private_address for edge in edges if edge.private_address]
    at = ipaddress.ip_address(placement.address)
    own = placement.node.private_address
    if placement.node in edges and (own is None or ipaddress.ip_address(own).version != at.version):
        found.append({4: "127.0.0.1", 6: "::1"}[at.version] if at.is_loopback else str(at))
    return tuple(dict.fromkeys(found))


def touch_led(edge: Node, *, spread_s: float | None = None) -> int:
    """Have every instance looked at that this edge leads to, or has a route of; how many.

    In the caller's transaction. They become due over ``spread_s`` seconds, by default so that workers keep up.
    """
    keys = {*led_by(edge), *EdgeRoute.objects.filter(edge=edge).values_list("instance__key", flat=True)}
    touch_instances(keys, spread_s=spread_s)
    return len(keys)


def touch_instances(keys: Iterable[str], *, spread_s: float | None = None) -> None:
    """Have these instances looked at, over a time that grows with their number; one statement."""
    some = sorted(keys)
    watch.touch_all("Instance", some, spread_s=len(some) / TOUCHED_PER_S if spread_s is None else spread_s)


def left_alone_by(edge: Node) -> int:
    """How many instances no other edge leads to if this one goes."""
    if edge.edge == Node.NO_EDGE:
        return 0
    others = Node.objects.edges().filter(edge=Node.SHARED_EDGE).exclude(pk=edge.pk)
    if edge.edge == Node.SHARED_EDGE and others.exists():
        return 0
    return len(led_by(edge))


def led_by(edge: Node) -> list[str]:
    """Keys of the instances that this edge leads to."""
    if edge.edge == Node.NO_EDGE:
        return []
    placements = Placement.objects.order_by("pk")
    if edge.edge == Node.OWN_EDGE:
        placements = placements.filter(node=edge)
    else:
        placements = placements.exclude(node__edge=Node.OWN_EDGE)
    return list(placements.values_list("instance__key", flat=True))
