"""What an instance has, as facts that can be counted and compared, from an engine's export or from XMPP itself.

It shares no code with what writes and reads bundles, so that it cannot be wrong in the same way. ``tally`` compares.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from controlplane.values.errors import InvalidInput

PIE, OURS, DATA = "{urn:xmpp:pie:0}", "{urn:roost:portable:1}", "{jabber:x:data}"
PUBSUB, OWNER = "{http://jabber.org/protocol/pubsub}", "{http://jabber.org/protocol/pubsub#owner}"
_STAMP = re.compile(r"(\d{4,})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?")
_SPELLINGS = {"true": "1", "false": "0"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One piece: its kind (contact, PEP item, user message, …), whose it is, what names it there, and its value.

    ``day``: ISO date, for kinds that are rolled up by days.
    """

    kind: str
    owner: str
    what: str
    value: str
    day: str = ""


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise InvalidInput("xml", "A document type declaration is not taken.")


def _element(xml: str | ElementTree.Element) -> ElementTree.Element:
    if isinstance(xml, ElementTree.Element):
        return xml
    try:
        return ElementTree.fromstring(xml, ElementTree.XMLParser(target=_Builder()))  # noqa: S314  # no DTD, see above
    except ElementTree.ParseError as error:
        raise InvalidInput("xml", f"It is not well-formed XML: {error}.") from error


def canonical(element: ElementTree.Element) -> str:
    """Text that is the same for elements that mean the same: sorted attributes, no white space between elements."""
    words = [f"{key}={value!r}" for key, value in sorted(element.attrib.items())]
    inner = [_meant(element.text, element)]
    for child in element:
        inner.append(canonical(child))
        inner.append(_meant(child.tail, element))
    return f"<{' '.join([element.tag, *words])}>{''.join(inner)}</>"


def _meant(text: str | None, parent: ElementTree.Element) -> str:
    return "" if not text or (len(parent) and not text.strip()) else repr(text)


def instant(stamp: str) -> int:
    """Microseconds since year 1 of an XEP-0082 time; what is none counts by its text."""
    match = _STAMP.fullmatch(stamp.strip())
    if match is None:
        return -1 - int.from_bytes(hashlib.sha256(stamp.encode()).digest()[:6])
    try:
        moment = datetime.datetime(*map(int, match.groups()[:6]))  # type: ignore[arg-type]
    except ValueError:
        return -1 - int.from_bytes(hashlib.sha256(stamp.encode()).digest()[:6])
    whole = (moment - datetime.datetime.min) // datetime.timedelta(seconds=1)
    zone = match[8] or "Z"
    if zone != "Z":
        shift = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        whole += -shift if zone[0] == "+" else shift
    return whole * 1_000_000 + int((match[7] or "0")[:6].ljust(6, "0"))


def of_user(xml: str | ElementTree.Element) -> Iterator[Fact]:
    """Facts of one ``<user/>`` (XEP-0227), an archive in it too."""
    user = _element(xml)
    name = user.get("name", "")
    yield Fact("account", name, "", "disabled" if user.find(f"{OURS}disabled") is not None else "enabled")
    for child in user:
        yield from _of_part(name, child)


def _of_part(name: str, part: ElementTree.Element) -> Iterator[Fact]:
    if part.tag == f"{OURS}disabled":
        return
    if part.tag == "{urn:xmpp:pie:0#scram}scram-credentials":
        yield of_credentials(name, part)
    elif part.tag == "{jabber:iq:roster}query":
        yield from (of_contact(name, item) for item in part)
    elif part.tag == "{jabber:client}presence":
        yield Fact("request", name, _bare(part.get("from", "")), "")
    elif part.tag == "{vcard-temp}vCard":
        yield Fact("vCard", name, "", canonical(part))
    elif part.tag == "{jabber:iq:private}query":
        yield from (Fact("private storage", name, child.tag, canonical(child)) for child in part)
    elif part.tag == "{urn:xmpp:blocking}blocklist":
        yield from (Fact("block", name, item.get("jid", ""), "") for item in part)
    elif part.tag == "{urn:xmpp:mam:2}prefs":
        lists = [sorted(jid.text or "" for jid in part.iterfind(f"{{urn:xmpp:mam:2}}{word}/*")) for word in _LISTS]
        yield Fact("archive preferences", name, "", repr((part.get("default"), lists)))
    elif part.tag == f"{PIE}offline-messages":
        yield from (Fact("offline message", name, message.get("id", ""), _message(message)) for message in part)
    elif part.tag == f"{OWNER}pubsub":
        yield from _of_nodes(name, part)
    elif part.tag == f"{PUBSUB}pubsub":
        for items in part:
            for item in items:
                yield of_pep_item(name, items.get("node", ""), item)
    elif part.tag == "{urn:xmpp:pie:0#mam}archive":
        yield from (of_message(result, owner=name) for result in part)
    else:
        yield Fact("other", name, part.tag, canonical(part))


_LISTS = ("always", "never")


