"""``EngineControl`` for Prosody: each method one call over the admin socket, about a millisecond.

The other half is Lua, ``modules/roost_*.lib.lua``; here JSON becomes the contract's values.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from controlplane.drivers.engine.base import (
    AFFILIATIONS,
    Account,
    Health,
    Roll,
    RollMember,
    RollRoom,
    Room,
    RoomSettings,
    S2sConnection,
    Usage,
)
from controlplane.drivers.engine.prosody import channel
from controlplane.drivers.engine.prosody.portable import ProsodyPortable
from controlplane.values.errors import InvalidInput, Unavailable
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import InstanceSpec

CALL_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 30.0  # lists read a file for each account or room
PING_SLACK_S = 2.0  # for Prosody to notice its own time-out first


class ProsodyControl(ProsodyPortable):
    """The control channel of one running instance. Holds no connection: each call opens its own."""

    def __init__(self, spec: InstanceSpec, socket: Path | None = None) -> None:
        self._spec = spec
        self._socket: PurePath = socket or spec.paths.control_socket

    def _call(self, name: str, *, timeout_s: float = CALL_TIMEOUT_S, payload: bytes = b"", **arguments: Any) -> Any:
        domain = self._spec.domain
        return channel.call(self._socket, name, arguments, domain=domain, timeout_s=timeout_s, payload=payload)

    def health(self) -> Health:
        found = self._call("health")
        return Health(found["version"], float(found["uptime_s"]), int(found["sessions"]))

    def reload(self) -> None:
        self._call("reload")

    def create_account(self, local: Localpart, password: Secret) -> bool:
        return bool(self._call("create_account", username=local.text, password=password.reveal()))

    def set_password(self, local: Localpart, password: Secret) -> None:
        self._call("set_password", username=local.text, password=password.reveal())

    def set_account_enabled(self, local: Localpart, enabled: bool) -> None:
        self._call("set_account_enabled", username=local.text, enabled=enabled)

    def delete_account(self, local: Localpart) -> bool:
        return bool(self._call("delete_account", username=local.text, timeout_s=LIST_TIMEOUT_S))

    def list_accounts(self) -> Sequence[Account]:
        found = self._call("list_accounts", timeout_s=LIST_TIMEOUT_S)
        return sorted((_account(entry) for entry in found), key=lambda a: a.local)

    def list_rooms(self) -> Sequence[Room]:
        return sorted((_room(e) for e in self._call("list_rooms", timeout_s=LIST_TIMEOUT_S)), key=lambda r: r.local)

    def get_room(self, local: Localpart) -> Room | None:
        found = self._call("get_room", room=local.text)
        return _room(found) if found else None

    def create_room(self, local: Localpart, settings: RoomSettings, owner: Jid) -> bool:
        wanted = dataclasses.asdict(settings)
        return bool(self._call("create_room", room=local.text, settings=wanted, owner=str(owner)))

    def set_room_settings(self, local: Localpart, settings: RoomSettings) -> None:
        self._call("set_room_settings", room=local.text, settings=dataclasses.asdict(settings))

    def set_affiliation(self, room: Localpart, jid: Jid, affiliation: str) -> None:
        if affiliation not in AFFILIATIONS:
            raise InvalidInput("affiliation", f"There is no affiliation {affiliation!r}.")
        self._call("set_affiliation", room=room.text, jid=str(jid), affiliation=affiliation)

    def delete_room(self, local: Localpart) -> bool:
        return bool(self._call("delete_room", room=local.text))

    def roll(self, known: str = "") -> Roll:
        return _roll(self._call("roll", known=known, timeout_s=LIST_TIMEOUT_S))

    def s2s_connections(self) -> Sequence[S2sConnection]:
        found = [S2sConnection(**entry) for entry in self._call("s2s_connections")]
        return sorted(found, key=lambda c: (c.local, c.remote, c.direction))

    def close_s2s(self, local: DomainName, remote: DomainName) -> int:
        return int(self._call("close_s2s", local=local.ascii, remote=remote.ascii))

    def ping(self, remote: DomainName, timeout_s: float = 5.0, *, local: DomainName | None = None) -> float:
        asks = local or self._spec.domain
        answer = self._call(
            "ping", remote=remote.ascii, local=asks.ascii, timeout_s=timeout_s + PING_SLACK_S, wait_s=timeout_s
        )
        if "seconds" not in answer:
            raise Unavailable(f"{remote} does not answer {asks}: {answer.get('error') or 'no reason'}.")
        return float(answer["seconds"])

    def purge_dns_cache(self) -> None:
        self._call("purge_dns_cache")

    def usage(self) -> Usage:
        found = self._call("usage", timeout_s=LIST_TIMEOUT_S)
        return Usage(
            accounts=int(found["accounts"]),
            online=int(found["online"]),
            rooms=int(found["rooms"]),
            upload_bytes=int(found["upload_bytes"]),
        )


def _account(entry: dict[str, Any]) -> Account:
    seen = entry.get("last_active")
    return Account(
        local=Localpart(entry["username"]),
        enabled=entry["enabled"],
        online=entry["online"],
        last_active=datetime.datetime.fromtimestamp(seen, datetime.UTC) if seen else None,
    )


def _room(entry: dict[str, Any]) -> Room:
    return Room(
        local=Localpart(entry["room"]),
        settings=RoomSettings(**entry["settings"]),
        occupants=int(entry["occupants"]),
        subject=entry["subject"],
        affiliations={a["jid"]: a["affiliation"] for a in entry.get("affiliations") or []},
    )


def _roll(found: dict[str, Any]) -> Roll:
    digest, uptime_s = str(found["digest"]), float(found["uptime_s"])
    if found["same"]:
        return Roll(digest, uptime_s, None, None)
    whole = json.loads(found["text"])
    rooms = {
        name: RollRoom(RoomSettings(**room["settings"]), room["subject"], dict(room["affiliations"]))
        for name, room in whole["rooms"].items()
    }
    members = {name: RollMember(*member) for name, member in whole["members"].items()}
    return Roll(digest, uptime_s, rooms, members)
