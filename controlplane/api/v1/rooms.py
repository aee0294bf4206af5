"""Rooms of an instance, their settings, and who may what in them."""

from __future__ import annotations

from dataclasses import replace

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.drivers.engine.base import Room, RoomSettings
from controlplane.provisioning import rooms
from controlplane.values.errors import InvalidInput
from controlplane.values.names import Jid
from tenants import validators
from tenants.models import Instance

TAG = "rooms"


def settings_of(given: dict[str, object], present: RoomSettings) -> RoomSettings:
    """The present settings with what is given; texts are cleaned."""
    change = {name: given[name] for name in forms.SETTINGS if name in given}
    for name, maximum in (("title", 200), ("description", 500)):
        if name in change:
            change[name] = validators.line(str(change[name]), field=name, maximum=maximum)
    if change.get("language"):
        change["language"] = validators.language(str(change["language"]))
    return replace(present, **change)  # type: ignore[arg-type]


def present(instance: Instance, name: str) -> Room:
    room = rooms.get_room(instance=instance, name=name)
    if room is None:
        raise Http404
    return room


class Rooms(View):
    scopes = {"GET": ("read", "rooms"), "POST": "rooms"}

    @told("GET", shapes.RoomListed(many=True), tag=TAG, name="list_rooms", summary="List rooms", live=True)
    def get(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        muc = rooms.room_domain(instance)
        found = list(rooms.list_rooms(instance=instance))
        return self.paged(found, lambda room: shown.room_listed(room, muc))

    @told(
        "POST",
        shapes.Room,
        status=201,
        body=forms.RoomIn,
        tag=TAG,
        name="create_room",
        summary="Create a room",
        live=True,
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.RoomIn)
        room = rooms.create_room(
            instance=instance,
            name=given["name"],
            settings=settings_of(given, RoomSettings(language=instance.language)),
            owner=Jid.parse(given["owner"], field="owner"),
            principal=self.principal,
        )
        where = shown.url("room", key=instance.key, name=room.local.text)
        return created(request, shown.room(room, rooms.room_domain(instance)), where)


class OneRoom(View):
    scopes = {"GET": ("read", "rooms"), "PATCH": "rooms", "DELETE": "rooms"}

    @told("GET", shapes.Room, tag=TAG, name="get_room", summary="Read a room and its affiliations", live=True)
    def get(self, request: Request, key: str, name: str) -> Response:
        instance = self.instance(key)
        return Response(shown.room(present(instance, name), rooms.room_domain(instance)))

    @told(
        "PATCH",
        shapes.Room,
        body=forms.RoomSettingsIn,
        tag=TAG,
        name="change_room",
        summary="Change a room's settings",
        live=True,
    )
    def patch(self, request: Request, key: str, name: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.RoomSettingsIn)
        settings = settings_of(given, present(instance, name).settings)
        room = rooms.change_room(instance=instance, name=name, settings=settings, principal=self.principal)
        return Response(shown.room(room, rooms.room_domain(instance)))

    @told("DELETE", None, status=204, tag=TAG, name="delete_room", summary="Delete a room and its archive", live=True)
    def delete(self, request: Request, key: str, name: str) -> Response:
        if not rooms.delete_room(instance=self.instance(key), name=name, principal=self.principal):
            raise Http404
        return Response(status=204)


class Affiliations(View):
    """Bans are the affiliation "outcast" (XEP-0045 §5.2)."""

    scopes = {"GET": ("read", "rooms")}

    @told(
        "GET",
        OpenApiTypes.OBJECT,
        tag=TAG,
        name="list_affiliations",
        summary="Bare JID -> affiliation",
        params=(query("affiliation", enum=["owner", "admin", "member", "outcast"]),),
        live=True,
    )
    def get(self, request: Request, key: str, name: str) -> Response:
        wanted = request.query_params.get("affiliation")
        if wanted not in (None, "owner", "admin", "member", "outcast"):
            raise InvalidInput("affiliation", "There is no such list.", remedy="Use owner, admin, member or outcast.")
        found = present(self.instance(key), name).affiliations
        return Response({jid: kind for jid, kind in sorted(found.items()) if wanted in (None, kind)})


class OneAffiliation(View):
    scopes = {"PUT": "rooms", "DELETE": "rooms"}

    @told(
        "PUT",
        shapes.Room,
        body=forms.AffiliationIn,
        tag=TAG,
        name="set_affiliation",
        summary="Make somebody owner, admin, member, or ban (outcast)",
        live=True,
    )
    def put(self, request: Request, key: str, name: str, jid: str) -> Response:
        instance = self.instance(key)
        given = self.given(forms.AffiliationIn)
        return self.set(instance, name, jid, given["affiliation"])

    @told("DELETE", shapes.Room, tag=TAG, name="drop_affiliation", summary="Take an affiliation or ban away", live=True)
    def delete(self, request: Request, key: str, name: str, jid: str) -> Response:
        return self.set(self.instance(key), name, jid, "none")

    def set(self, instance: Instance, name: str, jid: str, affiliation: str) -> Response:
        room = rooms.set_affiliation(
            instance=instance, name=name, jid=jid, affiliation=affiliation, principal=self.principal
        )
        return Response(shown.room(room, rooms.room_domain(instance)))
