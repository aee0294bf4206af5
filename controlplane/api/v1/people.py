"""Links that log one of an organisation's people in, once: what a billing system's «open the portal» leads to."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.urls import reverse
from rest_framework import serializers as s
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.v1.base import View
from controlplane.api.v1.schema import told
from controlplane.api.v1.serializers import Strict
from controlplane.api.v1.shapes import Shape
from tenants import services
from tenants.services.people import LOGIN_LINK_S, MAX_LOGIN_LINK_S

TAG = "people"


class LoginLinkIn(Strict):
    user = s.CharField(max_length=150, help_text="mail address of somebody who belongs to the organisation")
    ttl_s = s.IntegerField(
        min_value=1, max_value=MAX_LOGIN_LINK_S, required=False, help_text=f"{LOGIN_LINK_S} s if left out"
    )
    target = s.CharField(
        max_length=300, required=False, allow_blank=True, help_text="path in the portal that it leads to: /portal/…"
    )


class LoginLinkMade(Shape):
    url = s.CharField(help_text="for the person's browser, good once; shown this once")
    user = s.CharField()
    organisation = s.CharField(help_text="the session is for this one only")
    expires_at = s.DateTimeField()


class LoginLinks(View):
    """Not idempotent by key: the answer holds a secret that must not be kept."""

    scopes = {"POST": "logins"}

    @told(
        "POST",
        LoginLinkMade,
        status=201,
        body=LoginLinkIn,
        tag=TAG,
        name="create_login_link",
        summary="Make a link that logs a person in once (operator)",
    )
    def post(self, request: Request, slug: str) -> Response:
        organisation = self.organisation(slug)
        given: dict[str, Any] = self.given(LoginLinkIn)
        row, text = services.create_login_link(
            organisation=organisation, email=given.pop("user"), principal=self.principal, **given
        )
        body = {
            "url": settings.BASE_URL + reverse("portal:login-link", kwargs={"token": text.reveal()}),
            "user": row.user.get_username(),
            "organisation": organisation.slug,
            "expires_at": row.expires_at,
        }
        return Response(body, status=201, headers={"Cache-Control": "no-store"})
