"""Writes a bundle from portable elements as engines hand them out, in one pass and flat memory.

Each element is parsed before it is written, so that what is kept can be read again. Large lists are split into parts
by XInclude (XEP-0227 §5); accounts stand whole in their part, as ejabberd's importer wants them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self, cast

from controlplane.portable import manifest
from controlplane.portable import namespaces as ns
from controlplane.portable.documents import CHUNK, USUAL, Limits, refused, root_of
from controlplane.portable.paths import checked, file_name
from controlplane.portable.sinks import Sink
from controlplane.portable.xmltext import from_text, quoted, to_text

PART_BYTES = 8 << 20
_HEAD = "<?xml version='1.0' encoding='UTF-8'?>\n"
_XI = f"xmlns:xi='{ns.XINCLUDE}'"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An uploaded file. ``id``: what its address has that nobody can guess; ``path``: where the engine had it.

    ``size`` in bytes; ``user``: its uploader's bare JID or ""; ``at``: when it was asked for, ISO 8601 in UTC.
    ``href``: where it is in the bundle; ``sha256`` of its content, hex.
    """

    id: str
    path: str
    name: str
    size: int
    type: str
    user: str
    at: str
    sha256: str = ""
    href: str = ""


class _Parts:
    """Elements in as many files as they need: ``<opening>…</closing>`` in each, a new one after ``limit`` bytes."""

    def __init__(self, writer: Writer, pattern: str, opening: str, closing: str, limit: int) -> None:
        self.paths: list[str] = []
        self._writer, self._pattern, self._limit = writer, pattern, limit
        self._opening, self._closing = opening, closing
        self._context: AbstractContextManager[BinaryIO] | None = None
        self._file: BinaryIO | None = None
        self._bytes = 0

    def add(self, text: str) -> None:
        if self._file is None:
            path = self._pattern.format(len(self.paths) + 1)
            self._context = self._writer.created(path)
            self._file = self._context.__enter__()
            self.paths.append(path)
            self._file.write(f"{_HEAD}{self._opening}\n".encode())
        data = text.encode()
        self._file.write(data)
        self._file.write(b"\n")
        self._bytes += len(data)
        if self._bytes >= self._limit:
            self.end()

    def end(self) -> None:
        if self._file is not None and self._context is not None:
            self._file.write(f"{self._closing}\n".encode())
            self._context.__exit__(None, None, None)
        self._file, self._context, self._bytes = None, None, 0

    def drop(self, error: BaseException) -> None:
        """The part that was begun does not come to be."""
        context, self._file, self._context = self._context, None, None
        if context is not None:
            try:
                context.__exit__(type(error), error, error.__traceback__)
            except BaseException as again:
                if again is not error:
                    raise


