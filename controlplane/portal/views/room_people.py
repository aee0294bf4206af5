"""Who is what in a room: affiliations as a matrix that one can edit, and the member list as CSV, out and in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from controlplane.drivers.engine.base import AFFILIATIONS, Room
from controlplane.portal import csvs, forms, presets
from controlplane.portal.views.rooms import RoomView
from controlplane.provisioning import rooms
from controlplane.values.errors import InvalidInput, RoostError
from controlplane.values.names import Jid

PAGE = 50
COLUMNS = ("address", "affiliation")
MOST = 500
ORDER = {name: number for number, name in enumerate(("owner", "admin", "member", "outcast", "none"))}
#: Matrix field names are "as:" and the address.
PREFIX = "as:"


class People(RoomView):
    """The matrix; ``POST`` sets what differs on this page, one by one, and tells what was refused."""

    scopes = {"GET": ("read", "rooms"), "POST": ("rooms",)}

    def show(self, room: Room, form: forms.Affiliation, status: int = 200) -> HttpResponse:
        text = self.request.GET.get("q", "").strip().lower()[:100]
        listed = sorted(room.affiliations.items(), key=lambda item: (ORDER[item[1]], item[0]))
        found = [(jid, kind) for jid, kind in listed if text in jid]
        context = {
            "room": room,
            "jid": f"{room.local}@{self.muc}",
            "page": Paginator(found, PAGE).get_page(self.request.GET.get("page")),
            "all": len(listed),
            "q": text,
            "kinds": presets.AFFILIATIONS,
            "form": form,
            "tab": "people",
        }
        return self.page("room_people.html", context, status=status)

    def get(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        try:
            return self.show(self.found(name), forms.Affiliation())
        except RoostError as error:
            return self.away(error)

    def post(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        try:
            room = self.found(name)
            if "jid" in request.POST:
                form = forms.Affiliation(request.POST)
                if not form.is_valid() or not self.add(form, room):
                    return self.show(room, form, 422)
            else:
                self.change(room)
        except RoostError as error:
            return self.away(error)
        return redirect("portal:room-people", key=key, name=room.local.text)

    def add(self, form: forms.Affiliation, room: Room) -> bool:
        given = form.cleaned_data
        jid = given["jid"].strip()
        jid = jid if "@" in jid else f"{jid}@{self.instance.domain.name}"
        try:
            self.set(room, jid, given["affiliation"])
        except InvalidInput as error:
            form.blame(error)
            return False
        messages.success(self.request, _("%s is set.") % jid)
        return True

    def set(self, room: Room, jid: str, affiliation: str) -> None:
        rooms.set_affiliation(
            instance=self.instance, name=room.local.text, jid=jid, affiliation=affiliation, principal=self.principal
        )

    def change(self, room: Room) -> None:
        """New owners first: the last one cannot be taken away."""
        wanted = {
            name.removeprefix(PREFIX): value
            for name, value in self.request.POST.items()
            if name.startswith(PREFIX) and value in AFFILIATIONS
        }
        differs = [
            (jid, kind) for jid, kind in wanted.items() if jid in room.affiliations and room.affiliations[jid] != kind
        ]
        done = 0
        for jid, kind in sorted(differs, key=lambda item: item[1] != "owner"):
            try:
                self.set(room, jid, kind)
                done += 1
            except RoostError as error:
                messages.error(self.request, forms.said(error))
        if done:
            messages.success(self.request, ngettext("%d change is made.", "%d changes are made.", done) % done)
        elif not differs:
            messages.info(self.request, _("Nothing was different."))


class Export(RoomView):
    scopes = {"GET": ("read", "rooms")}

    def get(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        try:
            room = self.found(name)
        except RoostError as error:
            return self.away(error)
        rows = sorted(room.affiliations.items(), key=lambda item: (ORDER[item[1]], item[0]))
        safe = re.sub(r"[^a-z0-9-]", "-", room.local.text)[:60]
        return csvs.attachment([COLUMNS, *rows], f"room-{safe}.csv")


IS_SET = gettext_lazy("is set")


@dataclass(slots=True)
class Line:
    """``level``: ok (is set), quiet (is so already), bad (cannot be)."""

    number: int
    jid: str
    affiliation: str
    before: str = "none"
    level: str = "ok"
    says: str | Promise = IS_SET

    @property
    def kind(self) -> presets.Affiliation | None:
        return presets.AFFILIATIONS.get(self.affiliation)


def lines_of(text: str, room: Room) -> list[Line]:
    """What each line would do; who is not in the list stays as he is. Raises ``InvalidInput`` for what is no CSV."""
    found: list[Line] = []
    seen: set[str] = set()
    for number, (jid, affiliation) in enumerate(csvs.read(text, columns=COLUMNS, most=MOST), 1):
        line = Line(number, jid, affiliation.lower() or "member")
        found.append(line)
        try:
            line.jid = str(Jid.parse(jid, field="text"))
        except InvalidInput as error:
            line.level, line.says = "bad", str(error)
            continue
        line.before = room.affiliations.get(line.jid, "none")
        if line.affiliation not in AFFILIATIONS:
            line.level, line.says = "bad", gettext_lazy("is no affiliation: use owner, admin, member, none or outcast")
        elif line.jid in seen:
            line.level, line.says = "bad", gettext_lazy("is in the list twice")
        elif line.before == line.affiliation:
            line.level, line.says = "quiet", gettext_lazy("is so already")
        seen.add(line.jid)
    return found


class Import(RoomView):
    """Without ``sure`` nothing is changed."""

    scopes = {"GET": ("rooms",), "POST": ("rooms",)}

    def get(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        try:
            room = self.found(name)
        except RoostError as error:
            return self.away(error)
        return self.show("room_import.html", room, {"form": forms.Csv(), "most": MOST})

    def show(self, template: str, room: Room, context: dict[str, Any], status: int = 200) -> HttpResponse:
        return self.page(template, {"room": room, "jid": f"{room.local}@{self.muc}", **context}, status=status)

    def post(self, request: HttpRequest, key: str, name: str) -> HttpResponse:
        form = forms.Csv(request.POST, request.FILES)
        try:
            room = self.found(name)
            if not form.is_valid():
                return self.show("room_import.html", room, {"form": form, "most": MOST}, 422)
            text = form.cleaned_data["text"]
            lines = lines_of(text, room)
        except InvalidInput as error:
            form.blame(error)
            return self.show("room_import.html", room, {"form": form, "most": MOST}, 422)
        except RoostError as error:
            return self.away(error)
        todo = [line for line in lines if line.level == "ok"]
        if request.POST.get("sure") != "yes":
            return self.show("room_preview.html", room, {"lines": lines, "text": text, "ready": len(todo)})
        done = 0
        for line in sorted(todo, key=lambda one: one.affiliation != "owner"):
            try:
                rooms.set_affiliation(
                    instance=self.instance,
                    name=room.local.text,
                    jid=line.jid,
                    affiliation=line.affiliation,
                    principal=self.principal,
                )
                done += 1
            except RoostError as error:
                messages.error(request, forms.said(error))
        messages.success(request, ngettext("%d line is taken over.", "%d lines are taken over.", done) % done)
        return redirect("portal:room-people", key=key, name=room.local.text)