def of_credentials(name: str, element: ElementTree.Element) -> Fact:
    """One mechanism's, by value and not by how its base64 is broken."""
    values = {child.tag.rpartition("}")[2]: "".join((child.text or "").split()) for child in element}
    parts = [values.pop("iter-count", "")]
    for key in sorted(values):
        try:
            parts.append(f"{key} {base64.b64decode(values[key]).hex()}")
        except ValueError:
            parts.append(f"{key} {values[key]!r}")
    return Fact("credentials", name, element.get("mechanism", ""), " ".join(parts))


def of_contact(name: str, item: ElementTree.Element) -> Fact:
    """A roster's item: an export's, or as a client gets it (RFC 6121 §2)."""
    groups = sorted(group.text or "" for group in item)
    state = (item.get("name") or "", item.get("subscription") or "none", item.get("ask") or "")
    return Fact("contact", name, item.get("jid", ""), repr((*state, item.get("approved") in ("1", "true"), groups)))


def of_pep_item(name: str, node: str, item: ElementTree.Element) -> Fact:
    """An item of a node, by its payload (XEP-0060 §7.1)."""
    return Fact("PEP item", name, f"{node} {item.get('id', '')}", "".join(map(canonical, item)))


def _of_nodes(name: str, pubsub: ElementTree.Element) -> Iterator[Fact]:
    for part in pubsub:
        node = part.get("node", "")
        if part.tag == f"{OWNER}configure":
            yield Fact("PEP node", name, node, "")
            yield from (Fact("PEP setting", name, f"{node} {var}", value) for var, value in _fields(part))
        else:
            word = part.tag.rpartition("}")[2].removesuffix("s")
            for child in part:
                what = f"{node} {child.get('jid', '')}"
                yield Fact(f"PEP {word}", name, what, child.get(word, ""))


def _fields(parent: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """A data form's fields (XEP-0004) with their values, whose order means nothing."""
    for field in parent.iter(f"{DATA}field"):
        if field.get("var", "FORM_TYPE") != "FORM_TYPE":
            values = [_SPELLINGS.get(value.text or "", value.text or "") for value in field.iter(f"{DATA}value")]
            yield field.get("var", ""), repr(sorted(value for value in values if value))


def of_room(xml: str | ElementTree.Element) -> Iterator[Fact]:
    """Facts of one ``<room/>`` of ours, an archive in it too."""
    room = _element(xml)
    name = room.get("name", "")
    yield Fact("room", name, "", "")
    for part in room:
        if part.tag == f"{DATA}x":
            yield from (Fact("room setting", name, var, value) for var, value in _fields(part))
        elif part.tag == f"{OURS}subject":
            yield Fact("subject", name, "", repr((part.text or "", part.get("by", ""))))
        elif part.tag == f"{OURS}affiliations":
            # "none" is what everybody has; ejabberd remembers whom it was given to.
            yield from (of_affiliation(name, item) for item in part if item.get("affiliation") != "none")
        elif part.tag == f"{OURS}hats":
            yield from (Fact("hat", name, f"{hat.get('jid')} {hat.get('uri')}", hat.get("title", "")) for hat in part)
        elif part.tag == "{urn:xmpp:pie:0#mam}archive":
            yield from (of_message(result, room=name) for result in part)
        else:
            yield Fact("other of a room", name, part.tag, canonical(part))


def of_affiliation(name: str, item: ElementTree.Element) -> Fact:
    """A line of a member list: an export's, or a ``muc#admin`` item (XEP-0045 §9.5)."""
    reason = next((child.text or "" for child in item if child.tag.endswith("}reason")), "")
    return Fact("affiliation", name, item.get("jid", ""), repr((item.get("affiliation"), item.get("nick", ""), reason)))


def of_message(
    xml: str | ElementTree.Element, *, owner: str | None = None, room: str | None = None, archive: str = ""
) -> Fact:
    """A ``<result/>`` of a user's or a room's archive. ``archive``: whose own ``<stanza-id/>`` is not content."""
    result = _element(xml)
    delay = result.find("{urn:xmpp:forward:0}forwarded/{urn:xmpp:delay}delay")
    stamp = delay.get("stamp", "") if delay is not None else ""
    message = result.find("{urn:xmpp:forward:0}forwarded/{jabber:client}message")
    content = "" if message is None else _message(message, archive)
    at = instant(stamp)
    day = str((datetime.datetime.min + datetime.timedelta(microseconds=at)).date()) if at >= 0 else ""
    kind = "user message" if room is None else "room message"
    return Fact(kind, (owner if room is None else room) or "", result.get("id", ""), f"{at} {content}", day)


def _message(message: ElementTree.Element, archive: str = "") -> str:
    parts = [f"{key}={value!r}" for key, value in sorted(message.attrib.items())]
    for child in message:
        if child.tag == "{urn:xmpp:delay}delay":
            parts.append(f"delay {child.get('from')} {instant(child.get('stamp', ''))}")
        elif not (archive and child.tag == "{urn:xmpp:sid:0}stanza-id" and child.get("by") == archive):
            parts.append(canonical(child))
    return " ".join(parts)


def of_file(*, user: str, id: str, name: str, size: int, type: str, sha256: str) -> Fact:
    """An uploaded file, by the digest of its content."""
    return Fact("file", user, id, repr((name, size, type, sha256)))


def _bare(jid: str) -> str:
    return jid.partition("/")[0]
