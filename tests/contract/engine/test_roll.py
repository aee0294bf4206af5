"""The roll: what an engine says of its members and rooms, and that SIGKILL takes nothing away from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controlplane.drivers.engine.base import RollMember, RoomSettings
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.probes.client import ProbeClient, StanzaError
from controlplane.values.names import Jid
from controlplane.values.spec import PROBE_ACCOUNT
from tests.contract.engine.features import publish
from tests.contract.engine.suite import PASSWORD, account, element, join, local, session
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

ROOMS = 50
#: Five in each room: XEP-0045 §5.2 has four affiliations that are kept, and one has two.
AFFILIATED = {
    "owner@acme.example": "owner",
    "admin@acme.example": "admin",
    "member@globex.example": "member",
    "jürgen@globex.example": "member",
    "banned@evil.example": "outcast",
}
BOOKMARKS = "urn:xmpp:bookmarks:1"
ALIKE = {"persist_items": "true", "max_items": "max", "send_last_published_item": "never", "access_model": "whitelist"}


@pytest.fixture(scope="module", params=[prosody, ejabberd], ids=["prosody", "ejabberd"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with running_world(request.param, network="127.71" if request.param is prosody else "127.72") as made:
        yield made


def settings_of(number: int) -> RoomSettings:
    """Every setting takes every value in some room."""
    return RoomSettings(
        title=f'Room "{number}" & ü',
        description=f"The {number}th'; --",
        access="members" if number % 2 else "open",
        moderated=number % 3 == 0,
        anonymity="none" if number % 5 == 0 else "semi",
        listed=number % 7 == 0,
        language="de" if number % 2 else "en",
        archived=number % 4 != 0,
    )


async def add_contact(client: ProbeClient, jid: str, name: str = "") -> None:
    group = element("group", "jabber:iq:roster", text="Friends")
    item = element("item", "jabber:iq:roster", group, jid=jid, name=name)
    await client.iq("set", "", element("query", "jabber:iq:roster", item))


async def bookmark(client: ProbeClient, room: str, name: str) -> None:
    await client.iq("set", "", publish(BOOKMARKS, element("conference", BOOKMARKS, name=name), id=room, **ALIKE))


def killed(world: World) -> None:
    process = world.acme.process
    assert process is not None
    process.kill()
    process.wait(10)
    world.acme.start()


def test_sigkill_takes_nothing_away(world: World) -> None:
    """Fifty rooms with five affiliations each, contacts and bookmarks: all are there before anyone joins."""
    control, made = world.acme.control, {}
    muc = world.acme.spec.components.muc
    ann = account(world, "ann")
    for number in range(ROOMS):
        name = local(f"kept-{number}")
        assert control.create_room(name, settings_of(number), Jid.parse("owner@acme.example"))
        for jid, affiliation in AFFILIATED.items():
            control.set_affiliation(name, Jid.parse(jid), affiliation)
        made[name.text] = settings_of(number)

    async def use() -> None:
        async with session(world, ann) as client:
            await join(client, f"kept-2@{muc}", "Ann")
            for number in range(5):
                await add_contact(client, f"friend-{number}@globex.example", f"Friend {number}")
                await bookmark(client, f"kept-{number}@{muc}", f"Room {number}")
            # Somebody is in a room, and the kill comes at once after the last change.
            await asyncio.to_thread(control.set_affiliation, local("kept-49"), Jid.parse("late@acme.example"), "admin")

    asyncio.run(use())
    before = control.roll()
    killed(world)
    after = control.roll()
    assert after.rooms is not None
    assert {name: room.settings for name, room in after.rooms.items()} == made
    expected = dict.fromkeys(made, AFFILIATED) | {"kept-49": AFFILIATED | {"late@acme.example": "admin"}}
    assert {name: room.affiliations for name, room in after.rooms.items()} == expected
    assert after.members is not None
    assert (after.members["ann"].roster_items, after.members["ann"].bookmarks) == (5, 5)
    assert (after.rooms, after.members, after.digest) == (before.rooms, before.members, before.digest)
    assert after.uptime_s < before.uptime_s
    assert {room.local.text: room.settings for room in control.list_rooms()} == made


def test_a_subject_is_in_it_and_survives(world: World) -> None:
    control, ann = world.acme.control, account(world, "ann")
    room = f"spoken@{world.acme.spec.components.muc}"
    control.create_room(local("spoken"), RoomSettings(), Jid.parse(ann))

    async def speak() -> None:
        async with session(world, ann) as client:
            await join(client, room, "Ann")
            subject = element("subject", "jabber:client", text="Tea & <more>")
            client.send(element("message", "jabber:client", subject, to=room, type="groupchat"))
            await client.wait_message(lambda m: (m.findtext("{jabber:client}subject") or "") == "Tea & <more>")

    asyncio.run(speak())
    killed(world)
    rooms = control.roll().rooms
    assert rooms is not None
    assert rooms["spoken"].subject == "Tea & <more>"
    assert control.delete_room(local("spoken"))


def test_who_knows_the_digest_is_told_that_it_is_the_same(world: World) -> None:
    control = world.acme.control
    known = control.roll()
    again = control.roll(known.digest)
    assert (again.digest, again.rooms, again.members) == (known.digest, None, None)
    account(world, "newcomer")
    after = control.roll(known.digest)
    assert after.digest != known.digest
    assert after.members is not None
    assert known.members is not None
    assert set(after.members) - set(known.members) == {"newcomer"}
    assert (after.members["newcomer"].roster_items, after.members["newcomer"].bookmarks) == (0, 0)


def test_every_change_is_seen(world: World) -> None:
    control, bob = world.acme.control, account(world, "bob")
    muc = world.acme.spec.components.muc

    def bobs() -> RollMember:
        members = control.roll().members
        assert members is not None
        return members["bob"]

    async def steps() -> None:
        async with session(world, bob) as client:
            found = [bobs()]
            await add_contact(client, "x@globex.example")
            found.append(bobs())
            await add_contact(client, "x@globex.example", "Renamed")  # as many, but another
            found.append(bobs())
            await bookmark(client, f"one@{muc}", "One")
            found.append(bobs())
            await bookmark(client, f"one@{muc}", "Two")
            found.append(bobs())
            item = element("item", "jabber:iq:roster", jid="x@globex.example", subscription="remove")
            await client.iq("set", "", element("query", "jabber:iq:roster", item))
            found.append(bobs())
        assert [(m.roster_items, m.bookmarks) for m in found] == [(0, 0), (1, 0), (1, 0), (1, 1), (1, 1), (0, 1)]
        assert len({m.roster_digest for m in found}) == 3
        assert found[0].roster_digest == found[-1].roster_digest
        assert len({m.bookmarks_digest for m in found}) == 3

    asyncio.run(steps())


def test_what_is_not_to_be_kept_is_not_in_it(world: World) -> None:
    control = world.acme.control
    before = control.roll().digest
    control.create_account(local(PROBE_ACCOUNT), PASSWORD)
    control.create_room(local("roost-check-abc"), RoomSettings(), Jid.parse("owner@acme.example"))
    control.create_room(local("passing"), RoomSettings(persistent=False), Jid.parse("owner@acme.example"))
    try:
        assert control.roll(before).digest == before
    finally:
        control.delete_account(local(PROBE_ACCOUNT))
        control.delete_room(local("roost-check-abc"))
        control.delete_room(local("passing"))


def test_an_empty_server_has_an_empty_roll(world: World) -> None:
    roll = world.globex.control.roll()
    assert (roll.rooms, roll.members) == ({}, {})
    assert world.globex.control.roll(roll.digest).rooms is None


def test_after_a_crash_an_occupant_finds_out_by_self_ping_and_comes_back(world: World) -> None:
    """XEP-0410: "not-acceptable" is how a client learns that the room has forgotten it."""
    control, ann = world.acme.control, account(world, "ann")
    room = f"revived@{world.acme.spec.components.muc}"
    control.create_room(local("revived"), RoomSettings(), Jid.parse(ann))

    async def pinged(client: ProbeClient) -> str:
        try:
            await client.iq("get", f"{room}/Ann", element("ping", "urn:xmpp:ping"))
        except StanzaError as error:
            return error.condition
        return "in"

    async def enter() -> None:
        async with session(world, ann) as client:
            await join(client, room, "Ann")
            assert await pinged(client) == "in"

    async def come_back() -> None:
        async with session(world, ann) as client:
            assert await pinged(client) == "not-acceptable"
            await join(client, room, "Ann")
            assert await pinged(client) == "in"

    asyncio.run(enter())
    killed(world)
    asyncio.run(come_back())
    assert control.delete_room(local("revived"))
