"""Elements as text that every XMPP engine reads, and text as elements if it is harmless.

Engines differ in how well they know namespaces (ejabberd's parser does not look prefixes up), so elements are written
with ``xmlns`` and without prefixes. The other way round, no document type, no entity and no excess comes in.
"""

from __future__ import annotations

import re
from functools import lru_cache
from xml.etree import ElementTree

from controlplane.portable.documents import USUAL, Limits, parse
from controlplane.portable.namespaces import XML

_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_VALUE = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)
_SPECIAL = re.compile(r"[&<>'\r\n\t]")


def quoted(value: str) -> str:
    """An attribute's value with its quotes."""
    return f"'{value.translate(_VALUE)}'" if _SPECIAL.search(value) else f"'{value}'"


def _escaped(text: str) -> str:
    return text.translate(_TEXT) if _SPECIAL.search(text) else text


@lru_cache(4096)
def split_name(tag: str) -> tuple[str, str]:
    """(namespace, name) of ElementTree's ``{namespace}name``."""
    namespace, brace, name = tag[1:].partition("}") if tag.startswith("{") else ("", "}", tag)
    return (namespace, name) if brace else ("", tag)


def _opening(element: ElementTree.Element, outer: str) -> tuple[str, str, str]:
    """The start tag without its end, the name, and the namespace that holds inside."""
    namespace, name = split_name(element.tag)
    opening = f"<{name}" if namespace == outer else f"<{name} xmlns={quoted(namespace)}"
    for number, (key, value) in enumerate(element.items(), 1):
        word = key
        if key.startswith("{"):
            space, word = split_name(key)
            if space == XML:
                word = f"xml:{word}"
            elif space:
                opening += f" xmlns:ns{number}={quoted(space)}"
                word = f"ns{number}:{word}"
        opening += f" {word}={quoted(value)}"
    return opening, name, namespace


def tidy(element: ElementTree.Element, levels: int) -> None:
    """Takes the white space between elements off, so many levels deep: others indent, and text there means nothing."""
    if levels and len(element):
        if not (element.text or "").strip():
            element.text = None
        for child in element:
            if not (child.tail or "").strip():
                child.tail = None
            tidy(child, levels - 1)


def to_text(element: ElementTree.Element, *, outer: str = "", more: str = "") -> str:
    """``element`` as XML without its tail, to stand where ``outer`` is the default namespace.

    ``more``: XML text to put before the end tag. Not recursive, so depth costs no stack.
    """
    out: list[str] = []
    todo: list[tuple[ElementTree.Element | str, str]] = [(element, outer)]
    while todo:
        at, space = todo.pop()
        if isinstance(at, str):
            out.append(at)
            continue
        opening, name, inner = _opening(at, space)
        text, added = at.text or "", more if at is element else ""
        tail = _escaped(at.tail) if at.tail and at is not element else ""
        if len(at) or added:
            out.append(f"{opening}>{_escaped(text)}")
            todo.append((f"{added}</{name}>{tail}", ""))
            todo.extend([(child, inner) for child in reversed(at)])
        elif text:
            out.append(f"{opening}>{_escaped(text)}</{name}>{tail}")
        else:
            out.append(f"{opening}/>{tail}")
    return "".join(out)


def from_text(text: str, *, name: str = "element", limits: Limits = USUAL) -> ElementTree.Element:
    """The one element that ``text`` is. ``InvalidInput`` if it is none, or more than ``limits`` allow."""
    return parse(text.encode("utf-8", "surrogatepass"), name=name, limits=limits)
