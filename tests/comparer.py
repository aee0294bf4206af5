"""What people find on a server, read over XMPP and HTTPS as their clients read it, and what of it differs.

For proofs that a restored instance has everything. It shares no code with what exports, imports or counts: it knows
only the protocols. Passwords of the accounts are needed, since it logs in as each of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from controlplane.probes.client import ProbeClient, StanzaError, q

ROSTER, PRIVATE, BLOCKING, MAM = "jabber:iq:roster", "jabber:iq:private", "urn:xmpp:blocking", "urn:xmpp:mam:2"
PUBSUB, OWNER = "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#owner"
ITEMS, RSM, DATA = "http://jabber.org/protocol/disco#items", "http://jabber.org/protocol/rsm", "jabber:x:data"
MUC_ADMIN, MUC_OWNER = "http://jabber.org/protocol/muc#admin", "http://jabber.org/protocol/muc#owner"
MUC, SID, FORWARD, DELAY = "http://jabber.org/protocol/muc", "urn:xmpp:sid:0", "urn:xmpp:forward:0", "urn:xmpp:delay"
AFFILIATIONS = ("owner", "admin", "member", "outcast")
PAGE = 200

#: (kind, owner) -> what there is of it, each with its number.
Seen = dict[tuple[str, str], Counter[str]]


def differences(one: Seen, other: Seen) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    """What only the first has and what only the second has, for each kind and owner that is not the same."""
    empty: Counter[str] = Counter()
    found = {}
    for key in one.keys() | other.keys():
        first, second = one.get(key, empty), other.get(key, empty)
        if first != second:
            found[key] = (sorted((first - second).elements())[:20], sorted((second - first).elements())[:20])
    return found


def total(seen: Seen) -> Counter[str]:
    """Kind -> how many."""
    found: Counter[str] = Counter()
    for (kind, _), pieces in seen.items():
        found[kind] += sum(pieces.values())
    return found


async def of_account(client: ProbeClient) -> Seen:
    """Everything of the account that is logged in, but files."""
    own, seen = client.bare_jid, dict[tuple[str, str], Counter[str]]()

    def add(kind: str, text: str) -> None:
        seen.setdefault((kind, own), Counter())[text] += 1

    roster = await client.iq("get", "", _made("query", ROSTER))
    for item in roster.iter(q("item", ROSTER)):
        groups = sorted(group.text or "" for group in item.iter(q("group", ROSTER)))
        words = [item.get(name, "") for name in ("jid", "name", "subscription", "ask")]
        add("contact", repr((words, groups)))
    for name, namespace in (("storage", "storage:bookmarks"), ("prefs", "exodus:prefs")):
        stored = await client.iq("get", "", _made("query", PRIVATE, _made(name, namespace)))
        for item in stored.find(q("query", PRIVATE)) or ():
            add("private", plain(item))
    blocked = await client.iq("get", "", _made("blocklist", BLOCKING))
    for item in blocked.iter(q("item", BLOCKING)):
        add("blocked", item.get("jid", ""))
    prefs = await client.iq("get", "", _made("prefs", MAM))
    for item in prefs.iter(q("prefs", MAM)):
        add("archive preferences", plain(item))
    try:
        card = await client.iq("get", "", _made("vCard", "vcard-temp"))
        for item in card.iter(q("vCard", "vcard-temp")):
            for part in item:  # whose own parts have no order (XEP-0054)
                part[:] = sorted(part, key=lambda child: (child.tag, child.text or ""))
                add("vCard", plain(part))
    except StanzaError:
        pass  # there is none
    await _nodes(client, own, seen)
    async for id, text in archive(client, ""):
        add("message", f"{id} {text}")
    return seen


async def _nodes(client: ProbeClient, own: str, seen: Seen) -> None:
    listed = await client.iq("get", own, _made("query", ITEMS))
    # Sessions are items of an account, too (XEP-0030); they have no node.
    for node in sorted(node for item in listed.iter(q("item", ITEMS)) if (node := item.get("node"))):
        found = await client.iq("get", own, _made("pubsub", PUBSUB, _made("items", PUBSUB, node=node)))
        pieces = seen.setdefault((f"node {node}", own), Counter())
        for item in found.iter(q("item", PUBSUB)):
            pieces[f"{item.get('id')} {' '.join(plain(part) for part in item)}"] += 1
        form = await client.iq("get", own, _made("pubsub", OWNER, _made("configure", OWNER, node=node)))
        seen[f"settings of {node}", own] = Counter(_fields(form))


async def of_room(client: ProbeClient, room: str, nick: str) -> Seen:
    """Everything of a room, as its owner finds it: settings, subject, the member list, the archive."""
    seen: Seen = {}
    await client.send_presence(_made("x", MUC, _made("history", MUC, maxstanzas="0")), to=f"{room}/{nick}")
    await client.wait_presence(lambda p: p.get("from") == f"{room}/{nick}")
    subject = await client.wait_stanza(
        lambda m: m.tag == q("message") and m.get("from", "").startswith(room) and m.find(q("subject")) is not None,
        "subject",
    )
    seen["subject", room] = Counter([subject.findtext(q("subject")) or ""])
    for affiliation in AFFILIATIONS:
        wanted = _made("query", MUC_ADMIN, _made("item", MUC_ADMIN, affiliation=affiliation))
        listed = await client.iq("get", room, wanted)
        seen[affiliation, room] = Counter(item.get("jid", "") for item in listed.iter(q("item", MUC_ADMIN)))
    seen["room settings", room] = Counter(_fields(await client.iq("get", room, _made("query", MUC_OWNER))))
    messages: Counter[str] = Counter()
    async for id, text in archive(client, room):
        messages[f"{id} {text}"] += 1
    seen["room message", room] = messages
    await client.send_presence(to=f"{room}/{nick}", type="unavailable")
    return seen


async def archive(client: ProbeClient, to: str) -> Iterator[tuple[str, str]]:  # type: ignore[misc]  # asynchronous
    """Identifier and content of each message of a whole archive, page by page (XEP-0313 §4, XEP-0059)."""
    after, owner = "", to or client.bare_jid
    while True:
        page = _made("set", RSM, _text("max", RSM, str(PAGE)), *([_text("after", RSM, after)] if after else []))
        answer = await client.iq("set", to, _made("query", MAM, page, queryid="compare"), timeout_s=60)
        fin = answer.find(q("fin", MAM))
        for message in client.collect(lambda m: m.find(q("result", MAM)) is not None):
            result = message.find(q("result", MAM))
            assert result is not None
            yield result.get("id", ""), _content(result, owner)
        last = fin.findtext(f"{q('set', RSM)}/{q('last', RSM)}") if fin is not None else None
        if fin is None or fin.get("complete") in ("true", "1") or not last or last == after:
            return
        after = last


def _content(result: ET.Element, owner: str) -> str:
    forwarded = result.find(q("forwarded", FORWARD))
    assert forwarded is not None
    delay, message = forwarded.find(q("delay", DELAY)), forwarded.find(q("message"))
    assert delay is not None
    assert message is not None
    for mark in message.findall(q("stanza-id", SID)):
        if mark.get("by") == owner:
            message.remove(mark)
    return f"{delay.get('stamp', '')[:19]} {plain(message)}"


def _fields(form: ET.Element) -> Iterator[str]:
    for field in form.iter(q("field", DATA)):
        if field.get("type") not in ("hidden", "fixed") and field.get("var"):
            yield f"{field.get('var')} {sorted(value.text for value in field.iter(q('value', DATA)) if value.text)}"


def of_file(content: bytes) -> str:
    """A file by what is in it."""
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}"


def plain(element: ET.Element) -> str:
    """The same text for the same element (C14N 2.0), without what stands after it."""
    element.tail = None
    return ET.canonicalize(ET.tostring(element, "unicode"), rewrite_prefixes=True)


def _made(name: str, namespace: str, *children: ET.Element, **attributes: str) -> ET.Element:
    element = ET.Element(q(name, namespace), attributes)
    element.extend(children)
    return element


def _text(name: str, namespace: str, text: str) -> ET.Element:
    element = ET.Element(q(name, namespace))
    element.text = text
    return element
