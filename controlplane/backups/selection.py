"""What of a backup is brought back: everything, or an account, a room, a room's member list, a time of an archive.

It comes from a request and is judged here, once; what is kept in the row is what ``as_json`` gives.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from controlplane.portable import facts
from controlplane.portable import namespaces as ns
from controlplane.portable.xmltext import from_text, to_text
from controlplane.values.errors import InvalidInput
from controlplane.values.names import Localpart

MOST_NAMES = 500
PARTS = ("accounts", "rooms", "member_lists", "archives")
_AFFILIATIONS = f"{{{ns.OURS}}}affiliations"
_EPOCH = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Archives:
    """Messages from ``since`` up to ``until`` (aware; None: no bound). ``accounts``, ``rooms``: whose; None: all."""

    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    accounts: frozenset[str] | None = None
    rooms: frozenset[str] | None = None

    def of(self, *, owner: str | None, room: str | None) -> bool:
        if owner is not None:
            return self.accounts is None or owner in self.accounts
        return self.rooms is None or room in self.rooms

    def has(self, result: str) -> bool:
        """Whether a ``<result/>`` is of that time."""
        at = int(facts.of_message(result, owner="").value.partition(" ")[0])
        return (self.since is None or at >= _micros(self.since)) and (self.until is None or at <= _micros(self.until))


@dataclass(frozen=True, slots=True)
class Selection:
    """All of it if ``whole``. ``exact``: who is not on a saved member list is taken off the present one."""

    whole: bool = False
    accounts: frozenset[str] = frozenset()
    rooms: frozenset[str] = frozenset()
    member_lists: frozenset[str] = frozenset()
    archives: Archives | None = None
    exact: bool = False

    def user(self, name: str) -> bool:
        return self.whole or name in self.accounts

    def room(self, name: str) -> bool:
        return self.whole or name in self.rooms

    def messages(self, *, owner: str | None, room: str | None) -> bool:
        """Whether any message of that archive is wanted."""
        if self.user(owner) if owner is not None else self.room(room or ""):
            return True
        return self.archives is not None and self.archives.of(owner=owner, room=room)

    def message(self, result: str, *, owner: str | None, room: str | None) -> bool:
        """Of an archive of which any is wanted."""
        if self.user(owner) if owner is not None else self.room(room or ""):
            return True
        return self.archives is not None and self.archives.has(result)


WHOLE = Selection(whole=True)


def member_list(room_xml: str) -> str:
    """The ``<room/>`` with nothing but its affiliations."""
    room = from_text(room_xml)
    found = ElementTree.Element(ns.ROOM, {"name": room.get("name", "")})
    found.extend(child for child in room if child.tag == _AFFILIATIONS)
    return to_text(found)


def affiliations(room_xml: str) -> dict[str, str]:
    """JID -> affiliation of a ``<room/>``."""
    found = from_text(room_xml).find(_AFFILIATIONS)
    given = [] if found is None else [(item.get("jid", ""), item.get("affiliation", "none")) for item in found]
    return {jid: affiliation for jid, affiliation in given if affiliation != "none"}


def from_json(value: Mapping[str, Any], *, whole: bool) -> Selection:
    """``InvalidInput`` names what does not fit."""
    if whole:
        return WHOLE
    strange = set(value) - {*PARTS, "exact"}
    if strange:
        raise InvalidInput(f"selection.{min(strange)[:40]}", "Nothing of that name can be selected.")
    archives = value.get("archives")
    found = Selection(
        accounts=_names(value.get("accounts"), "accounts"),
        rooms=_names(value.get("rooms"), "rooms"),
        member_lists=_names(value.get("member_lists"), "member_lists"),
        archives=None if archives is None else _archives(archives),
        exact=_flag(value.get("exact", False)),
    )
    if not (found.accounts or found.rooms or found.member_lists or found.archives):
        raise InvalidInput(
            "selection",
            "Nothing is selected.",
            remedy="Name accounts, rooms, member_lists, or archives with a time.",
        )
    return found


def as_json(selection: Selection) -> dict[str, Any]:
    """As it is kept, and shown."""
    if selection.whole:
        return {}
    found: dict[str, Any] = {name: sorted(getattr(selection, name)) for name in PARTS[:3] if getattr(selection, name)}
    if selection.exact:
        found["exact"] = True
    if selection.archives is not None:
        own = selection.archives
        found["archives"] = {
            **({"from": own.since.isoformat()} if own.since else {}),
            **({"to": own.until.isoformat()} if own.until else {}),
            **({"accounts": sorted(own.accounts)} if own.accounts is not None else {}),
            **({"rooms": sorted(own.rooms)} if own.rooms is not None else {}),
        }
    return found


def _archives(value: Any) -> Archives:
    if not isinstance(value, Mapping) or set(value) - {"from", "to", "accounts", "rooms"}:
        raise InvalidInput("selection.archives", "Give from and to, and accounts or rooms if not all are meant.")
    since, until = _moment(value.get("from"), "from"), _moment(value.get("to"), "to")
    if since is not None and until is not None and since > until:
        raise InvalidInput("selection.archives.to", "It ends before it begins.")
    accounts, rooms = (
        None if value.get(name) is None else _names(value[name], f"archives.{name}") for name in ("accounts", "rooms")
    )
    if accounts is not None or rooms is not None:  # who names some means no others
        accounts, rooms = accounts or frozenset(), rooms or frozenset()
    return Archives(since, until, accounts, rooms)


def _moment(value: Any, name: str) -> datetime.datetime | None:
    if value is None:
        return None
    try:
        at = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"selection.archives.{name}", "Give a time as 2026-05-01T12:00:00Z.") from None
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at


def _names(value: Any, field: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or len(value) > MOST_NAMES:
        raise InvalidInput(f"selection.{field}", f"Give a list of up to {MOST_NAMES} names.")
    try:
        return frozenset(Localpart.parse(name).text for name in value)
    except (InvalidInput, TypeError, AttributeError) as error:
        raise InvalidInput(f"selection.{field}", f"Give names as before the @: {error}") from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput("selection.exact", "Say true or false.")
    return value


def _micros(at: datetime.datetime) -> int:
    return (at - _EPOCH) // datetime.timedelta(microseconds=1)
