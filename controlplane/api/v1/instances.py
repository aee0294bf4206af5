"""Instances: what they should be, and how far they are."""

from __future__ import annotations

from typing import Any

import django_filters
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants import services
from tenants.models import Instance, Organisation, Plan


class InstanceFilter(django_filters.FilterSet):  # type: ignore[misc]
    """``?organisation=acme&engine=prosody&desired=running``."""

    organisation = django_filters.CharFilter(field_name="organisation__slug")
    external_id = django_filters.CharFilter(field_name="organisation__external_id")
    plan = django_filters.CharFilter(field_name="plan__slug")
    domain = django_filters.CharFilter(method="by_domain")
    desired = django_filters.ChoiceFilter(
        method="by_desired", choices=[(d, d) for d in ("running", "suspended", "terminated")]
    )

    class Meta:
        model = Instance
        fields = ("engine",)

    def by_domain(self, rows: Any, name: str, value: str) -> Any:
        return rows.filter(domain__name=DomainName.parse(value).ascii)

    def by_desired(self, rows: Any, name: str, value: str) -> Any:
        if value == "terminated":
            return rows.filter(deletion_requested_at__isnull=False)
        rows = rows.filter(deletion_requested_at__isnull=True)
        return rows.filter(suspended_at__isnull=value == "running")


FILTERS = (
    query("organisation", description="slug"),
    query("external_id", description="the organisation's id in the billing system"),
    query("engine", description="prosody or ejabberd"),
    query("plan", description="slug"),
    query("domain", description="A-labels or U-labels"),
    query("desired", enum=["running", "suspended", "terminated"]),
)


def open_plan(slug: str) -> Plan:
    plan = Plan.objects.filter(slug=slug).first()
    if plan is None:
        raise InvalidInput("plan", f"There is no plan {slug}.", remedy="GET /api/v1/plans/ lists them.")
    return plan


class Instances(View):
    """All instances that the principal sees."""

    scopes: dict[str, str | tuple[str, ...]] = {"GET": "read", "POST": "instances"}

    @told(
        "GET",
        shapes.InstanceListed(many=True),
        tag="instances",
        name="list_instances",
        summary="List instances",
        params=FILTERS,
    )
    def get(self, request: Request) -> Response:
        return self.listed(request, Instance.objects.visible_to(self.principal))

    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.InstanceIn,
        tag="instances",
        name="create_instance",
        summary="Want an XMPP server; watch it become ready",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.given(forms.InstanceIn)
        slug = given.pop("organisation")
        organisation = Organisation.objects.visible_to(self.principal).filter(slug=slug).first()
        if organisation is None:
            raise InvalidInput("organisation", f"There is no organisation {slug}.", remedy="Create it first.")
        self.demand(organisation.slug)
        return self.make(request, organisation, given)

    def listed(self, request: Request, rows: Any) -> Response:
        filters = InstanceFilter(request.query_params, queryset=rows.whole())
        if not filters.is_valid():
            field, messages = next(iter(filters.errors.items()))
            raise InvalidInput(field, " ".join(messages))
        pages = self.pagination_class()
        page: list[Instance] = list(pages.paginate_queryset(filters.qs, request, self) or [])
        ready = shown.ready_keys(page)
        return pages.get_paginated_response([shown.instance_listed(row, ready=row.key in ready) for row in page])

    def make(self, request: Request, organisation: Organisation, given: dict[str, Any]) -> Response:
        plan = open_plan(given.pop("plan"))
        row = services.create_instance(organisation=organisation, plan=plan, principal=self.principal, **given)
        return created(request, shown.instance(row), shown.url("instance", key=row.key), status=202)


class OrganisationInstances(Instances):
    """The same within one organisation."""

    @told(
        "GET",
        shapes.InstanceListed(many=True),
        tag="instances",
        name="list_organisation_instances",
        summary="List an organisation's instances",
        params=FILTERS[2:],
    )
    def get(self, request: Request, slug: str) -> Response:  # type: ignore[override]
        return self.listed(request, Instance.objects.filter(organisation=self.organisation(slug)))

    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.InstanceInOrganisation,
        tag="instances",
        name="create_organisation_instance",
        summary="Want an XMPP server for this organisation",
    )
    @idempotent
    def post(self, request: Request, slug: str) -> Response:
        organisation = self.organisation(slug)
        return self.make(request, organisation, self.given(forms.InstanceInOrganisation))


class OneInstance(View):
    scopes = {"GET": "read", "PATCH": "instances", "DELETE": "instances"}

    @told("GET", shapes.Instance, tag="instances", name="get_instance", summary="Read an instance and how far it is")
    def get(self, request: Request, key: str) -> Response:
        return Response(shown.instance(self.instance(key)))

    @told(
        "PATCH",
        shapes.Instance,
        status=202,
        body=forms.InstanceChange,
        tag="instances",
        name="change_instance",
        summary="Change what an instance should be",
    )
    def patch(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        change = self.given(forms.InstanceChange)
        row = services.change_instance(instance=row, principal=self.principal, **change)
        return accepted(request, row)

    @told(
        "DELETE",
        shapes.Instance,
        status=202,
        tag="instances",
        name="delete_instance",
        summary="Terminate with the usual grace time",
    )
    def delete(self, request: Request, key: str) -> Response:
        row = services.terminate_instance(instance=self.instance(key), principal=self.principal)
        return accepted(request, row)


def accepted(request: Request, row: Instance) -> Response:
    """Long work: the answer says where to watch it."""
    return created(request, shown.instance(row), shown.url("instance", key=row.key), status=202)