class Writer:
    """Use as a context manager: the manifest, which makes the bundle whole, is written at its end, not after an error.

    Order is free, but accounts, rooms and files each have to come sorted if the same data shall give the same bytes.
    """

    def __init__(self, sink: Sink, about: manifest.About, *, part_bytes: int = PART_BYTES) -> None:
        self.manifest: manifest.Manifest | None = None
        self._sink, self._about, self._part_bytes = sink, about, part_bytes
        self._counts: Counter[str] = Counter()
        self._sums = tempfile.SpooledTemporaryFile(CHUNK)  # noqa: SIM115  # until __exit__
        self._files = tempfile.SpooledTemporaryFile(CHUNK)  # noqa: SIM115  # until __exit__
        host = f"<host xmlns='{ns.PIE}' {_XI} jid={quoted(about.domain)}>"
        self._accounts = _Parts(self, "accounts-{:06}.xml", host, "</host>", part_bytes)
        muc = f"<rooms xmlns='{ns.OURS}' {_XI} jid={quoted(about.components.get('muc', ''))}>"
        self._rooms = _Parts(self, "rooms-{:06}.xml", muc, "</rooms>", part_bytes)
        self._open: list[_Parts] = [self._accounts, self._rooms]

    def add_user(self, xml: str, archive: Iterable[str] = ()) -> None:
        """A ``<user xmlns='urn:xmpp:pie:0'>`` and its messages, ``<result>`` elements, oldest first."""
        element = from_text(xml, name="user")
        name = element.get("name", "")
        if element.tag != ns.USER or not name or element.find(ns.INCLUDE) is not None:
            raise refused("user", "It is no <user/> of XEP-0227 with a name.")
        includes = self._archive(f"archives/{file_name(name)}", archive, "user_messages")
        self._accounts.add(to_text(element, outer=ns.PIE, more=includes))
        self._counts["accounts"] += 1

    def add_room(self, xml: str, archive: Iterable[str] = ()) -> None:
        """A ``<room xmlns='urn:roost:portable:1'>`` and its messages, as ``add_user``."""
        element = from_text(xml, name="room")
        name = element.get("name", "")
        if element.tag != ns.ROOM or not name or element.find(ns.INCLUDE) is not None:
            raise refused("room", "It is no <room/> with a name.")
        includes = self._archive(f"room-archives/{file_name(name)}", archive, "room_messages")
        self._rooms.add(to_text(element, outer=ns.OURS, more=includes))
        self._counts["rooms"] += 1

    def add_upload(self, file: StoredFile, chunks: Iterable[bytes]) -> StoredFile:
        """A file and its content; ``size``, ``sha256`` and ``href`` are set here. Returns it as it is in the index."""
        href = checked(f"uploads/{file_name(file.id)}/{file_name(file.name, keep_case=True)}")
        size, digest = 0, hashlib.sha256()
        with self.created(href) as target:
            for chunk in chunks:
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        words = {"id": file.id, "path": file.path, "name": file.name, "size": str(size), "type": file.type}
        words |= {"user": file.user, "at": file.at, "sha256": digest.hexdigest(), "href": href}
        line = " ".join(f"{key}={quoted(value)}" for key, value in words.items())
        text = f"<file {line}/>"
        from_text(text, name="uploads")  # a name from a file system may have what XML has no place for
        self._files.write(f"{text}\n".encode())
        self._counts["uploads"] += 1
        self._counts["upload_bytes"] += size
        return StoredFile(file.id, file.path, file.name, size, file.type, file.user, file.at, digest.hexdigest(), href)

    def _archive(self, directory: str, items: Iterable[str], count: str) -> str:
        """Writes the messages and returns the elements that include them."""
        parts = _Parts(
            self, directory + "/{:06}.xml", f"<archive xmlns='{ns.PIE_MAM}'>", "</archive>", self._part_bytes
        )
        self._open.append(parts)
        for item in items:
            check_result(item)
            parts.add(item)
            self._counts[count] += 1
        parts.end()
        self._open.remove(parts)
        return "".join(f"<xi:include href={quoted(path)}/>" for path in parts.paths)

    @contextmanager
    def created(self, path: str) -> Iterator[BinaryIO]:
        """A file of the bundle, whose digest goes to the list of digests."""
        with self._sink.create(path) as file:
            summed = _Summed(file)
            yield cast(BinaryIO, summed)
        self._sums.write(f"{summed.digest.hexdigest()}  {path}\n".encode())

    def finish(self) -> manifest.Manifest:
        """Called by the end of the ``with`` block."""
        for path, parts, opening, closing in (
            ("accounts.xml", self._accounts, f"<server-data xmlns='{ns.PIE}' {_XI}>", "</server-data>"),
            ("rooms.xml", self._rooms, f"<rooms xmlns='{ns.OURS}' {_XI}>", "</rooms>"),
        ):
            parts.end()
            includes = "".join(f"<xi:include href={quoted(part)}/>\n" for part in parts.paths)
            self._put(path, [f"{_HEAD}{opening}\n{includes}{closing}\n".encode()])
        upload = quoted(self._about.components.get("upload", ""))
        self._files.seek(0)
        self._put("uploads.xml", [f"{_HEAD}<uploads xmlns='{ns.OURS}' jid={upload}>\n".encode()], self._files)
        self._sums.seek(0)
        with self._sink.create(manifest.SUMS) as file:
            summed = _Summed(file)
            while chunk := self._sums.read(CHUNK):
                summed.write(chunk)
        names = ("accounts", "rooms", "user_messages", "room_messages", "uploads", "upload_bytes")
        made = manifest.Manifest(self._about, {name: self._counts[name] for name in names}, summed.digest.hexdigest())
        with self._sink.create(manifest.NAME) as file:
            file.write(made.to_json())
        self._sink.close()
        self.manifest = made
        return made

    def _put(self, path: str, pieces: list[bytes], more: object = None) -> None:
        with self.created(path) as file:
            for piece in pieces:
                file.write(piece)
            if more is self._files:
                while chunk := self._files.read(CHUNK):
                    file.write(chunk)
                file.write(b"</uploads>\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self.finish()
        except BaseException as failure:
            error = failure
            raise
        finally:
            if error is not None:
                for parts in self._open:
                    parts.drop(error)
                self._sink.abort()
            self._sums.close()
            self._files.close()


class _Summed:
    """A file that is written, and its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def check_result(text: str, limits: Limits = USUAL) -> None:
    """``InvalidInput`` if ``text`` is not one harmless, whole ``<result xmlns='urn:xmpp:mam:2' id=…>``.

    Only well-formedness is looked at (some µs); reading the bundle judges what is in it.
    """
    data = text.encode()
    if len(data) > limits.text_bytes:
        raise refused("archive", f"A message is longer than {limits.text_bytes} bytes.")
    if root_of(data, "archive", whole=True) != ns.RESULT:
        raise refused("archive", "A message is no <result xmlns='urn:xmpp:mam:2'/>.")
