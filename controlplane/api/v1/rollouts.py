"""Rollouts: a change of many nodes, one at a time. Started, watched and called off here; the operator's."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import fleet_forms as forms
from controlplane.api.v1 import fleet_shapes as shapes
from controlplane.api.v1 import fleet_shown as shown
from controlplane.api.v1 import serializers
from controlplane.api.v1 import shapes as common
from controlplane.api.v1.base import View, created
from controlplane.api.v1.events import PARAMETERS, Events
from controlplane.api.v1.nodes import READERS
from controlplane.api.v1.schema import told
from controlplane.api.v1.shown import url
from controlplane.fleet import rollouts
from controlplane.fleet.models import Node, Rollout
from controlplane.reconcile.models import Event
from controlplane.values.errors import InvalidInput

TAG = "rollouts"


def rollout_numbered(text: str) -> Rollout:
    row = Rollout.objects.filter(pk=int(text)).first() if text.isascii() and text.isdigit() and len(text) < 19 else None
    if row is None:
        raise Http404
    return row


def nodes_named(field: str, names: list[str]) -> list[Node]:
    found = {node.name: node for node in Node.objects.filter(name__in=names)}
    for name in names:
        if name not in found:
            raise InvalidInput(field, f"There is no node {name}.", remedy="GET /api/v1/nodes/ lists them.")
    return list(found.values())


class Rollouts(View):
    operator_only = True
    scopes = {"GET": READERS, "POST": "admin"}

    @told("GET", shapes.Rollout(many=True), tag=TAG, name="list_rollouts", summary="List rollouts, the newest first")
    def get(self, request: Request) -> Response:
        return self.paged(Rollout.objects.order_by("-pk"), shown.rollout)

    @told(
        "POST",
        shapes.Rollout,
        status=202,
        body=forms.RolloutIn,
        tag=TAG,
        name="start_rollout",
        summary="Change nodes one by one, the canary first; a failure stops it",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.given(forms.RolloutIn)
        names, canary = given.get("nodes"), given.get("canary")
        row = rollouts.start_rollout(
            kind=given["kind"],
            nodes=None if names is None else nodes_named("nodes", names),
            canary=nodes_named("canary", [canary])[0] if canary else None,
            principal=self.principal,
        )
        return accepted(request, row)


class OneRollout(View):
    operator_only = True
    scopes = {"GET": READERS}

    @told("GET", shapes.Rollout, tag=TAG, name="get_rollout", summary="Read how far a rollout is")
    def get(self, request: Request, number: str) -> Response:
        return Response(shown.rollout(rollout_numbered(number)))


class CancelRollout(View):
    operator_only = True
    scopes = {"POST": "admin"}

    @told(
        "POST",
        shapes.Rollout,
        status=202,
        body=serializers.Empty,
        tag=TAG,
        name="cancel_rollout",
        summary="Go on to no other node",
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        row = rollout_numbered(number)
        self.given(serializers.Empty)
        return accepted(request, rollouts.cancel_rollout(rollout=row, principal=self.principal))


class RolloutEvents(Events):
    """One rollout's history."""

    operator_only = True

    @told(
        "GET",
        common.Events,
        tag="events",
        name="follow_rollout_events",
        summary="Read, wait for, or stream a rollout's events",
        params=PARAMETERS,
    )
    def get(self, request: Request, number: str) -> Any:  # type: ignore[override]
        row = rollout_numbered(number)
        return self.follow(request, Event.objects.filter(kind="Rollout", object_id=str(row.pk)))


def accepted(request: Request, row: Rollout) -> Response:
    return created(request, shown.rollout(row), url("rollout", number=row.pk), status=202)
