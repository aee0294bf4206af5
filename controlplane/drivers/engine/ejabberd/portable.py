"""``PortableControl`` for ejabberd: an instance's accounts, rooms, archives and files as portable elements, and back.

The other half is Erlang, ``modules/roost_portable*.erl``. Here pages are cut so that no call keeps ejabberd's one
connection to its database for long.
"""

from __future__ import annotations

import datetime
import mimetypes
import re
from collections.abc import Iterator, Sequence
from typing import Any

from controlplane.drivers.engine.base import ImportReport, Upload
from controlplane.values.names import Localpart
from controlplane.values.spec import InstanceSpec

PORTABLE_TIMEOUT_S = 60.0
#: What one call writes in one transaction: some 10 ms, in which nobody else uses the database.
IMPORT_ITEMS, IMPORT_BYTES = 100, 256 * 1024


class EjabberdPortable:
    """The portable half of ``EjabberdControl``, which gives ``_spec`` and ``_call``: one call of its channel."""

    _spec: InstanceSpec

    def _call(self, name: str, *, timeout_s: float = 10.0, **arguments: Any) -> Any:
        raise NotImplementedError

    def _long(self, name: str, **arguments: Any) -> Any:
        return self._call(name, timeout_s=PORTABLE_TIMEOUT_S, **arguments)

    def export_accounts(self, after: str = "", limit: int = 500) -> list[str]:
        return list(self._long("export_accounts", after=after, limit=limit))

    def export_user(self, local: Localpart) -> str:
        return str(self._long("export_user", username=local.text))

    def export_archive(
        self, *, owner: Localpart | None = None, room: Localpart | None = None, cursor: str = "", limit: int = 500
    ) -> tuple[list[str], str]:
        found = self._long("export_archive", **_place(owner, room), cursor=cursor, limit=limit)
        return list(found["items"]), str(found["next"])

    def export_rooms(self, after: str = "", limit: int = 500) -> list[str]:
        return list(self._long("export_rooms", after=after, limit=limit))

    def export_room(self, local: Localpart) -> str:
        return str(self._long("export_room", room=local.text))

    def export_uploads(self, after: str = "", limit: int = 500) -> list[Upload]:
        below = self._spec.paths.uploads.relative_to(self._spec.paths.root)
        return [_upload(entry, str(below)) for entry in self._long("export_uploads", after=after, limit=limit)]

    def import_uploads(self, uploads: Sequence[Upload]) -> tuple[ImportReport, dict[str, str]]:
        """Where below the root each id's bytes belong; ejabberd keeps no list of files, so nothing is asked of it."""
        below = self._spec.paths.uploads.relative_to(self._spec.paths.root)
        paths = {u.id: f"{below}/{u.id}/{u.name}" for u in uploads if _is_own(u)}
        refused = tuple(
            (f"file {upload.name}", "its address is not one of ejabberd's") for upload in uploads if not _is_own(upload)
        )
        return ImportReport(made=len(paths), refused=refused), paths

    def import_user(self, xml: str, *, replace: bool = False) -> ImportReport:
        return _report(self._long("import_user", xml=xml, replace=replace))

    def import_room(self, xml: str, *, replace: bool = False) -> ImportReport:
        return _report(self._long("import_room", xml=xml, replace=replace))

    def import_archive(
        self, items: Sequence[str], *, owner: Localpart | None = None, room: Localpart | None = None
    ) -> ImportReport:
        total = ImportReport()
        for part in _parts(items):
            total += _report(self._long("import_archive", items=part, **_place(owner, room)))
        return total


def _place(owner: Localpart | None, room: Localpart | None) -> dict[str, str | None]:
    """Exactly one of the two has an archive."""
    if (owner is None) == (room is None):
        raise ValueError("An archive is an account's or a room's.")
    return {"owner": owner.text if owner else None, "room": room.text if room else None}


def _parts(items: Sequence[str]) -> Iterator[list[str]]:
    """``items`` in their order, cut by number and by size. No items are one empty part: its place is looked at too."""
    part: list[str] = []
    size = 0
    for item in items:
        if part and (len(part) >= IMPORT_ITEMS or size + len(item) > IMPORT_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item)
    yield part


def _report(found: dict[str, Any]) -> ImportReport:
    return ImportReport(
        made=int(found["made"]),
        changed=int(found["changed"]),
        skipped=int(found["skipped"]),
        refused=tuple((str(what), str(why)) for what, why in found["refused"]),
    )


def _is_own(upload: Upload) -> bool:
    """An address as mod_http_upload makes them: its user's directory, something that nobody can guess, a name."""
    plain = upload.name not in ("", ".", "..") and not re.search(r"[/\x00-\x1f\x7f]", upload.name)
    return plain and re.fullmatch(r"[0-9a-f]{40}/[0-9A-Za-z_-]{1,100}", upload.id) is not None


def _upload(entry: dict[str, Any], below: str) -> Upload:
    """ejabberd keeps no content type: it tells it from the name when the file is fetched, too."""
    return Upload(
        id=entry["id"],
        path=f"{below}/{entry['path']}",
        name=entry["name"],
        size=int(entry["size"]),
        type=mimetypes.guess_type(entry["name"])[0] or "application/octet-stream",
        user=entry["user"],
        at=datetime.datetime.fromtimestamp(entry["at"], datetime.UTC),
    )
