"""Messages of an archive (XEP-0227 §4.11, XEP-0313): one judged, and pages of them on disk for a while.

A message without an identifier gets one from its content, so that importing twice does not double it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO
from xml.etree import ElementTree

from controlplane.portable import namespaces as ns
from controlplane.portable.xmltext import tidy, to_text

_FORWARDED = f"{{{ns.FORWARD}}}forwarded"
_DELAY = f"{{{ns.DELAY}}}delay"
_MESSAGE = f"{{{ns.CLIENT}}}message"
_SIZE = struct.Struct(">I")


def of_result(element: ElementTree.Element, *, ours: bool = False) -> str | None:
    """``<result>`` as text that stands by itself; None if it is none, or lacks its message or time.

    ``ours``: one of our engines exported it, so its white space is content.
    """
    if element.tag != ns.RESULT:
        return None
    forwarded = element.find(_FORWARDED)
    if forwarded is None or forwarded.find(_MESSAGE) is None:
        return None
    delay = forwarded.find(_DELAY)
    if delay is None or not delay.get("stamp"):
        return None
    if not ours:
        tidy(element, 3)
    if not element.get("id"):
        element.set("id", hashlib.sha256(to_text(element).encode()).hexdigest()[:32])
    return to_text(element)


def put_page(file: BinaryIO, page: Sequence[str]) -> None:
    """Appends a page for ``get_pages``."""
    file.write(_SIZE.pack(len(page)))
    for text in page:
        data = text.encode()
        file.write(_SIZE.pack(len(data)))
        file.write(data)


def get_pages(file: BinaryIO) -> Iterator[list[str]]:
    """All pages, in their order."""
    file.seek(0)
    while head := file.read(_SIZE.size):
        page = []
        for _ in range(_SIZE.unpack(head)[0]):
            (size,) = _SIZE.unpack(file.read(_SIZE.size))
            page.append(file.read(size).decode())
        yield page
