"""Who is told of incidents: webhooks and mail addresses of an organisation, or of the provider."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import Http404
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.permissions import HasScope, scopes_for
from controlplane.api.v1 import incident_shapes as shapes
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.api.v1.shown import url
from controlplane.monitoring import subscriptions as services
from controlplane.monitoring.models import Subscription
from controlplane.values.errors import InvalidInput
from tenants.models import Organisation
from tenants.principal import Principal

TAG = "subscriptions"
#: The provider's need "admin", an organisation's "instances" there.
WRITERS = ("instances", "admin")


def visible_to(principal: Principal) -> QuerySet[Subscription]:
    rows = Subscription.objects.select_related("organisation")
    return rows if principal.is_operator else rows.filter(organisation__slug__in=principal.organisations)


class SubscriptionView(View):
    """What views of subscriptions share."""

    def may(self, organisation: Organisation | None) -> None:
        """Refuse unless the principal has what this method needs where the subscription belongs."""
        wanted = scopes_for(self, str(self.request.method))
        if organisation is not None:
            allowed = any(self.principal.may(scope, organisation.slug) for scope in wanted)
        else:
            own = {"read", "admin"} if self.request.method == "GET" else {"admin"}
            allowed = self.principal.is_operator and any(self.principal.may(s) for s in own)
        if not allowed:
            raise PermissionDenied(HasScope.message)

    def row(self, number: str) -> Subscription:
        found = None
        if number.isascii() and number.isdigit() and len(number) < 19:
            found = visible_to(self.principal).filter(pk=int(number)).first()
        if found is None:
            raise Http404
        self.may(found.organisation)
        return found


class Subscriptions(SubscriptionView):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": "read", "POST": WRITERS}

    @told(
        "GET",
        shapes.Subscription(many=True),
        tag=TAG,
        name="list_subscriptions",
        summary="List who is told of incidents, and what fails",
        params=(query("organisation", description="slug"),),
    )
    def get(self, request: Request) -> Response:
        rows = visible_to(self.principal)
        if not self.principal.is_operator:
            readable = [slug for slug, scopes in self.principal.organisations.items() if "read" in scopes]
            rows = rows.filter(organisation__slug__in=readable)
        if "organisation" in request.query_params:
            rows = rows.filter(organisation__slug=request.query_params["organisation"])
        return self.paged(rows, shapes.subscription)

    @told(
        "POST",
        shapes.SubscriptionMade,
        status=201,
        body=shapes.SubscriptionIn,
        tag=TAG,
        name="subscribe",
        summary="Have a URL or a mail address told of incidents and planned work",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.given(shapes.SubscriptionIn)
        slug = given.pop("organisation", None)
        organisation = None
        if slug is not None or not self.principal.is_operator:
            organisation = Organisation.objects.visible_to(self.principal).filter(slug=slug).first()
            if organisation is None:
                raise InvalidInput("organisation", f"There is no organisation {slug}.", remedy="Name one of yours.")
        self.may(organisation)
        row, secret = services.subscribe(organisation=organisation, principal=self.principal, **given)
        body = {**shapes.subscription(row), "secret": secret.reveal() if secret else None}
        return created(request, body, url("subscription", number=str(row.pk)))


class OneSubscription(SubscriptionView):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": "read", "PATCH": WRITERS, "DELETE": WRITERS}

    @told("GET", shapes.Subscription, tag=TAG, name="get_subscription", summary="Read a subscription")
    def get(self, request: Request, number: str) -> Response:
        return Response(shapes.subscription(self.row(number)))

    @told(
        "PATCH",
        shapes.Subscription,
        body=shapes.SubscriptionChange,
        tag=TAG,
        name="change_subscription",
        summary="Switch it off or on, choose kinds",
    )
    def patch(self, request: Request, number: str) -> Response:
        row = self.row(number)
        changes = self.given(shapes.SubscriptionChange)
        return Response(
            shapes.subscription(services.change(subscription=row, changes=changes, principal=self.principal))
        )

    @told("DELETE", None, status=204, tag=TAG, name="unsubscribe", summary="Tell it nothing more")
    def delete(self, request: Request, number: str) -> Response:
        services.unsubscribe(subscription=self.row(number), principal=self.principal)
        return Response(status=204)


class SubscriptionTest(SubscriptionView):
    scopes = {"POST": WRITERS}

    @told(
        "POST",
        shapes.Notice,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="test_subscription",
        summary="Send a test at once; read among the notices what came of it",
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        row = self.row(number)
        self.given(forms.Empty)
        notice = services.send_test(subscription=row, principal=self.principal)
        return created(request, shapes.notice(notice), url("subscription-notices", number=number), status=202)


class SubscriptionSecret(SubscriptionView):
    scopes = {"POST": WRITERS}

    @told(
        "POST",
        shapes.SecretMade,
        body=forms.Empty,
        tag=TAG,
        name="rotate_subscription_secret",
        summary="Sign with another secret from now on",
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        row = self.row(number)
        self.given(forms.Empty)
        secret = services.rotate_secret(subscription=row, principal=self.principal)
        return Response({"secret": secret.reveal()})


class SubscriptionNotices(SubscriptionView):
    scopes = {"GET": "read"}

    @told(
        "GET",
        shapes.Notice(many=True),
        tag=TAG,
        name="list_notices",
        summary="What was sent to it, what waits and what failed, the newest first",
    )
    def get(self, request: Request, number: str) -> Response:
        return self.paged(self.row(number).notices.select_related("incident").order_by("-pk"), shapes.notice)
