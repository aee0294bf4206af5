"""Planned work: the operator plans it, everybody whom it concerns reads it."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from django.http import Http404
from django.utils import timezone
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.permissions import HasScope
from controlplane.api.v1 import incident_shapes as shapes
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.api.v1.shown import url
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.monitoring import maintenance as services
from controlplane.monitoring.models import Maintenance
from controlplane.values.errors import InvalidInput
from tenants.models import Instance, Organisation
from tenants.principal import Principal

TAG = "maintenance"
STATES = ("planned", "running", "over", "cancelled")


def visible_to(principal: Principal) -> QuerySet[Maintenance]:
    """The operator sees all, an organisation what covers everything or something of its own."""
    rows = Maintenance.objects.select_related("node", "organisation", "instance__organisation")
    if principal.is_operator:
        return rows
    slugs = [slug for slug, scopes in principal.organisations.items() if "read" in scopes]
    mine = {"instance__organisation__slug__in": slugs}
    nodes = Q(node__in=Placement.objects.filter(**mine).values("node"))
    nodes |= Q(node__in=EdgeRoute.objects.filter(**mine).values("edge"))
    own = Q(organisation__slug__in=slugs) | Q(**mine)
    return rows.filter(Q(node=None, organisation=None, instance=None) | own | nodes)


class MaintenanceView(View):
    """What views of maintenances share. Planning is the operator's."""

    def show(self, row: Maintenance) -> dict[str, Any]:
        now = timezone.now()
        state = "planned" if row.starts_at > now else "running" if row.ends_at > now else "over"
        state = "cancelled" if row.cancelled_at is not None else state
        scope = services.scope_of(row)
        return shapes.maintenance(row, state=state, scope=scope, operator=self.principal.is_operator)

    def row(self, number: str) -> Maintenance:
        found = None
        if number.isascii() and number.isdigit() and len(number) < 19:
            found = visible_to(self.principal).filter(pk=int(number)).first()
        if found is None:
            raise Http404
        return found

    def operators(self) -> None:
        if not self.principal.is_operator:
            raise PermissionDenied(HasScope.message)


class Maintenances(MaintenanceView):
    scopes = {"GET": "read", "POST": "admin"}

    @told(
        "GET",
        shapes.Maintenance(many=True),
        tag=TAG,
        name="list_maintenances",
        summary="List planned work that concerns you, the newest first",
        params=(query("state", enum=list(STATES)),),
    )
    def get(self, request: Request) -> Response:
        rows = visible_to(self.principal)
        state = request.query_params.get("state")
        if state is not None:
            now = timezone.now()
            wanted = {
                "planned": Q(cancelled_at=None, starts_at__gt=now),
                "running": Q(cancelled_at=None, starts_at__lte=now, ends_at__gt=now),
                "over": Q(cancelled_at=None, ends_at__lte=now),
                "cancelled": Q(cancelled_at__isnull=False),
            }.get(state)
            if wanted is None:
                raise InvalidInput("state", "There is no such state.", remedy=f"Use one of: {', '.join(STATES)}.")
            rows = rows.filter(wanted)
        return self.paged(rows, self.show)

    @told(
        "POST",
        shapes.Maintenance,
        status=201,
        body=shapes.MaintenanceIn,
        tag=TAG,
        name="plan_maintenance",
        summary="Announce planned work; no incident is opened for what it covers",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        self.operators()
        given = self.given(shapes.MaintenanceIn)
        node = _named(Node, "node", "name", given.pop("node", None))
        organisation = _named(Organisation, "organisation", "slug", given.pop("organisation", None))
        instance = _named(Instance, "instance", "key", given.pop("instance", None))
        row = services.plan(node=node, organisation=organisation, instance=instance, principal=self.principal, **given)
        return created(request, self.show(row), url("maintenance", number=str(row.pk)))


class OneMaintenance(MaintenanceView):
    scopes = {"GET": "read", "PATCH": "admin"}

    @told("GET", shapes.Maintenance, tag=TAG, name="get_maintenance", summary="Read planned work")
    def get(self, request: Request, number: str) -> Response:
        return Response(self.show(self.row(number)))

    @told(
        "PATCH",
        shapes.Maintenance,
        body=shapes.MaintenanceChange,
        tag=TAG,
        name="change_maintenance",
        summary="Change its times or words; those concerned are told",
    )
    def patch(self, request: Request, number: str) -> Response:
        self.operators()
        row = self.row(number)
        changes = self.given(shapes.MaintenanceChange)
        return Response(self.show(services.change(maintenance=row, changes=changes, principal=self.principal)))


class CancelMaintenance(MaintenanceView):
    scopes = {"POST": "admin"}

    @told(
        "POST",
        shapes.Maintenance,
        body=forms.Empty,
        tag=TAG,
        name="cancel_maintenance",
        summary="Call it off, or end it now; those concerned are told",
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        self.operators()
        row = self.row(number)
        self.given(forms.Empty)
        return Response(self.show(services.cancel(maintenance=row, principal=self.principal)))


def _named(model: Any, field: str, column: str, name: str | None) -> Any:
    if name is None:
        return None
    found = model.objects.filter(**{column: name}).first()
    if found is None:
        raise InvalidInput(field, f"There is no {field} {name}.", remedy="Look at the list of them.")
    return found
