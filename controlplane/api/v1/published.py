"""What an instance shows to the world and what it uses: DNS, certificate, TURN, the last walk, usage."""

from __future__ import annotations

import time
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes
from controlplane.api.v1.base import View
from controlplane.api.v1.schema import told
from controlplane.provisioning import status

#: After this time the servers that were not asked yet are left out, and the answer says so.
ASKING_S = 20.0
COUNTS = ("accounts", "online", "rooms", "archive_messages", "upload_bytes")


class Dns(View):
    """Record sets, wanted and seen."""

    scopes = {"GET": "read"}
    pagination_class = None  # type: ignore[assignment]

    @told(
        "GET",
        shapes.Record(many=True),
        tag="published",
        name="list_records",
        summary="DNS records with their live state",
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(status.dns_status(self.instance(key)))


class Certificate(View):
    scopes = {"GET": "read"}

    @told(
        "GET",
        shapes.Certificate,
        tag="published",
        name="get_certificate",
        summary="The certificate, its names and its times",
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(status.certificate_status(self.instance(key)))


class Turn(View):
    scopes = {"GET": "read"}

    @told(
        "GET", shapes.Turn, tag="published", name="get_turn", summary="What is announced by XEP-0215; never the secret"
    )
    def get(self, request: Request, key: str) -> Response:
        return Response(status.turn_status(self.instance(key)))


class TurnCredentials(View):
    scopes = {"POST": ("instances", "accounts")}

    @told(
        "POST",
        shapes.TurnCredentials,
        body=forms.TurnCredentialsIn,
        tag="published",
        name="create_turn_credentials",
        summary="Short-lived credentials for a test call",
        live=True,
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.TurnCredentialsIn)
        return Response(status.turn_credentials(instance, ttl_s=given["ttl_s"]))


class Verification(View):
    """The last walk of a client, step by step."""

    scopes = {"GET": "read"}

    @told("GET", shapes.Walk, tag="published", name="get_verification", summary="The last walk of a client")
    def get(self, request: Request, key: str) -> Response:
        walk = status.walk_status(self.instance(key))
        return Response(walk or {"at": None, "ok": False, "duration_s": None, "steps": []})


class Usage(View):
    scopes = {"GET": "read"}

    @told("GET", shapes.Usage, tag="usage", name="get_usage", summary="What an instance uses of its plan")
    def get(self, request: Request, key: str) -> Response:
        return Response(status.usage(instance=self.instance(key)))


class OrganisationUsage(View):
    scopes = {"GET": "read"}

    @told(
        "GET",
        shapes.OrganisationUsage,
        tag="usage",
        name="get_organisation_usage",
        summary="What all instances of an organisation use",
    )
    def get(self, request: Request, slug: str) -> Response:
        organisation = self.organisation(slug)
        end = time.monotonic() + ASKING_S
        rows = [
            status.usage(instance=row, ask=time.monotonic() < end)
            for row in organisation.instances.select_related("organisation", "domain", "plan").order_by("key")
        ]
        return Response(
            {
                "organisation": organisation.slug,
                "instances": rows,
                "totals": {name: _sum(rows, name) for name in COUNTS},
                "complete": all(not row["problem"] for row in rows),
            }
        )


def _sum(rows: list[dict[str, Any]], name: str) -> int:
    return sum(row[name] or 0 for row in rows)
