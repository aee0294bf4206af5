"""What has to be gone is gone: an account's data when it is deleted, a message when its time is over.

Deleted is what is in none of the engine's files any more, whatever their form: they are searched for it, byte by byte.
Times are moved by putting old messages in; no clock is.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from controlplane.drivers.engine.base import EngineDriver, RoomSettings
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.probes.client import q
from controlplane.values.names import Jid
from tests import people
from tests.contract.engine import portable_data as data
from tests.contract.engine.features import UPLOAD, publish
from tests.contract.engine.suite import account, element, join, local, session, until
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

ENGINES: dict[str, tuple[EngineDriver, str]] = {"prosody": (prosody, "127.91"), "ejabberd": (ejabberd, "127.92")}


@pytest.fixture(scope="module", params=ENGINES)
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    driver, network = ENGINES[request.param]
    with running_world(driver, network=network, alone=True) as made:
        yield made


@pytest.fixture
def world(shared: World) -> World:
    data.leave(shared.acme.control)
    return shared


def found_in(world: World, marks: dict[str, bytes]) -> dict[str, list[str]]:
    """Mark -> the files of the instance that have it in them. Logs tell that somebody was there: they are not data."""
    found: dict[str, list[str]] = {}
    for top in ("data", "uploads"):
        for path in sorted((world.acme.root / top).rglob("*")):
            content = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
            for name, mark in marks.items():
                if mark in content:
                    found.setdefault(name, []).append(str(path.relative_to(world.acme.root)))
    return found


async def live(world: World, jid: str, marks: dict[str, bytes]) -> str:
    """Everything that a person leaves on a server, each piece with its mark; the address of the file."""
    words = {name: mark.decode() for name, mark in marks.items()}
    async with session(world, jid) as client:
        contact = element("item", data.ROSTER, jid="friend@globex.example", name=words["contact"])
        await client.iq("set", "", element("query", data.ROSTER, contact))
        block = element("item", data.BLOCKING, jid=f"{words['blocked']}@globex.example")
        await client.iq("set", "", element("block", data.BLOCKING, block))
        note = element("prefs", "exodus:prefs", text=words["private"])
        await client.iq("set", "", element("query", data.PRIVATE, note))
        card = element("vCard", "vcard-temp", element("FN", "vcard-temp", text=words["vCard"]))
        await client.iq("set", "", card)
        await client.iq("set", "", publish("urn:example:own", element("a", "urn:example:own", text=words["node"])))
        key = element("identityKey", data.AXOLOTL, text=words["keys"])
        await client.iq("set", "", publish(data.BUNDLE, element("bundle", data.AXOLOTL, key), access_model="open"))
        never = element("never", data.MAM, element("jid", data.MAM, text=f"{words['preferences']}@globex.example"))
        await client.iq("set", "", element("prefs", data.MAM, element("always", data.MAM), never, default="always"))
        for number in range(30):
            await client.send_message(jid, f"{words['message']} {number}")
        await client.wait_message(lambda m: (m.findtext(q("body")) or "").endswith(" 29"))
        ask = {"filename": f"{words['file name']}.bin", "content-type": "application/octet-stream"}
        slot = await client.iq(
            "get",
            str(world.acme.spec.components.upload),
            element("request", UPLOAD, size=str(len(marks["file"])), **ask),
        )
        put = slot.find(f".//{q('put', UPLOAD)}")
        assert put is not None
        headers = {h.get("name", ""): h.text or "" for h in put.iter(q("header", UPLOAD))}
        status, _ = await asyncio.to_thread(people.fetched, world, "PUT", put.get("url", ""), marks["file"], headers)
        assert status in (200, 201)
        return put.get("url", "")


KINDS = (
    *(
        "contact",
        "blocked",
        "private",
        "vCard",
        "node",
        "keys",
        "preferences",
        "message",
        "file",
        "file name",
        "offline",
    ),
)


def test_of_a_deleted_account_nothing_is_left_in_any_file(world: World) -> None:
    marks = {kind: f"mark{base64.b32encode(os.urandom(10)).decode().lower()}".encode() for kind in KINDS}
    name = f"leaver{os.urandom(4).hex()}"
    jid, writer = account(world, name), account(world, "writer")
    url = asyncio.run(live(world, jid, marks))

    async def write() -> None:
        async with session(world, writer) as client:
            await client.iq(
                "set", "", element("prefs", data.MAM, default="never")
            )  # nothing of it stays with the writer
            await client.send_message(jid, marks["offline"].decode())
            await client.iq("get", "", element("ping", "urn:xmpp:ping"))

    asyncio.run(write())
    everything = {**marks, "name": name.encode()}
    present = found_in(world, everything)
    assert present.keys() == everything.keys(), everything.keys() - present.keys()  # the search is no fool

    assert world.acme.control.delete_account(local(name)) is True
    left: dict[str, list[str]] = {}

    def nothing() -> bool:
        left.clear()
        left.update(found_in(world, everything))
        return not left

    assert until(nothing, seconds=20), left
    world.acme.restart()
    assert found_in(world, everything) == {}
    assert people.fetched(world, "GET", url, None, {})[0] in (404, 410)
    assert urlsplit(url).hostname


def test_of_a_deleted_room_nothing_is_left_in_any_file(world: World) -> None:
    marks = {kind: f"mark{os.urandom(10).hex()}".encode() for kind in ("title", "subject", "message", "member")}
    name, owner = f"closing{os.urandom(4).hex()}", account(world, "owner")
    control, muc = world.acme.control, world.acme.spec.components.muc
    control.create_room(local(name), RoomSettings(title=marks["title"].decode()), Jid.parse(owner))
    control.set_affiliation(local(name), Jid.parse(f"{marks['member'].decode()}@globex.example"), "member")

    async def talk() -> None:
        async with session(world, owner) as client:
            await client.iq("set", "", element("prefs", data.MAM, default="never"))
            await join(client, f"{name}@{muc}", "Owner")
            subject = element(
                "message", "jabber:client", element("subject", "jabber:client", text=marks["subject"].decode())
            )
            subject.attrib.update({"to": f"{name}@{muc}", "type": "groupchat"})
            client.send(subject)
            for number in range(20):
                await client.send_message(f"{name}@{muc}", f"{marks['message'].decode()} {number}", type="groupchat")
            await client.wait_message(lambda m: (m.findtext(q("body")) or "").endswith(" 19"))

    asyncio.run(talk())
    everything = {**marks, "name": name.encode()}
    assert until(lambda: found_in(world, everything).keys() == everything.keys()), found_in(world, everything)
    assert control.delete_room(local(name)) is True
    assert until(lambda: not found_in(world, everything), seconds=20), found_in(world, everything)


def message(number: int, stamp: str, body: str) -> str:
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='{number}'><forwarded xmlns='urn:xmpp:forward:0'><delay"
        f" xmlns='urn:xmpp:delay' stamp='{stamp}'/><message xmlns='jabber:client' type='chat' from='bob@acme.example/x'"
        f" to='ann@acme.example'><body>{body}</body></message></forwarded></result>"
    )


def test_messages_go_when_their_time_is_over(world: World) -> None:
    """More than one portion of them; those that are younger stay, and what goes is in no file any more."""
    account(world, "ann")
    assert world.acme.spec.limits.archive_days == 365
    mark = f"mark{os.urandom(10).hex()}"
    old = [message(1_600_000_000_000_000 + n, f"2020-10-01T10:{n // 60:02}:{n % 60:02}Z", mark) for n in range(1200)]
    young = [message(1_790_000_000_000_000 + n, f"2026-10-01T10:00:{n:02}Z", "young") for n in range(3)]
    assert world.acme.control.import_archive([*old, *young], owner=local("ann")).made == 1203
    assert world.acme.control._call("expire_archives") == 1200  # type: ignore[attr-defined]
    left = data.archive_of(world.acme.control, owner=local("ann"))
    assert ["young" in item for item in left] == [True] * 3
    assert found_in(world, {"message": mark.encode()}) == {}


def test_files_of_a_data_directory_are_the_tenants_alone(world: World) -> None:
    """What is deleted can only be read by others if they could read it before."""
    for path in (world.acme.root / "data").rglob("*"):
        assert not path.stat().st_mode & 0o007, path
    assert isinstance(world.acme.root, Path)
