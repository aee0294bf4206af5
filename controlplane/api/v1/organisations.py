"""Organisations and their claims on domains."""

from __future__ import annotations

from django.db.models import Count
from django.http import Http404
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
from tenants.models import Domain, Organisation


class Organisations(View):
    """The operator sees all of them, anybody else the own ones."""

    scopes = {"GET": "read", "POST": "organisations"}

    @told(
        "GET",
        shapes.Organisation(many=True),
        tag="organisations",
        name="list_organisations",
        summary="List organisations",
        params=(query("external_id", description="the billing system's own id"),),
    )
    def get(self, request: Request) -> Response:
        rows = Organisation.objects.visible_to(self.principal).annotate(instance_count=Count("instances"))
        external_id = request.query_params.get("external_id")
        if external_id is not None:
            rows = rows.filter(external_id=external_id)
        return self.paged(rows.order_by("slug"), shown.organisation)

    @told(
        "POST",
        shapes.Organisation,
        status=201,
        body=forms.OrganisationIn,
        tag="organisations",
        name="create_organisation",
        summary="Create an organisation",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        row = services.create_organisation(**self.given(forms.OrganisationIn), principal=self.principal)
        return created(request, shown.organisation(row), shown.url("organisation", slug=row.slug))


class OneOrganisation(View):
    scopes = {"GET": "read", "PATCH": "organisations", "DELETE": "organisations"}

    @told("GET", shapes.Organisation, tag="organisations", name="get_organisation", summary="Read an organisation")
    def get(self, request: Request, slug: str) -> Response:
        return Response(shown.organisation(self.organisation(slug)))

    @told(
        "PATCH",
        shapes.Organisation,
        body=forms.OrganisationChange,
        tag="organisations",
        name="change_organisation",
        summary="Change an organisation",
    )
    def patch(self, request: Request, slug: str) -> Response:
        row = self.organisation(slug)
        change = self.given(forms.OrganisationChange)
        return Response(
            shown.organisation(services.change_organisation(organisation=row, principal=self.principal, **change))
        )

    @told(
        "DELETE",
        None,
        status=204,
        tag="organisations",
        name="delete_organisation",
        summary="Delete an organisation that has no instances",
    )
    def delete(self, request: Request, slug: str) -> Response:
        services.delete_organisation(organisation=self.organisation(slug), principal=self.principal)
        return Response(status=204)


class Domains(View):
    """Claims of all organisations that the principal sees."""

    scopes = {"GET": "read"}

    @told("GET", shapes.Domain(many=True), tag="domains", name="list_all_domains", summary="List claimed domains")
    def get(self, request: Request) -> Response:
        rows = Domain.objects.visible_to(self.principal).select_related("organisation", "instance")
        return self.paged(rows.order_by("name", "id"), shown.domain)


class OrganisationDomains(View):
    scopes = {"GET": "read", "POST": "instances"}

    @told("GET", shapes.Domain(many=True), tag="domains", name="list_domains", summary="List an organisation's domains")
    def get(self, request: Request, slug: str) -> Response:
        rows = Domain.objects.filter(organisation=self.organisation(slug)).select_related("organisation", "instance")
        return self.paged(rows.order_by("name"), shown.domain)

    @told(
        "POST",
        shapes.Domain,
        status=201,
        body=forms.DomainIn,
        tag="domains",
        name="claim_domain",
        summary="Claim a domain; the answer says what to publish as proof",
    )
    @idempotent
    def post(self, request: Request, slug: str) -> Response:
        organisation = self.organisation(slug)
        given = self.given(forms.DomainIn)
        row = services.claim_domain(organisation=organisation, domain=given["domain"], principal=self.principal)
        return created(
            request, shown.domain(row), shown.url("organisation-domain", slug=organisation.slug, name=row.name)
        )


class OneDomain(View):
    scopes = {"GET": "read", "DELETE": "instances"}

    @told("GET", shapes.Domain, tag="domains", name="get_domain", summary="Read a claim and its proof")
    def get(self, request: Request, slug: str, name: str) -> Response:
        return Response(shown.domain(self.claim(slug, name)))

    @told("DELETE", None, status=204, tag="domains", name="release_domain", summary="Give a claim up")
    def delete(self, request: Request, slug: str, name: str) -> Response:
        services.release_domain(domain=self.claim(slug, name), principal=self.principal)
        return Response(status=204)

    def claim(self, slug: str, name: str) -> Domain:
        """The organisation's claim, by A-labels or U-labels."""
        organisation = self.organisation(slug)
        try:
            wanted = DomainName.parse(name)
        except InvalidInput as error:
            raise Http404 from error
        found = Domain.objects.select_related("organisation").filter(organisation=organisation, name=wanted.ascii)
        row: Domain | None = found.first()
        if row is None:
            raise Http404
        return row


class ProveDomain(OneDomain):
    http_method_names = ["post", "options"]
    scopes = {"POST": "instances"}

    @told(
        "POST",
        shapes.Domain,
        body=forms.Empty,
        tag="domains",
        name="prove_domain",
        summary="Look now whether control of the domain is proven",
        live=True,
    )
    def post(self, request: Request, slug: str, name: str) -> Response:
        from controlplane.zones import proof  # late: it opens the resolver

        self.given(forms.Empty)
        row = self.claim(slug, name)
        if row.proven_at is None:
            proven, method, message = proof.is_proven(row)
            if not proven:
                raise InvalidInput(
                    "domain", message or f"There is no proof for {row.name} yet.", remedy="Publish what `proof` says."
                )
            row = services.mark_domain_proven(domain=row, method=method, principal=self.principal)
        return Response(shown.domain(row))
