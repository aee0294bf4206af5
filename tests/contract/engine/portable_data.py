"""A small organisation with one of everything that a backup has to hold, made by real clients and the control channel.

``fill`` makes it, ``everything`` cuts what was exported into the pieces that are compared: multisets per kind of data.
``leave`` takes it all away again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from xml.etree import ElementTree as ET

from controlplane.drivers.engine.base import EngineControl, ImportReport, PortableControl, RoomSettings
from controlplane.probes.client import ProbeClient, q
from controlplane.values.names import Jid
from controlplane.values.secret import Secret
from tests.contract.engine.features import PNG, publish
from tests.contract.engine.suite import PASSWORD, account, element, join, local, session
from tests.servers.engine import World

PIE, PIE_MAM, OURS = "urn:xmpp:pie:0", "urn:xmpp:pie:0#mam", "urn:roost:portable:1"
PUBSUB, OWNER, DATA = "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/pubsub#owner", "jabber:x:data"
ROSTER, PRIVATE, BLOCKING, MAM = "jabber:iq:roster", "jabber:iq:private", "urn:xmpp:blocking", "urn:xmpp:mam:2"
DEVICES, BUNDLE = "eu.siacs.conversations.axolotl.devicelist", "eu.siacs.conversations.axolotl.bundles:31415"
AXOLOTL, BOOKMARKS, OPENPGP = "eu.siacs.conversations.axolotl", "urn:xmpp:bookmarks:1", "urn:xmpp:openpgp:0"
AVATAR_DATA, AVATAR_INFO = "urn:xmpp:avatar:data", "urn:xmpp:avatar:metadata"

AWAY = Secret("absent but not forgotten")
#: XEP-0045 §5.2: all that are kept.
AFFILIATED = {
    "owner@acme.example": "owner",
    "admin@globex.example": "admin",
    "ann@acme.example": "member",
    "jürgen@globex.example": "member",
    "evil@example.net": "outcast",
}
ROOMS = {
    "lobby": RoomSettings(title='Lobby "& <more>', description="First line; second -- ü", listed=True, language="de"),
    "board": RoomSettings(title="Board", access="members", moderated=True, anonymity="none"),
    "böse-ecke": RoomSettings(archived=False),
}
#: What is in an archive has to survive, whatever it looks like on the way.
WORDS = ["Hello", "two\nlines\titem({});\n});", "<&>\"' ünï ☃ 🐦", "]]>--;\\", " blank around "]


async def _ann(world: World, client: ProbeClient, bob: str, away: str) -> None:
    friends = [element("group", ROSTER, text=text) for text in ("Friends", "Ärger & Co")]
    for jid, name, groups in ((bob, "Bob <b>", friends), ("carol@globex.example", "", [])):
        await client.iq("set", "", element("query", ROSTER, element("item", ROSTER, *groups, jid=jid, name=name)))
    await client.send_presence(to=bob, type="subscribe")
    block = [element("item", BLOCKING, jid=jid) for jid in ("evil@example.net", "spam.example")]
    await client.iq("set", "", element("block", BLOCKING, *block))
    await client.iq("set", "", element("query", PRIVATE, element("prefs", "exodus:prefs", text="Hamlet & Co")))
    never = element("never", MAM, element("jid", MAM, text="gossip@example.net"))
    await client.iq("set", "", element("prefs", MAM, element("always", MAM), never, default="always"))
    await _publish(client)
    await join(client, f"lobby@{world.acme.spec.components.muc}", "Änn")
    for words in WORDS:
        await client.send_message(bob, words)
        await client.send_message(away, words)
        await client.send_message(f"lobby@{world.acme.spec.components.muc}", words, type="groupchat")
    await client.wait_message(lambda m: m.findtext(q("body")) == WORDS[-1])


async def _publish(client: ProbeClient) -> None:
    """OMEMO (XEP-0384), OpenPGP (XEP-0373), bookmarks (XEP-0402), an avatar (XEP-0084)."""
    device = element("list", AXOLOTL, element("device", AXOLOTL, id="31415"))
    await client.iq("set", "", publish(DEVICES, device, access_model="open"))
    keys = [
        element(name, AXOLOTL, text=base64.b64encode(name.encode()).decode()) for name in ("identityKey", "preKeys")
    ]
    await client.iq("set", "", publish(BUNDLE, element("bundle", AXOLOTL, *keys), access_model="open"))
    key = element("pubkey", OPENPGP, element("data", OPENPGP, text="bm8ga2V5"))
    await client.iq("set", "", publish(f"{OPENPGP}:public-keys:AB12", key, access_model="open"))
    for room in ("lobby", "board", "elsewhere"):
        mark = element("conference", BOOKMARKS, element("nick", BOOKMARKS, text="Änn"), name=room, autojoin="true")
        options = {"persist_items": "true", "max_items": "max", "access_model": "whitelist"}
        await client.iq("set", "", publish(BOOKMARKS, mark, id=f"{room}@rooms.example", **options))
    sha1 = hashlib.sha1(PNG).hexdigest()
    picture = element("data", AVATAR_DATA, text=base64.b64encode(PNG).decode())
    await client.iq("set", "", publish(AVATAR_DATA, picture, id=sha1))
    about = element("info", AVATAR_INFO, bytes=str(len(PNG)), id=sha1, type="image/png")
    await client.iq("set", "", publish(AVATAR_INFO, element("metadata", AVATAR_INFO, about), id=sha1))


async def _people(world: World) -> None:
    ann, bob = account(world, "ann"), account(world, "bob")
    away = world.jid("away")
    async with session(world, ann) as client, session(world, bob) as other:
        await _ann(world, client, bob, away)
        await other.wait_presence(lambda p: p.get("type") == "subscribe")
        await other.send_presence(to=ann, type="subscribed")
        card = element("vCard", "vcard-temp", element("FN", "vcard-temp", text="Bob ü"))
        await other.iq("set", "", card)
        # A request that nobody has answered yet.
        await other.send_presence(to=away, type="subscribe")
        await other.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"))
        await client.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"))


def fill(world: World) -> None:
    control = world.acme.control
    control.create_account(local("away"), AWAY)
    control.create_account(local("locked"), PASSWORD)
    control.set_account_enabled(local("locked"), False)
    for name, settings in ROOMS.items():
        control.create_room(local(name), settings, Jid.parse("owner@acme.example"))
        for jid, affiliation in AFFILIATED.items():
            control.set_affiliation(local(name), Jid.parse(jid), affiliation)
    asyncio.run(_people(world))


def leave(control: EngineControl) -> None:
    for found in control.list_accounts():
        control.delete_account(found.local)
    for room in control.list_rooms():
        control.delete_room(room.local)


def archive_of(control: PortableControl, *, limit: int = 500, **place: object) -> list[str]:
    """A whole archive, page by page."""
    items: list[str] = []
    cursor = ""
    while True:
        page, cursor = control.export_archive(cursor=cursor, limit=limit, **place)  # type: ignore[arg-type]
        assert len(page) <= limit
        items += page
        if not cursor:
            return items


def exported(control: PortableControl) -> dict[str, list[str]]:
    """The whole instance: users, rooms and an archive for each, as an import wants them."""
    found = {"users": [control.export_user(local(name)) for name in control.export_accounts()]}
    found["rooms"] = [control.export_room(local(name)) for name in control.export_rooms()]
    for name in control.export_accounts():
        found[f"user {name}"] = archive_of(control, owner=local(name))
    for name in control.export_rooms():
        found[f"room {name}"] = archive_of(control, room=local(name))
    return found


def take_in(control: PortableControl, found: dict[str, list[str]], *, replace: bool = False) -> ImportReport:
    report = ImportReport()
    for xml in found["users"]:
        report += control.import_user(xml, replace=replace)
    for xml in found["rooms"]:
        report += control.import_room(xml, replace=replace)
    for place, items in found.items():
        kind, _, name = place.partition(" ")
        if kind == "user":
            report += control.import_archive(items, owner=local(name))
        elif kind == "room":
            report += control.import_archive(items, room=local(name))
    return report


def text_of(item: ET.Element) -> str:
    """The same text for the same element (C14N 2.0), whatever wrote it."""
    return ET.canonicalize(ET.tostring(item, "unicode"), rewrite_prefixes=True)


def _parts_of_user(user: ET.Element) -> list[tuple[str, str]]:
    who, parts = user.get("name", ""), []
    for child in user:
        match child.tag:
            case str() if child.tag in (q("query", ROSTER), q("query", PRIVATE), q("blocklist", BLOCKING)):
                for item in child:
                    item[:] = sorted(item, key=text_of)
                parts += [(child.tag, text_of(item)) for item in child]
            case str() if child.tag == q("pubsub", OWNER):
                parts += [(f"{part.tag} {part.get('node')}", text) for part in child for text in _settings(part)]
            case str() if child.tag == q("pubsub", PUBSUB):
                parts += [(f"items {part.get('node')}", text_of(item)) for part in child for item in part]
            case str() if child.tag == q("offline-messages", PIE):
                parts += [(child.tag, text_of(item)) for item in child]
            case _:
                parts.append((child.tag, text_of(child)))
    return [(f"{kind} of {who}", text) for kind, text in parts]


def _settings(part: ET.Element) -> list[str]:
    form = part.find(q("x", DATA))
    return [text_of(item) for item in (part if form is None else form)]


def everything(found: dict[str, list[str]]) -> dict[str, Counter[str]]:
    """What was exported as multisets of pieces per kind of data and owner."""
    kinds: dict[str, Counter[str]] = {}
    for xml in found["users"]:
        for kind, text in _parts_of_user(ET.fromstring(xml)):
            kinds.setdefault(kind, Counter())[text] += 1
    for xml in found["rooms"]:
        room = ET.fromstring(xml)
        for part in room:
            pieces = [text_of(part)] if part.tag == q("subject", OURS) or not len(part) else [text_of(i) for i in part]
            for text in pieces:
                kinds.setdefault(f"{part.tag} of room {room.get('name')}", Counter())[text] += 1
    for place, items in found.items():
        if place not in ("users", "rooms"):
            kinds[f"archive of {place}"] = Counter(text_of(ET.fromstring(item)) for item in items)
    return kinds


def differences(one: dict[str, Counter[str]], other: dict[str, Counter[str]]) -> dict[str, tuple[list[str], list[str]]]:
    """For each kind that is not the same in both: what only the first has, and what only the other has."""
    empty: Counter[str] = Counter()
    found = {}
    for kind in one.keys() | other.keys():
        first, second = one.get(kind, empty), other.get(kind, empty)
        if first != second:
            found[kind] = (sorted((first - second).elements()), sorted((second - first).elements()))
    return found
