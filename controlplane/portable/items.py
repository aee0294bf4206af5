"""What a bundle, or another program's XEP-0227 file, is read as: one item after the other.

An account or a room comes before its messages. What cannot be carried is an item too, so that it is never lost
silently.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.portable.writer import StoredFile

PAGE_ITEMS = 500
PAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UserRead:
    """An account as one ``<user xmlns='urn:xmpp:pie:0' name=…>`` without its archive. ``host``: "" if not told."""

    host: str
    name: str
    xml: str


@dataclass(frozen=True, slots=True)
class RoomRead:
    """A room as one ``<room xmlns='urn:roost:portable:1' name=…>`` without its archive."""

    host: str
    name: str
    xml: str


@dataclass(frozen=True, slots=True)
class ArchivePage:
    """Up to 500 messages (or a megabyte) of a user's or a room's archive, in the order of the file."""

    host: str
    owner: str | None
    room: str | None
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileRead:
    """An uploaded file; its content is at ``file.href`` in the bundle."""

    host: str
    file: StoredFile


@dataclass(frozen=True, slots=True)
class NotCarried:
    """Something that is not taken over: ``where`` (an account, a room, a file), ``what`` and ``why``, for people."""

    where: str
    what: str
    why: str


Item = UserRead | RoomRead | ArchivePage | FileRead | NotCarried
