"""An organisation whose people use everything, made by real clients: what a proof of backups and moves begins with.

How many there are of what is told by ``Size``. ``make`` needs a running world (tests.servers.engine) and tells what
nobody can find out afterwards: passwords, and where files are.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from controlplane.drivers.engine.base import RoomSettings
from controlplane.probes.client import ProbeClient, q
from controlplane.values.names import Jid
from controlplane.values.secret import Secret
from tests import comparer
from tests.contract.engine.features import PNG, UPLOAD, publish
from tests.contract.engine.suite import element, join, local, session
from tests.servers.engine import World

AXOLOTL, BOOKMARKS = "eu.siacs.conversations.axolotl", "urn:xmpp:bookmarks:1"
AVATAR = "urn:xmpp:avatar"
AFFILIATED = ("admin@globex.example", "member@globex.example", "jürgen@globex.example", "evil@example.net")


@dataclass(frozen=True)
class Size:
    """``messages``: in all archives together, of people and of rooms; each is in two archives of people."""

    accounts: int = 6
    rooms: int = 3
    messages: int = 240
    files: int = 3

    @classmethod
    def wanted(cls) -> Size:
        """The issue's full size if ROOST_LEAVING=full, else one that every test run can make."""
        return cls(200, 50, 100_000, 40) if os.environ.get("ROOST_LEAVING") == "full" else cls()


@dataclass
class Made:
    """``files``: the address of each -> what is in it (``comparer.of_file``)."""

    passwords: dict[str, Secret] = field(default_factory=dict)
    rooms: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    bundles: dict[str, str] = field(default_factory=dict)


def make(world: World, size: Size) -> Made:
    control, made = world.acme.control, Made()
    names = [f"person{n}" for n in range(size.accounts)]
    for name in names:
        made.passwords[name] = Secret(f"of {name}: {os.urandom(6).hex()}")
        control.create_account(local(name), made.passwords[name])
    for n in range(size.rooms):
        name, owner = f"room{n}", f"{names[n % len(names)]}@{world.acme.domain}"
        settings = RoomSettings(title=f"Room {n} «&»", description="…", listed=n % 2 == 0, moderated=n % 3 == 0)
        control.create_room(local(name), settings, Jid.parse(owner))
        for jid, affiliation in zip(AFFILIATED, ("admin", "member", "member", "outcast"), strict=True):
            control.set_affiliation(local(name), Jid.parse(jid), affiliation)
        made.rooms.append(name)
    asyncio.run(_all(world, size, names, made))
    return made


