"""Reads a bundle, or what another program wrote by XEP-0227, as a stream of items in flat memory.

Files are followed by XInclude inside the directory only, each once at most, so that no set of files means more than it
is. What is there and not understood comes out as ``NotCarried``; what is harmful ends it with ``InvalidInput``.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from controlplane.portable import account, messages
from controlplane.portable import namespaces as ns
from controlplane.portable.documents import CHUNK, USUAL, Events, Limits, refused, root_of
from controlplane.portable.items import (
    PAGE_BYTES,
    PAGE_ITEMS,
    ArchivePage,
    FileRead,
    Item,
    NotCarried,
    RoomRead,
    UserRead,
)
from controlplane.portable.paths import beside, opened
from controlplane.portable.writer import StoredFile
from controlplane.portable.xmltext import split_name, to_text
from controlplane.values.errors import InvalidInput
from controlplane.values.names import Localpart

_OLD_HOST, _OLD_USER = f"{{{ns.PIE_OLD}}}host", f"{{{ns.PIE_OLD}}}user"
#: (container, child) that is a container too: it is walked through and never held as a whole.
_CONTAINERS = {
    ("top", ns.SERVER_DATA): "server-data",
    ("top", f"{{{ns.PIE_OLD}}}server-data"): "server-data",
    ("top", ns.HOST): "host",
    ("server-data", ns.HOST): "host",
    ("server-data", _OLD_HOST): "host",
    ("top", ns.USER): "user",
    ("host", ns.USER): "user",
    ("host", _OLD_USER): "user",
    ("user", ns.ARCHIVE): "archive",
    ("top", ns.ROOMS): "rooms",
    ("rooms", ns.ROOMS): "rooms",
    ("rooms", ns.ROOM): "room",
    ("room", ns.ARCHIVE): "archive",
    ("top", ns.UPLOADS): "uploads",
}
_INCLUDES_DEEP = 8


@dataclass(slots=True)
class _Owner:
    """The account or room that is being read."""

    kind: str
    host: str
    name: str
    opening: ElementTree.Element
    pieces: list[str] = field(default_factory=list)
    size: int = 0
    skip: bool = False
    waiting: list[str] = field(default_factory=list)  # archives to read when the owner is out
    pages: BinaryIO | None = None  # messages that stood before the owner's end
    out: bool = False
    page: list[str] = field(default_factory=list)
    page_bytes: int = 0

    @property
    def where(self) -> str:
        return f"{self.kind} {self.name[:100]}"


class Reader:
    """One reading of the files below ``root``, beginning with ``mains`` (paths below it).

    ``ours``: the bundle is one of ours, so elements that are not known here are passed on. ``host``: the domain of
    accounts whose file does not tell it.
    """

    def __init__(
        self, root: Path, mains: list[str], *, ours: bool = False, host: str = "", limits: Limits = USUAL
    ) -> None:
        self._root, self._mains, self._ours, self._limits = root, mains, ours, limits
        self._host = host
        self._seen: set[str] = set()
        self._owner: _Owner | None = None

    def __iter__(self) -> Iterator[Item]:
        for path in self._mains:
            try:
                yield from self._document(path, "top", 0)
            except FileNotFoundError as error:
                raise refused(path, "It is missing.") from error

    def _document(self, path: str, context: str, level: int) -> Iterator[Item]:
        """The root element of ``path`` as if it stood in ``context``."""
        if path in self._seen:
            raise refused(path, "It is included more than once.")
        self._seen.add(path)
        if len(self._seen) > self._limits.files:
            raise refused(path, f"More than {self._limits.files} files are included.")
        with opened(self._root, path) as stream:
            events = Events(stream, path, self._limits)
            around: list[tuple[str, ElementTree.Element, str]] = []
            leaf: ElementTree.Element | None = None
            begun, inner = 0, 0
            for event, element in events:
                if leaf is not None:
                    inner += 1
                    if inner > 2 * self._limits.piece_elements or events.position - begun > self._limits.piece_bytes:
                        raise refused(path, f"<{split_name(leaf.tag)[1]}/> is too large to be held at once.")
                    if event == "end" and element is leaf:
                        yield from self._leaf(context, leaf, path, level)
                        leaf = None
                        if around:
                            around[-1][1].remove(element)
                elif event == "start":
                    kind = _CONTAINERS.get((context, element.tag))
                    if kind is None:
                        leaf, begun, inner = element, events.position, 0
                    else:
                        around.append((context, element, self._host))
                        context = kind
                        yield from self._begin(kind, element, path)
                else:
                    yield from self._end(context, element, path, level)
                    context, _, self._host = around.pop()
                    if around:
                        around[-1][1].remove(element)

    def _begin(self, kind: str, element: ElementTree.Element, path: str) -> Iterator[Item]:
        if kind in ("host", "rooms", "uploads"):
            self._host = element.get("jid", self._host)
        elif kind in ("user", "room"):
            raw = element.get("name", "")
            opening = ElementTree.Element(ns.USER if kind == "user" else ns.ROOM, dict(element.attrib))
            self._owner = owner = _Owner(kind, self._host, raw, opening)
            try:
                owner.name = Localpart.parse(raw).text
            except InvalidInput as error:
                owner.skip = True
                yield NotCarried(owner.where, "everything of it", f"its name cannot be had here: {error.message}")
                return
            opening.set("name", owner.name)
            if kind == "user":
                for made in account.of_attributes(element, owner.where):
                    yield from self._take(owner, made, path)
                opening.attrib = {"name": owner.name}

    def _leaf(self, context: str, element: ElementTree.Element, path: str, level: int) -> Iterator[Item]:
        """An element that is no container, whole."""
        owner = self._owner
        element.tail = None
        if element.tag == ns.INCLUDE:
            yield from self._include(context, element, path, level)
        elif context in ("user", "room", "archive") and owner is not None:
            if owner.skip:
                return
            if context == "archive":
                yield from self._message(owner, element)
            elif context == "room":
                yield from self._take(owner, element, path)
            else:
                if element.tag == f"{{{ns.PIE_OLD}}}offline-messages":
                    element.tag = f"{{{ns.PIE}}}offline-messages"
                for made in account.of_element(element, owner.where, ours=self._ours):
                    yield from self._take(owner, made, path)
        elif context == "uploads" and element.tag == ns.FILE:
            yield self._file(element, path)
        else:
            namespace, name = split_name(element.tag)
            yield NotCarried(path, f"<{name[:80]} xmlns='{namespace[:120]}'/>", "it has no place there")

    def _take(self, owner: _Owner, made: ElementTree.Element | NotCarried, path: str) -> Iterator[Item]:
        if isinstance(made, NotCarried):
            yield made
            return
        outer = ns.PIE if owner.kind == "user" else ns.OURS
        text = to_text(made, outer=outer)
        owner.size += len(text)
        if owner.size > self._limits.piece_bytes:
            raise refused(path, f"The {owner.where} is too large to be held at once.")
        owner.pieces.append(text)

    def _include(self, context: str, element: ElementTree.Element, path: str, level: int) -> Iterator[Item]:
        """XInclude 1.1 §4.2, whole XML files of the bundle only."""
        href = element.get("href", "")
        if element.get("parse", "xml") != "xml" or element.get("xpointer") is not None:
            raise refused(path, "It includes something else than a whole XML file.")
        target = beside(path, href)
        if level >= _INCLUDES_DEEP:
            raise refused(path, f"Files include each other more than {_INCLUDES_DEEP} deep.")
        if self._owner is not None and self._owner.skip:
            return
        try:
            with opened(self._root, target) as stream:
                root = root_of(stream.read(CHUNK), target)
        except FileNotFoundError:
            if self._ours:
                raise refused(path, f"It includes {href[:200]!r}, which is not there.") from None
            yield NotCarried(path, f"the file {href[:200]!r}", "it is included, but was not given")
            return
        if root == ns.ARCHIVE and context in ("user", "room") and self._owner is not None:
            self._owner.waiting.append(target)
        else:
            yield from self._document(target, context, level + 1)

    def _message(self, owner: _Owner, element: ElementTree.Element) -> Iterator[Item]:
        text = messages.of_result(element, ours=self._ours)
        if text is None:
            name = element.get("id", "")[:80] or split_name(element.tag)[1][:80]
            yield NotCarried(owner.where, f"the message {name!r} of the archive", "it has no message or no time")
            return
        owner.page.append(text)
        owner.page_bytes += len(text)
        if len(owner.page) >= PAGE_ITEMS or owner.page_bytes >= PAGE_BYTES:
            yield from self._turn(owner)

    def _turn(self, owner: _Owner) -> Iterator[Item]:
        """The page goes out, or onto disk while its owner is not complete."""
        page, owner.page, owner.page_bytes = owner.page, [], 0
        if page and owner.out:
            yield self._page(owner, page)
        elif page:
            if owner.pages is None:
                owner.pages = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as its owner
            messages.put_page(owner.pages, page)

    def _page(self, owner: _Owner, page: list[str]) -> ArchivePage:
        user = owner.kind == "user"
        return ArchivePage(owner.host, owner.name if user else None, None if user else owner.name, tuple(page))

    def _end(self, kind: str, element: ElementTree.Element, path: str, level: int) -> Iterator[Item]:
        if (text := (element.text or "").strip()) and (self._owner is None or not self._owner.skip):
            yield NotCarried(path, f"the text {text[:60]!r}", f"it has no place in <{split_name(element.tag)[1]}/>")
        owner = self._owner
        if kind not in ("user", "room") or owner is None:
            return
        if not owner.skip:
            yield from self._turn(owner)
            xml = to_text(owner.opening, more="".join(owner.pieces))
            owner.pieces, owner.out = [], True
            made = UserRead if kind == "user" else RoomRead
            yield made(owner.host, owner.name, xml)
            if owner.pages is not None:
                with owner.pages as pages:
                    for page in messages.get_pages(pages):
                        yield self._page(owner, page)
            for archive in owner.waiting:
                yield from self._document(archive, kind, level + 1)
            yield from self._turn(owner)
        self._owner = None

    def _file(self, element: ElementTree.Element, path: str) -> FileRead:
        try:
            words = {key: element.attrib[key] for key in ("id", "path", "name", "type", "user", "at", "sha256", "href")}
            href = beside(path, words.pop("href"))
            return FileRead(self._host, StoredFile(**words, size=int(element.attrib["size"]), href=href))
        except (KeyError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise refused(path, f"An uploaded file's entry cannot be read: {str(error)[:100]}.") from error


def digest_of(root: Path, path: str) -> str:
    """SHA-256 of a file of the bundle, hex."""
    digest = hashlib.sha256()
    with opened(root, path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
