"""Nodes: which there are, how they are, enrolling and changing them. All of it is the operator's."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import fleet_forms as forms
from controlplane.api.v1 import fleet_shapes as shapes
from controlplane.api.v1 import fleet_shown as shown
from controlplane.api.v1 import shapes as common
from controlplane.api.v1.base import View, created
from controlplane.api.v1.events import PARAMETERS, Events
from controlplane.api.v1.instances import open_plan
from controlplane.api.v1.schema import told
from controlplane.api.v1.shown import url
from controlplane.fleet import admission, blast, enrol
from controlplane.fleet.models import Node
from controlplane.reconcile.models import Event
from controlplane.values.errors import InvalidInput
from tenants.models import Organisation

READERS = ("read", "admin")


def node_named(name: str) -> Node:
    node = Node.objects.filter(name=name).first()
    if node is None:
        raise Http404
    return node


class NodeView(View):
    """What views of nodes share: the body of one."""

    operator_only = True

    def body(self, row: Node) -> dict[str, Any]:
        return shown.node(row, secrets=self.principal.may("admin"))


class Nodes(NodeView):
    scopes = {"GET": READERS, "POST": "admin"}

    @told("GET", shapes.NodeListed(many=True), tag="nodes", name="list_nodes", summary="List nodes and their room")
    def get(self, request: Request) -> Response:
        pages = self.pagination_class()
        page: list[Node] = list(pages.paginate_queryset(Node.objects.order_by("name"), request, self) or [])
        known = shown.known_of(page)
        return pages.get_paginated_response([shown.node_listed(row, known) for row in page])

    @told(
        "POST",
        shapes.Node,
        status=201,
        body=forms.NodeIn,
        tag="nodes",
        name="enrol_node",
        summary="Enrol a machine; put `authorized_key` on it and watch it become ready",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        row = enrol.enrol_node(principal=self.principal, **self.given(forms.NodeIn))
        return created(request, self.body(row), url("node", name=row.name))


class OneNode(NodeView):
    scopes = {"GET": READERS, "PATCH": "admin", "DELETE": "admin"}

    @told("GET", shapes.Node, tag="nodes", name="get_node", summary="Read a node: conditions, facts, keys, room")
    def get(self, request: Request, name: str) -> Response:
        return Response(self.body(node_named(name)))

    @told("PATCH", shapes.Node, body=forms.NodeChange, tag="nodes", name="change_node", summary="Change a node")
    def patch(self, request: Request, name: str) -> Response:
        node = node_named(name)
        changes = self.given(forms.NodeChange)
        return Response(self.body(enrol.update_node(node=node, changes=changes, principal=self.principal)))

    @told("DELETE", shapes.Node, tag="nodes", name="delete_node", summary="Retire a node that carries nothing")
    def delete(self, request: Request, name: str) -> Response:
        node = node_named(name)
        return Response(self.body(admission.set_standing(node=node, standing=Node.RETIRED, principal=self.principal)))


class Blast(NodeView):
    scopes = {"GET": READERS}

    @told("GET", shapes.BlastRadius, tag="nodes", name="get_blast_radius", summary="What goes if this node goes")
    def get(self, request: Request, name: str) -> Response:
        return Response(shown.blast_radius(blast.blast_radius(node_named(name))))


class NodeEvents(Events):
    """One node's history."""

    operator_only = True

    @told(
        "GET",
        common.Events,
        tag="events",
        name="follow_node_events",
        summary="Read, wait for, or stream a node's events",
        params=PARAMETERS,
    )
    def get(self, request: Request, name: str) -> Any:  # type: ignore[override]
        node_named(name)
        return self.follow(request, Event.objects.filter(kind="Node", object_id=name))


class Preview(View):
    operator_only = True
    scopes = {"POST": READERS}

    @told(
        "POST",
        shapes.Preview,
        body=forms.PreviewIn,
        tag="nodes",
        name="preview_placement",
        summary="Where an instance would go now, and why; nothing is placed",
    )
    def post(self, request: Request) -> Response:
        given = self.given(forms.PreviewIn)
        slug = given.get("organisation")
        organisation = Organisation.objects.filter(slug=slug).first() if slug else None
        if slug and organisation is None:
            raise InvalidInput("organisation", f"There is no organisation {slug}.", remedy="Leave it out.")
        found = blast.preview(
            organisation=organisation,
            plan=open_plan(given["plan"]),
            engine=given["engine"],
            labels=given.get("node_labels"),
        )
        return Response(shown.preview(found))
