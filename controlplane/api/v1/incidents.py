"""Incidents: what was wrong, from when to when, why, and what was done. An organisation sees its own."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.v1 import incident_shapes as shapes
from controlplane.api.v1.base import View
from controlplane.api.v1.schema import query, told
from controlplane.monitoring.models import Incident
from controlplane.values.errors import InvalidInput
from tenants.principal import Principal

TAG = "incidents"


def visible_to(principal: Principal) -> QuerySet[Incident]:
    """The operator sees all, anybody else those of organisations where reading is allowed."""
    rows = Incident.objects.select_related("instance__domain", "node")
    if principal.is_operator:
        return rows
    return rows.filter(scope__in=[slug for slug, scopes in principal.organisations.items() if "read" in scopes])


class IncidentFilter(django_filters.FilterSet):  # type: ignore[misc]
    organisation = django_filters.CharFilter(field_name="scope")
    instance = django_filters.CharFilter(field_name="instance__key")
    node = django_filters.CharFilter(field_name="node__name")
    open = django_filters.BooleanFilter(field_name="ended_at", lookup_expr="isnull")
    since = django_filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="lt")

    class Meta:
        model = Incident
        fields = ("kind", "cause")


FILTERS = (
    query("organisation", description="slug"),
    query("instance", description="key"),
    query("node", description="for the operator"),
    query("kind", enum=[kind for kind, _ in Incident.KINDS]),
    query("cause"),
    query("open", OpenApiTypes.BOOL),
    query("since", OpenApiTypes.DATETIME, description="began then or later"),
    query("until", OpenApiTypes.DATETIME, description="began before"),
)


class Incidents(View):
    """The newest first."""

    scopes = {"GET": "read"}

    @told(
        "GET",
        shapes.IncidentListed(many=True),
        tag=TAG,
        name="list_incidents",
        summary="List incidents, the newest first",
        params=FILTERS,
    )
    def get(self, request: Request) -> Response:
        asked = request.query_params.copy()
        if not self.principal.is_operator:
            asked.pop("node", None)  # what a machine carries beside one's own is not to be found out
        filters = IncidentFilter(asked, queryset=visible_to(self.principal))
        if not filters.is_valid():
            field, messages = next(iter(filters.errors.items()))
            raise InvalidInput(field, " ".join(messages))
        operator = self.principal.is_operator
        return self.paged(filters.qs, lambda row: shapes.incident_listed(row, operator=operator))


class OneIncident(View):
    scopes = {"GET": "read"}

    @told("GET", shapes.Incident, tag=TAG, name="get_incident", summary="Read an incident with its timeline")
    def get(self, request: Request, incident: str) -> Response:
        row = visible_to(self.principal).filter(key=incident).first()
        if row is None:
            raise Http404
        return Response(shapes.incident(row, operator=self.principal.is_operator))
