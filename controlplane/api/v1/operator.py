"""What is the operator's: plans and tokens (nodes and rollouts have files of their own). Everyone reads plans."""

from __future__ import annotations

from django.db import transaction
from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import told
from controlplane.fleet import placing
from controlplane.values.errors import InvalidInput
from tenants import services
from tenants.models import ApiToken, Organisation, Plan


class Plans(View):
    scopes = {"GET": ("read", "instances"), "POST": "admin"}

    @told("GET", shapes.Plan(many=True), tag="plans", name="list_plans", summary="List plans and their quotas")
    def get(self, request: Request) -> Response:
        rows = Plan.objects.order_by("slug")
        return self.paged(rows if self.principal.is_operator else rows.filter(open=True), shown.plan)

    @told("POST", shapes.Plan, status=201, body=forms.PlanIn, tag="plans", name="create_plan", summary="Create a plan")
    @idempotent
    def post(self, request: Request) -> Response:
        row = services.create_plan(**self.given(forms.PlanIn), principal=self.principal)
        return created(request, shown.plan(row), shown.url("plan", slug=row.slug))


class OnePlan(View):
    scopes = {"GET": ("read", "instances"), "PATCH": "admin", "DELETE": "admin"}

    @told("GET", shapes.Plan, tag="plans", name="get_plan", summary="Read a plan")
    def get(self, request: Request, slug: str) -> Response:
        return Response(shown.plan(self.plan(slug)))

    @told("PATCH", shapes.Plan, body=forms.PlanChange, tag="plans", name="change_plan", summary="Change a plan")
    def patch(self, request: Request, slug: str) -> Response:
        row = self.plan(slug)
        given = self.given(forms.PlanChange)
        with transaction.atomic():
            placing.check_rooms(row, given.get("memory_mib", row.memory_mib))
            changed = services.update_plan(plan=row, principal=self.principal, **given)
        return Response(shown.plan(changed))

    @told("DELETE", None, status=204, tag="plans", name="delete_plan", summary="Delete a plan that nobody is on")
    def delete(self, request: Request, slug: str) -> Response:
        services.delete_plan(plan=self.plan(slug), principal=self.principal)
        return Response(status=204)

    def plan(self, slug: str) -> Plan:
        row = Plan.objects.filter(slug=slug).first()
        if row is None:
            raise Http404
        return row


class Tokens(View):
    operator_only = True
    scopes = {"GET": "admin", "POST": "admin"}

    @told(
        "GET", shapes.Token(many=True), tag="tokens", name="list_tokens", summary="List tokens, without their secrets"
    )
    def get(self, request: Request) -> Response:
        return self.paged(ApiToken.objects.select_related("organisation"), shown.token)

    @told(
        "POST",
        shapes.TokenMade,
        status=201,
        body=forms.TokenIn,
        tag="tokens",
        name="create_token",
        summary="Create a token; it is shown once",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.given(forms.TokenIn)
        slug = given.pop("organisation", None)
        organisation = Organisation.objects.filter(slug=slug).first() if slug else None
        if slug and organisation is None:
            raise InvalidInput("organisation", f"There is no organisation {slug}.", remedy="Create it first.")
        row, text = services.create_token(organisation=organisation, principal=self.principal, **given)
        body = {**shown.token(row), "token": text.reveal()}
        return created(request, body, shown.url("token", prefix=row.prefix))


class OneToken(View):
    operator_only = True
    scopes = {"GET": "admin", "DELETE": "admin"}

    @told("GET", shapes.Token, tag="tokens", name="get_token", summary="Read a token's scopes and times")
    def get(self, request: Request, prefix: str) -> Response:
        return Response(shown.token(self.token(prefix)))

    @told("DELETE", shapes.Token, tag="tokens", name="revoke_token", summary="Revoke a token for good")
    def delete(self, request: Request, prefix: str) -> Response:
        return Response(shown.token(services.revoke_token(token=self.token(prefix), principal=self.principal)))

    def token(self, prefix: str) -> ApiToken:
        row = ApiToken.objects.select_related("organisation").filter(prefix=prefix).first()
        if row is None:
            raise Http404
        return row
