"""XML documents of any size, from anyone, read piece by piece: no document type, no entities, no excess.

Expat does the parsing. The prolog is looked at first by a parser of its own, which ends at a document type declaration,
so the second one never sees what could declare an entity. Memory is the caller's matter: it takes elements off.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast
from xml.etree import ElementTree
from xml.parsers import expat

from controlplane.values.errors import InvalidInput

CHUNK = 1 << 16
_LONG = 2048  # of a name with its namespace
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "utf-16", "iso-8859-1"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What an XML document may have at most. Far above what XMPP servers let through (stanzas: 0.25 to 1 MiB)."""

    depth: int = 128
    attributes: int = 128
    #: Bytes (but for 128 KiB) without any tag, or within one: a value, or the start of a hoax.
    text_bytes: int = 8 << 20
    #: Of one piece that is held in memory at once, such as a roster, a node's items or an account without its archive.
    piece_bytes: int = 64 << 20
    piece_elements: int = 500_000
    #: Files of a bundle, and bytes of an archive file when it is unpacked.
    files: int = 2_000_000
    unpacked_bytes: int = 1 << 40


USUAL = Limits()


def refused(name: str, why: str) -> InvalidInput:
    """What is wrong with the XML in the file ``name``."""
    return InvalidInput("bundle", f"{name}: {why}")


def root_of(start: bytes, name: str, *, whole: bool = False) -> str:
    """The root element's ``{namespace}name``, from a document's first 64 KiB. Refuses a document type declaration.

    ``whole``: ``start`` is all of it, and has to be well-formed to its end.
    """
    found: list[str] = []
    parser: expat.XMLParserType = expat.ParserCreate(namespace_separator="}")

    def element(tag: str, _: object) -> None:
        found.append(f"{{{tag}" if "}" in tag else tag)
        parser.StartElementHandler = None  # one is enough, and calls into Python are what costs

    def doctype(*_: object) -> None:
        raise refused(name, "It has a document type declaration (DTD), which is never needed and can do harm.")

    def declaration(_: str, encoding: str | None, __: int) -> None:
        if encoding and encoding.lower() not in _ENCODINGS:
            raise refused(name, f"It is written in {encoding[:40]!r}; save it as UTF-8.")

    parser.StartElementHandler = element
    parser.StartDoctypeDeclHandler = doctype
    parser.XmlDeclHandler = declaration
    try:
        parser.Parse(start, whole)
    except expat.ExpatError as error:
        if whole or not found:
            raise refused(name, f"It is not well-formed XML: {error}.") from error
    except (LookupError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise refused(name, f"It is written in an unknown encoding: {error}.") from error
    if not found:
        raise refused(name, "No XML element begins in its first 64 KiB.")
    return found[0]


class Events:
    """("start" | "end", element) for a document's elements, while it is read. ``position``: bytes read so far.

    At "start" an element has its attributes; at "end" its content. Who wants flat memory removes what is done.
    """

    def __init__(self, stream: BinaryIO, name: str, limits: Limits) -> None:
        self.position = 0
        self._stream, self._name, self._limits = stream, name, limits

    def __iter__(self) -> Iterator[tuple[str, ElementTree.Element]]:
        start = self._stream.read(CHUNK)
        root_of(start, self._name)
        parser: ElementTree.XMLPullParser[ElementTree.Element] = ElementTree.XMLPullParser(("start", "end"))
        depth, quiet, chunk = 0, 0, start
        while True:
            quiet += len(chunk)
            self.position += len(chunk)
            for event, element in self._fed(parser, chunk):
                quiet = 0
                if event == "end":
                    depth -= 1
                else:
                    depth += 1
                    self._check(element, depth)
                yield event, element
            if quiet > self._limits.text_bytes:
                raise refused(self._name, f"A value or a tag is longer than {self._limits.text_bytes} bytes.")
            if not chunk:
                return
            chunk = self._stream.read(CHUNK)

    def _fed(
        self, parser: ElementTree.XMLPullParser[ElementTree.Element], chunk: bytes
    ) -> Iterator[tuple[str, ElementTree.Element]]:
        try:
            if chunk:
                parser.feed(chunk)
            else:
                parser.close()
            yield from cast(Iterator[tuple[str, ElementTree.Element]], parser.read_events())
        except ElementTree.ParseError as error:
            raise refused(self._name, f"It is not well-formed XML, or cut off: {error}.") from error
        except (LookupError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise refused(self._name, f"It cannot be read: {error}.") from error

    def _check(self, element: ElementTree.Element, depth: int) -> None:
        if depth > self._limits.depth:
            raise refused(self._name, f"Elements are nested more than {self._limits.depth} deep.")
        if len(element.attrib) > self._limits.attributes:
            raise refused(self._name, f"An element has more than {self._limits.attributes} attributes.")
        if len(element.tag) > _LONG or (element.attrib and max(map(len, element.attrib)) > _LONG):
            raise refused(self._name, f"A name in it is longer than {_LONG} characters.")


def parse(data: bytes, *, name: str = "element", limits: Limits = USUAL) -> ElementTree.Element:
    """A small document's root element, whole. ``InvalidInput`` for what ``Events`` refuses."""
    if len(data) > limits.piece_bytes:
        raise refused(name, f"It is longer than {limits.piece_bytes} bytes.")
    root: ElementTree.Element | None = None
    for number, (_, element) in enumerate(Events(io.BytesIO(data), name, limits)):
        root = element if root is None else root
        if number > 2 * limits.piece_elements:
            raise refused(name, f"It has more than {limits.piece_elements} elements.")
    assert root is not None  # else Events has raised
    return root
