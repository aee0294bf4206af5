"""What was known of an instance's members and rooms, and what of it a restart has taken away."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View
from controlplane.api.v1.schema import told
from controlplane.api.v1.shapes import Shape
from controlplane.monitoring import roll

TAG = "roll"


class Missing(Shape):
    """Only the old values that are not there any more; `gone`: the whole of it."""

    rooms = s.DictField(child=s.DictField(), help_text="name -> settings, subject, affiliations, gone")
    members = s.DictField(child=s.DictField(), help_text="name -> roster and bookmarks ([count, digest]), gone")


class Roll(Shape):
    taken_at = s.DateTimeField(help_text="when members and rooms were noted last")
    engine_started_at = s.DateTimeField(allow_null=True)
    rooms = s.IntegerField()
    members = s.IntegerField()
    complete = s.BooleanField(help_text="nothing is missing since a restart")
    missing = Missing()
    missing_since = s.DateTimeField(allow_null=True, help_text="when all of it was still there")
    incident = s.CharField(allow_null=True, help_text="key")


class Restored(Shape):
    restored = s.ListField(child=s.CharField(), help_text="rooms that are as they were")
    left = s.ListField(child=s.CharField(), help_text="rooms of which something could not be brought back")
    roll = Roll()


class OneRoll(View):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "rooms", "accounts")}

    @told("GET", Roll, tag=TAG, name="get_roll", summary="What is known of members and rooms, and what is missing")
    def get(self, request: Request, key: str) -> Response:
        return Response(roll.shown(self.instance(key)))


class AcceptRoll(View):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "instances"}

    @told(
        "POST",
        Roll,
        body=forms.Empty,
        tag=TAG,
        name="accept_roll",
        summary="It is meant to be as it is: nothing is missing any more",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        self.given(forms.Empty)
        roll.accept(instance=instance, principal=self.principal)
        return Response(roll.shown(instance))


class RestoreRoll(View):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "rooms"}

    @told(
        "POST",
        Restored,
        body=forms.Empty,
        tag=TAG,
        name="restore_roll",
        summary="Make missing rooms again, with their settings and affiliations",
        live=True,
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        self.given(forms.Empty)
        done, left = roll.restore_rooms(instance=instance, principal=self.principal)
        body: dict[str, Any] = {"restored": done, "left": left, "roll": roll.shown(instance)}
        return Response(body)
