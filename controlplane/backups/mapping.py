"""One's own domains under another name, wherever they stand in portable elements: for a restore into another instance.

A value is rewritten only if the whole of it is an address (a JID, an ``xmpp:`` or an ``https:`` URI) of one of the
domains. What people wrote stays as it is, but for a text that is nothing but an uploaded file's address.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree

from controlplane.portable.xmltext import from_text, to_text

_CLIENT = "{jabber:client}"
#: Texts that people wrote.
_WORDS = frozenset({f"{_CLIENT}subject", "{vcard-temp}DESC", "{vcard-temp}NOTE", "{urn:roost:portable:1}subject"})
_BODY = f"{_CLIENT}body"
#: RFC 7622 §3.1: up to the first "/" is a bare JID; there is at most one "@" in front of the domain.
_JID = re.compile(r"(?:([^@/<>'\"\s]{1,1023})@)?([^@/\s]{1,253})(/.*)?", re.DOTALL)
_XMPP = re.compile(r"(xmpp:(?://[^/?#\s]*/)?)([^?#\s]+)(.*)", re.DOTALL)
_HTTPS = re.compile(r"((?:https|aesgcm)://)([^/:?#\s]+)((?::\d+)?(?:[/?#]\S*)?)")


class DomainMapping:
    """``domains``: A-label form of each own domain (components too) -> its new one. ``rewritten``: where and how often.

    Domains are compared as written and in A-labels, without regard to case (RFC 7622 §3.2).
    """

    def __init__(self, domains: Mapping[str, str]) -> None:
        self._new = {}
        for old, new in domains.items():
            self._new[old.lower()] = new
            try:
                self._new[old.encode().decode("idna").lower()] = new
            except UnicodeError:
                continue
        self._directories: dict[str, str] = {}
        self.rewritten: Counter[str] = Counter()

    def learn(self, user: str) -> None:
        """``user``, an old bare JID, has uploaded files: ejabberd's addresses of them have a digest of it."""
        new = self.jid(user)
        self._directories[hashlib.sha1(user.encode()).hexdigest()] = hashlib.sha1(new.encode()).hexdigest()  # noqa: S324

    def path(self, path: str) -> str:
        """An uploaded file's identifier, or the path of its address, as it is now."""
        return "/".join(self._directories.get(part, part) for part in path.split("/"))

    def jid(self, text: str) -> str:
        """The JID, with its domain as it is now called; any other text as it is."""
        match = _JID.fullmatch(text)
        new = self._new.get(match[2].rstrip(".").lower()) if match is not None else None
        if match is None or new is None:
            return text
        local = f"{match[1]}@" if match[1] is not None else ""
        return f"{local}{new}{match[3] or ''}"

    def value(self, text: str, where: str) -> str:
        """An attribute's or an element's whole value; ``where`` is counted if it changes."""
        lead, inner, tail = _trimmed(text)
        made = self._made(inner)
        if made == inner:
            return text
        self.rewritten[where] += 1
        return f"{lead}{made}{tail}"

    def _made(self, text: str) -> str:
        if len(text) > 3000:
            return text
        if match := _XMPP.fullmatch(text):
            return f"{match[1]}{self.jid(match[2])}{match[3]}"
        if match := _HTTPS.fullmatch(text):
            new = self._new.get(match[2].lower())
            return text if new is None else f"{match[1]}{new}{self.path(match[3])}"
        return self.jid(text)

    def xml(self, text: str) -> str:
        """An element (a user, a room, a message of an archive) with all addresses in it as they are now."""
        element = from_text(text)
        self.element(element)
        return to_text(element)

    def element(self, root: ElementTree.Element) -> None:
        """The same in place."""
        todo = [root]
        while todo:
            at = todo.pop()
            name = at.tag.rpartition("}")[2]
            for key, value in at.items():
                at.set(key, self.value(value, f"{name}/@{key.rpartition('}')[2]}"))
            is_plain = at.tag not in _WORDS and not len(at)
            if at.text and is_plain and (at.tag != _BODY or _HTTPS.fullmatch(at.text.strip())):
                at.text = self.value(at.text, name)
            todo.extend(at)

    def report(self, most: int = 50) -> dict[str, int]:
        """Element or attribute -> how many were rewritten, the most frequent first."""
        return dict(self.rewritten.most_common(most))


def _trimmed(text: str) -> tuple[str, str, str]:
    inner = text.strip()
    begin = text.index(inner) if inner else 0
    return text[:begin], inner, text[begin + len(inner) :]


def between(old: Mapping[str, str], old_domain: str, new: Mapping[str, str], new_domain: str) -> dict[str, str]:
    """Domains of one instance -> those of another. ``old``, ``new``: kind of component -> domain, in A-labels."""
    return {old_domain: new_domain} | {old[kind]: new[kind] for kind in old if kind in new}