async def _all(world: World, size: Size, names: list[str], made: Made) -> None:
    each = max(1, size.messages // (3 * size.accounts))
    said = size.messages // (3 * max(1, size.rooms))
    for n, name in enumerate(names):
        friend = names[(n + 1) % len(names)]
        async with session(world, world.jid(name), made.passwords[name]) as client:
            await _person(world, client, n, friend, made)
            for number in range(each):
                await client.send_message(world.jid(friend), f"{name} says «{number}» & <more> to {friend}")
                if number % 50 == 49:  # no faster than the server reads
                    await client.iq("get", "", element("ping", "urn:xmpp:ping"))
            await client.iq("get", "", element("ping", "urn:xmpp:ping"))
            for room in [r for m, r in enumerate(made.rooms) if m % len(names) == n]:
                await _room(client, f"{room}@{world.acme.spec.components.muc}", name, said)
            if n < size.files:
                await _file(world, client, os.urandom(3000 + n), made)


async def _person(world: World, client: ProbeClient, number: int, friend: str, made: Made) -> None:
    roster = element(
        "item", comparer.ROSTER, element("group", comparer.ROSTER, text="Ärger & Co"), name=f"Friend {number}"
    )
    roster.set("jid", world.jid(friend))
    await client.iq("set", "", element("query", comparer.ROSTER, roster))
    await client.send_presence(to=world.jid(friend), type="subscribe")
    block = element("block", comparer.BLOCKING, element("item", comparer.BLOCKING, jid=f"spam{number}@example.net"))
    await client.iq("set", "", block)
    note = element("prefs", "exodus:prefs", text=f"note {number}")
    await client.iq("set", "", element("query", comparer.PRIVATE, note))
    device = element("list", AXOLOTL, element("device", AXOLOTL, id=str(1000 + number)))
    await client.iq("set", "", publish(f"{AXOLOTL}.devicelist", device, access_model="open"))
    key = element("identityKey", AXOLOTL, text=base64.b64encode(os.urandom(33)).decode())
    pre = element(
        "prekeys", AXOLOTL, *(element("preKeyPublic", AXOLOTL, preKeyId=str(k), text="cHJl") for k in range(5))
    )
    node = f"{AXOLOTL}.bundles:{1000 + number}"
    await client.iq("set", "", publish(node, element("bundle", AXOLOTL, key, pre), access_model="open"))
    made.bundles[world.jid(f"person{number}")] = node
    sha1 = hashlib.sha1(PNG).hexdigest()
    picture = element("data", f"{AVATAR}:data", text=base64.b64encode(PNG).decode())
    await client.iq("set", "", publish(f"{AVATAR}:data", picture, id=sha1))
    about = element("info", f"{AVATAR}:metadata", bytes=str(len(PNG)), id=sha1, type="image/png")
    await client.iq("set", "", publish(f"{AVATAR}:metadata", element("metadata", f"{AVATAR}:metadata", about), id=sha1))
    mark = element("conference", BOOKMARKS, name=f"Room of {number}", autojoin="true")
    options = {"persist_items": "true", "max_items": "max", "access_model": "whitelist"}
    await client.iq("set", "", publish(BOOKMARKS, mark, id=f"room{number}@rooms.example", **options))
    await client.iq("get", "", element("ping", "urn:xmpp:ping"))


async def _room(client: ProbeClient, room: str, nick: str, said: int) -> None:
    await join(client, room, nick)
    subject = ET.Element(q("message"), {"to": room, "type": "groupchat"})
    ET.SubElement(subject, q("subject")).text = f"Subject of {room} <&>"
    client.send(subject)
    for number in range(said):
        await client.send_message(room, f"{nick} tells all: «{number}»", type="groupchat")
        if number % 50 == 49:
            await client.wait_message(lambda m, n=number: m.findtext(q("body")) == f"{nick} tells all: «{n}»")
            client.collect(lambda m: m.tag == q("message"))
    await client.wait_message(lambda m: (m.findtext(q("body")) or "").endswith(f"«{said - 1}»"), timeout_s=60)
    await client.send_presence(to=f"{room}/{nick}", type="unavailable")


async def _file(world: World, client: ProbeClient, content: bytes, made: Made) -> None:
    ask = {"filename": "näme.bin", "content-type": "application/octet-stream", "size": str(len(content))}
    slot = await client.iq("get", str(world.acme.spec.components.upload), element("request", UPLOAD, **ask))
    put, get = slot.find(f".//{q('put', UPLOAD)}"), slot.find(f".//{q('get', UPLOAD)}")
    assert put is not None
    assert get is not None
    headers = {h.get("name", ""): h.text or "" for h in put.iter(q("header", UPLOAD))}
    status, said = await asyncio.to_thread(fetched, world, "PUT", put.get("url", ""), content, headers)
    assert status in (200, 201), said
    made.files[get.get("url", "")] = comparer.of_file(content)


def fetched(world: World, method: str, where: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    url = urlsplit(where)
    path = url.path + (f"?{url.query}" if url.query else "")
    named = {"Content-Type": "application/octet-stream", **headers} if body is not None else headers
    response, got = world.acme.https(method, path, host=url.hostname or "", body=body, headers=named)
    return response.status, got


def seen(world: World, made: Made) -> comparer.Seen:
    """All that they find: each logs in with the password it always had."""
    return asyncio.run(_seen(world, made))


async def _seen(world: World, made: Made) -> comparer.Seen:
    found: comparer.Seen = {}
    names = list(made.passwords)
    for n, name in enumerate(names):
        async with session(world, world.jid(name), made.passwords[name]) as client:
            found |= await comparer.of_account(client)
            for room in [r for m, r in enumerate(made.rooms) if m % len(names) == n]:
                found |= await comparer.of_room(client, f"{room}@{world.acme.spec.components.muc}", name)
            # A contact that is no friend yet reads the keys: OMEMO nodes are open (XEP-0384 §8).
            for jid, node in made.bundles.items():
                wanted = element("pubsub", comparer.PUBSUB, element("items", comparer.PUBSUB, node=node))
                answer = await client.iq("get", jid, wanted)
                keys = Counter(comparer.plain(item) for item in answer.iter(q("item", comparer.PUBSUB)))
                found["keys read by others", f"{name} of {jid}"] = keys
                if len(names) > 20:
                    break
    for where in made.files:
        status, content = fetched(world, "GET", where, None, {})
        found["file", where] = Counter([comparer.of_file(content) if status == 200 else f"status {status}"])
    return found
