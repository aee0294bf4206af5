"""Rooms of a server: list, make from a preset, change, delete. The server itself is asked; nothing is kept here."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from controlplane.drivers.engine.base import Room, RoomSettings
from controlplane.portal import forms, presets
from controlplane.portal.access import PortalView
from controlplane.provisioning import rooms
from controlplane.values.errors import InvalidInput, RoostError
from controlplane.values.names import Jid
from tenants import validators

PAGE = 50
FIELDS = ("title", "description", "access", "moderated", "anonymity", "listed", "persistent", "archived", "language")


def settings_of(given: dict[str, Any], present: RoomSettings) -> RoomSettings:
    """The form's settings; texts are cleaned. Raises ``InvalidInput``."""
    change = {name: given[name] for name in FIELDS if name in given}
    for name, maximum in (("title", 200), ("description", 500)):
        if name in change:
            change[name] = validators.line(change[name], field=name, maximum=maximum)
    if change.get("language"):
        change["language"] = validators.language(change["language"])
    return replace(present, **change)


class RoomView(PortalView):
    """What pages of rooms share."""

    @property
    def muc(self) -> str:
        return rooms.room_domain(self.instance).ascii

    def found(self, name: str) -> Room:
        """404 for a name that is none; ``Unavailable`` while the server does not answer."""
        try:
            room = rooms.get_room(instance=self.instance, name=name)
        except InvalidInput as error:
            raise Http404 from error
        if room is None:
            raise Http404
        return room

    def away(self, error: RoostError) -> HttpResponse:
        """Back to the list, which says the same until the server answers again."""
        messages.error(self.request, forms.said(error))
        return redirect("portal:rooms", key=self.instance.key)


class Rooms(RoomView):
    scopes = {"GET": ("read", "rooms")}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        text = request.GET.get("q", "").strip().lower()[:100]
        context: dict[str, Any] = {"q": text, "muc": self.muc, "limit": self.instance.plan.max_rooms}
        try:
            rows = list(rooms.list_rooms(instance=self.instance))
        except RoostError as error:
            return self.page("rooms.html", {**context, "problem": error}, status=503)
        found = [row for row in rows if text in row.local.text or text in row.settings.title.lower()]
        page = Paginator(found, PAGE).get_page(request.GET.get("page"))
        return self.page("rooms.html", {**context, "page": page, "all": len(rows), "presets": presets.PRESETS})


class NewRoom(RoomView):
    """Kind, address and owner; the single settings follow from the kind, and can be changed afterwards."""

    scopes = {"GET": ("rooms",), "POST": ("rooms",)}

    def show(self, form: forms.NewRoom, status: int = 200) -> HttpResponse:
        chosen = form["preset"].value() or next(iter(presets.PRESETS))
        return self.page(
            "room_new.html",
            {"form": form, "presets": presets.PRESETS, "chosen": chosen, "muc": self.muc},
            status=status,
        )

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        kind = request.GET.get("preset", "")
        return self.show(forms.NewRoom(initial={"preset": kind if kind in presets.PRESETS else "team"}))

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        given = request.POST.copy()
        preset = presets.PRESETS.get(given.get("preset", ""))
        for name, value in (preset.settings if preset else {}).items():
            if value is True:
                given[name] = "on"
            elif value is not False:
                given[name] = str(value)
        form = forms.NewRoom(given)
        if not form.is_valid() or preset is None:
            return self.show(form, 422)
        fields = form.cleaned_data
        owner = fields["owner"] if "@" in fields["owner"] else f"{fields['owner']}@{self.instance.domain.name}"
        try:
            settings = settings_of(
                {"title": fields["title"], "description": fields["description"], **preset.settings},
                RoomSettings(language=self.instance.language),
            )
            room = rooms.create_room(
                instance=self.instance,
                name=fields["name"],
                settings=settings,
                owner=Jid.parse(owner, field="owner"),
                principal=self.principal,
            )
        except RoostError as error:
            form.blame(error)
            return self.show(form, 422)
        messages.success(request, _("The room %s is there. Now say who belongs to it.") % f"{room.local}@{self.muc}")
        return redirect("portal:room", key=key, name=room.local.text)


class OneRoom(RoomView):
    """Settings; the people in it are on ``affiliations``."""

    scopes = {"GET": ("read", "rooms"), "POST": ("rooms",)}

    def show(self, room: Room, form: forms.RoomSettings, status: int = 200) -> HttpResponse:
        context = {"room": room, "jid": f"{room.local}@{self.muc}", "form": form, "tab": "settings"}
        return self.page("room.html", context, status=status)

    def get(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        try:
            room = self.found(name)
        except RoostError as error:
            return self.away(error)
        return self.show(room, forms.RoomSettings(initial=asdict(room.settings)))

    def post(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        form = forms.RoomSettings(request.POST)
        try:
            room = self.found(name)
            if not form.is_valid():
                return self.show(room, form, 422)
            settings = settings_of(form.cleaned_data, room.settings)
            changed = rooms.change_room(instance=self.instance, name=name, settings=settings, principal=self.principal)
        except InvalidInput as error:
            form.blame(error)
            return self.show(room, form, 422)
        except RoostError as error:
            return self.away(error)
        lacking = refused(settings, changed.settings)
        if lacking:
            text = _("Saved, but %(engine)s did not take: %(fields)s.")
            engine = self.instance.get_engine_display()
            messages.warning(request, text % {"engine": engine, "fields": ", ".join(lacking)})
        else:
            messages.success(request, _("Saved. It holds from this moment on."))
        return redirect("portal:room", key=key, name=room.local.text)


def refused(wanted: RoomSettings, seen: RoomSettings) -> list[str]:
    """Labels of the settings that are not as wanted after the change: what the engine cannot do is said."""
    fields = forms.RoomSettings.base_fields
    return [str(fields[name].label) for name in FIELDS if getattr(wanted, name) != getattr(seen, name)]


class DeleteRoom(RoomView):
    scopes = {"GET": ("rooms",), "POST": ("rooms",)}

    def get(self, request: HttpRequest, key: str, name: str) -> HttpResponseBase:
        try:
            room = self.found(name)
        except RoostError as error:
            return self.away(error)
        form = forms.Sure(wanted=room.local.text)
        return self.page("room_delete.html", {"room": room, "jid": f"{room.local}@{self.muc}", "form": form})

    def post(self, request: HttpRequest, key: str, name: str) -> HttpResponseBase:
        try:
            room = self.found(name)
            jid = f"{room.local}@{self.muc}"
            form = forms.Sure(request.POST, wanted=room.local.text)
            if not form.is_valid():
                return self.page("room_delete.html", {"room": room, "jid": jid, "form": form}, status=422)
            rooms.delete_room(instance=self.instance, name=room.local.text, principal=self.principal)
        except RoostError as error:
            return self.away(error)
        messages.success(request, _("The room %s is deleted.") % jid)
        return redirect("portal:rooms", key=key)
