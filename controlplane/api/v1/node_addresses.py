"""Which public addresses a node has, by whom, and whether a change is carried out. The operator's."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework import serializers as s
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.v1.fleet_forms import MAX_ADDRESSES, Flag
from controlplane.api.v1.nodes import READERS, NodeView, node_named
from controlplane.api.v1.schema import told
from controlplane.api.v1.serializers import Strict
from controlplane.api.v1.shapes import Shape
from controlplane.fleet.models import Node
from controlplane.monitoring import addresses, incidents, moving

TAG = "nodes"


class Sighting(Shape):
    source = s.CharField(help_text="interface, stun:HOST:PORT or echo:URL")  # type: ignore[assignment]
    family = s.ChoiceField([(4, "IPv4"), (6, "IPv6")])
    addresses = s.ListField(child=s.CharField())
    at = s.DateTimeField()
    error = s.CharField(allow_blank=True)


class Addresses(Shape):
    public_addresses = s.ListField(child=s.CharField(), help_text="what DNS says of its edge")
    ttl_s = s.IntegerField(help_text="so long at most others remember an address that is gone")
    follows = s.BooleanField(help_text="a change that the sources agree upon is carried out")
    pinned = s.ListField(child=s.CharField(), help_text="they win over all sources; a family without one is followed")
    message = s.CharField(allow_blank=True, help_text="how the last look was judged")
    looked_at = s.DateTimeField(allow_null=True)
    incident = s.CharField(allow_null=True, help_text="key of the change that is being carried out")
    sightings = Sighting(many=True)


class AddressesChange(Strict):
    follows = Flag(required=False)
    pinned = s.ListField(
        child=s.CharField(max_length=45), max_length=MAX_ADDRESSES, required=False, help_text="empty: none"
    )


def shown(node: Node) -> dict[str, Any]:
    row = addresses.watch_of(node)
    incident = incidents.open_for(moving.subject_of(node.name))
    return {
        "public_addresses": node.public_addresses,
        "ttl_s": settings.ROOST["RECORD_TTL_S"],
        "follows": row.follows,
        "pinned": [address for family in sorted(row.pinned) for address in row.pinned[family]],
        "message": row.message,
        "looked_at": row.looked_at,
        "incident": incident.key if incident is not None else None,
        "sightings": [
            {name: getattr(one, name) for name in ("source", "family", "addresses", "at", "error")}
            for one in node.sightings.order_by("source", "family")
        ],
    }


class NodeAddresses(NodeView):
    scopes = {"GET": READERS, "PATCH": "admin"}

    @told("GET", Addresses, tag=TAG, name="get_node_addresses", summary="Read which addresses a node has, and by whom")
    def get(self, request: Request, name: str) -> Response:
        return Response(shown(node_named(name)))

    @told(
        "PATCH",
        Addresses,
        body=AddressesChange,
        tag=TAG,
        name="change_node_addresses",
        summary="Pin addresses, or switch following on or off; the node is looked at at once",
    )
    def patch(self, request: Request, name: str) -> Response:
        node = node_named(name)
        addresses.set_watch(node=node, principal=self.principal, **self.given(AddressesChange))
        return Response(shown(node))
