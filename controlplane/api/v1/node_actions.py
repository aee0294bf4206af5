"""What can be done to a node. Each may be sent twice; what takes time answers 202 with the node to watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import fleet_forms, serializers
from controlplane.api.v1 import fleet_shapes as shapes
from controlplane.api.v1 import fleet_shown as shown
from controlplane.api.v1.base import created
from controlplane.api.v1.nodes import NodeView, node_named
from controlplane.api.v1.schema import Method, told
from controlplane.api.v1.shown import url
from controlplane.fleet import admission, enrol, rollouts
from controlplane.fleet.models import Node

TAG = "node actions"


class Action(NodeView):
    """Needs the operator's scope "admin"."""

    scopes = {"POST": "admin"}

    def node(self, name: str) -> Node:
        """The node; the body has to be empty."""
        node = node_named(name)
        self.given(serializers.Empty)
        return node

    def stand(self, node: Node, standing: str) -> Node:
        return admission.set_standing(node=node, standing=standing, principal=self.principal)

    def accepted(self, row: Node) -> Response:
        """Long work: the answer says where to watch it."""
        return created(self.request, self.body(row), url("node", name=row.name), status=202)


def does(
    name: str, summary: str, *, answer: Any = shapes.Node, status: int = 200, body: Any = None
) -> Callable[[Method], Method]:
    """Tells the schema of one action."""
    form: type[Serializer[Any]] = body or serializers.Empty
    return told("POST", answer, status=status, body=form, tag=TAG, name=name, summary=summary)


class Cordon(Action):
    @does("cordon_node", "Place nothing new there")
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        return Response(self.body(self.stand(self.node(name), Node.CORDONED)))


class Uncordon(Action):
    @does("uncordon_node", "Accept new instances again")
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        return Response(self.body(self.stand(self.node(name), Node.ACTIVE)))


class Drain(Action):
    @does("drain_node", "It is to be emptied; says what is on it", answer=shapes.Drained)
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        row = self.stand(self.node(name), Node.DRAINING)
        return Response(shown.drained(row, secrets=self.principal.may("admin")))


class Retire(Action):
    @does("retire_node", "Take it out of use; it has to be empty")
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        return Response(self.body(self.stand(self.node(name), Node.RETIRED)))


class AcceptHostKey(Action):
    @does("accept_host_key", "Believe it by a key that it shows", body=fleet_forms.HostKeyIn)
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        node = node_named(name)
        wanted = self.given(fleet_forms.HostKeyIn)["fingerprint"]
        return Response(self.body(enrol.accept_host_key(node=node, fingerprint=wanted, principal=self.principal)))


class RotateKey(Action):
    @does("rotate_node_key", "Replace Roost's key on it", status=202)
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        return self.accepted(enrol.rotate_node_key(node=self.node(name), principal=self.principal))


class Prepare(Action):
    @does("prepare_node", "Apply the roles once more", status=202)
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        return self.accepted(rollouts.ask_prepare(node=self.node(name), principal=self.principal))


class Refresh(Action):
    @does("refresh_node", "Look at it now", status=202)
    @idempotent
    def post(self, request: Request, name: str) -> Response:
        node = self.node(name)
        admission.refresh_node(node=node)
        return self.accepted(node)
