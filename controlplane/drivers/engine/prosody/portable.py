"""``PortableControl`` for Prosody: an instance's accounts, rooms, archives and files as portable elements, and back.

The other half is Lua, ``modules/roost_portable.lib.lua``. Here pages are cut so that no call keeps Prosody's clients
waiting, and what is longer than a stanza of its admin socket is sent in pieces.
"""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from controlplane.drivers.engine.base import ImportReport, Upload
from controlplane.values.names import Localpart

EXPORT_TIMEOUT_S = 60.0  # Prosody lets others have their turn meanwhile
IMPORT_TIMEOUT_S = 60.0
#: What one call imports: some 10 ms, in which nobody else has a turn.
IMPORT_ITEMS, IMPORT_BYTES = 250, 256 * 1024
#: Prosody takes stanzas of 1 MiB: XML as base64 in JSON has to fit with everything around it.
PIECE_BYTES = 512 * 1024


class ProsodyPortable:
    """The portable half of ``ProsodyControl``, which gives ``_call``: one call of its channel."""

    def _call(self, name: str, *, timeout_s: float = 10.0, payload: bytes = b"", **arguments: Any) -> Any:
        raise NotImplementedError

    def export_accounts(self, after: str = "", limit: int = 500) -> list[str]:
        return list(self._call("export_accounts", after=after, limit=limit, timeout_s=EXPORT_TIMEOUT_S))

    def export_user(self, local: Localpart) -> str:
        return str(self._call("export_user", username=local.text, timeout_s=EXPORT_TIMEOUT_S))

    def export_archive(
        self, *, owner: Localpart | None = None, room: Localpart | None = None, cursor: str = "", limit: int = 500
    ) -> tuple[list[str], str]:
        found = self._call(
            "export_archive", **_place(owner, room), cursor=cursor, limit=limit, timeout_s=EXPORT_TIMEOUT_S
        )
        return _unpacked(found["packed"]), str(found["cursor"])

    def export_rooms(self, after: str = "", limit: int = 500) -> list[str]:
        return list(self._call("export_rooms", after=after, limit=limit, timeout_s=EXPORT_TIMEOUT_S))

    def export_room(self, local: Localpart) -> str:
        return str(self._call("export_room", room=local.text, timeout_s=EXPORT_TIMEOUT_S))

    def export_uploads(self, after: str = "", limit: int = 500) -> list[Upload]:
        found = self._call("export_uploads", after=after, limit=limit, timeout_s=EXPORT_TIMEOUT_S)
        return [_upload(entry) for entry in found]

    def import_uploads(self, uploads: Sequence[Upload]) -> tuple[ImportReport, dict[str, str]]:
        """Note files down, so that their old addresses lead to them; and where below the root each id's bytes belong.

        ``path`` and what is on disk are not looked at. A file without its bytes is gone (410) for who asks for it.
        """
        entries = [
            {"id": u.id, "name": u.name, "size": u.size, "type": u.type, "user": u.user, "at": int(u.at.timestamp())}
            for u in uploads
        ]
        total, paths = ImportReport(), dict[str, str]()
        for start in range(0, len(entries), IMPORT_ITEMS):
            part = entries[start : start + IMPORT_ITEMS]
            found = self._call("import_uploads", uploads=part, timeout_s=IMPORT_TIMEOUT_S)
            total += _report(found["report"])
            paths |= found["paths"] or {}
        return total, paths

    def import_user(self, xml: str, *, replace: bool = False) -> ImportReport:
        return _report(self._import("import_user", xml.encode(), replace=replace))

    def import_room(self, xml: str, *, replace: bool = False) -> ImportReport:
        return _report(self._import("import_room", xml.encode(), replace=replace))

    def import_archive(
        self, items: Sequence[str], *, owner: Localpart | None = None, room: Localpart | None = None
    ) -> ImportReport:
        place, total = _place(owner, room), ImportReport()
        for part in _parts(items):
            packed = _packed(part)
            if len(packed) > PIECE_BYTES:
                total += _report(self._import("import_archive", packed, **place))
            else:
                total += _report(self._call("import_archive", payload=packed, **place, timeout_s=IMPORT_TIMEOUT_S))
        return total

    def _import(self, name: str, raw: bytes, **arguments: Any) -> Any:
        transfer = uuid.uuid4().hex
        for start in range(0, len(raw), PIECE_BYTES):
            self._call("import_piece", transfer=transfer, payload=raw[start : start + PIECE_BYTES])
        return self._call(name, transfer=transfer, **arguments, timeout_s=IMPORT_TIMEOUT_S)


def _place(owner: Localpart | None, room: Localpart | None) -> dict[str, Any]:
    if (owner is None) == (room is None):
        raise TypeError("an archive has an owner or a room")
    return {"owner": owner.text} if owner is not None else {"room": room.text}  # type: ignore[union-attr]


def _parts(items: Sequence[str]) -> Iterator[list[bytes]]:
    """``items`` in portions that are short in number and in bytes; one that is long alone is a portion of its own."""
    part: list[bytes] = []
    size = 0
    for item in items:
        data = item.encode()
        if part and (len(part) >= IMPORT_ITEMS or size + len(data) > IMPORT_BYTES):
            yield part
            part, size = [], 0
        part.append(data)
        size += len(data)
    if part:
        yield part


def _packed(part: Sequence[bytes]) -> bytes:
    """Each with its length before it, so that Lua has to look through none of them."""
    return b"".join(b"%d:%b" % (len(data), data) for data in part)


def _unpacked(packed: str) -> list[str]:
    """What ``roost_archive.lib.lua`` packed: the same, in base64."""
    data, at, items = base64.b64decode(packed), 0, []
    while at < len(data):
        colon = data.index(b":", at)
        start = colon + 1
        at = start + int(data[at:colon])
        items.append(data[start:at].decode())
    return items


def _report(found: dict[str, Any]) -> ImportReport:
    refused = tuple((str(what), str(why)) for what, why in found["refused"])
    return ImportReport(int(found["made"]), int(found["changed"]), int(found["skipped"]), refused)


def _upload(entry: dict[str, Any]) -> Upload:
    return Upload(
        id=entry["id"],
        path=entry["path"],
        name=entry["name"],
        size=int(entry["size"]),
        type=entry["type"],
        user=entry["user"],
        at=datetime.datetime.fromtimestamp(entry["at"], datetime.UTC),
    )
