"""Everything of an instance goes out as portable elements and comes back in, for each engine, and between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import cast
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine.base import EngineDriver, PortableControl, RoomSettings
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.probes.client import StanzaError, q
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.names import Jid
from controlplane.values.secret import Secret
from controlplane.values.spec import PROBE_ACCOUNT
from tests.contract.engine import portable_data as data
from tests.contract.engine.features import PUBSUB, archive, bodies
from tests.contract.engine.suite import PASSWORD, account, element, join, local, login, session
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

#: An engine and its network: their acme has the same domain, so what one gives the other can take.
ENGINES: dict[str, tuple[EngineDriver, str]] = {"prosody": (prosody, "127.73"), "ejabberd": (ejabberd, "127.74")}


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, World]]:
    """Started when they are asked for."""
    with contextlib.ExitStack() as stack:

        class Lazily(dict[str, World]):
            def __missing__(self, name: str) -> World:
                driver, network = ENGINES[name]
                self[name] = stack.enter_context(running_world(driver, network=network))
                return self[name]

        yield Lazily()


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    made = worlds[request.param]
    data.leave(made.acme.control)
    return made


def portable(world: World) -> PortableControl:
    return cast(PortableControl, world.acme.control)


def user(name: str, *parts: str) -> str:
    return f"<user xmlns='urn:xmpp:pie:0' name='{name}'>{''.join(parts)}</user>"


def message(id: str, stamp: str, body: str, *, to: str = "ann@acme.example") -> str:
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='{id}'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<delay xmlns='urn:xmpp:delay' stamp='{stamp}'/><message xmlns='jabber:client' type='chat'"
        f" from='bob@acme.example/x' to='{to}'><body>{body}</body></message></forwarded></result>"
    )


def test_nothing_is_missing_from_what_goes_out(world: World) -> None:
    """The oracle of the other tests is not empty: each kind of data is in it, in the numbers that were made."""
    data.fill(world)
    kinds = data.everything(data.exported(portable(world)))
    counts = {kind: sum(pieces.values()) for kind, pieces in kinds.items()}
    scram = "{urn:xmpp:pie:0#scram}scram-credentials of "
    assert [counts[scram + name] for name in ("ann", "bob", "away", "locked")] == [1, 1, 1, 1]
    assert counts[f"{q('query', data.ROSTER)} of ann"] == 2
    assert counts[f"{q('query', data.PRIVATE)} of ann"] >= 1
    assert counts[f"{q('blocklist', data.BLOCKING)} of ann"] == 2
    assert counts[f"{q('prefs', data.MAM)} of ann"] == 1
    assert counts[f"items {data.BOOKMARKS} of ann"] == 3
    for node in (data.DEVICES, data.BUNDLE, f"{data.OPENPGP}:public-keys:AB12", data.AVATAR_DATA, data.AVATAR_INFO):
        assert counts[f"items {node} of ann"] == 1
    assert counts[f"{q('vCard', 'vcard-temp')} of bob"] == 1
    assert counts[f"{q('presence')} of away"] == 1
    assert counts[f"{q('offline-messages', data.PIE)} of away"] == len(data.WORDS)
    assert counts[f"{q('disabled', data.OURS)} of locked"] == 1
    assert counts["archive of user ann"] == 2 * len(data.WORDS)
    assert counts["archive of user bob"] == counts["archive of user away"] == len(data.WORDS)
    assert counts["archive of room lobby"] >= len(data.WORDS)
    for room in data.ROOMS:
        assert counts[f"{q('affiliations', data.OURS)} of room {room}"] == len(data.AFFILIATED)


def test_what_went_out_comes_back(world: World) -> None:
    """Made, exported, deleted, imported: exported again it is the same, and clients find it."""
    data.fill(world)
    before = data.exported(portable(world))
    data.leave(world.acme.control)
    assert portable(world).export_accounts() == portable(world).export_rooms() == []
    report = data.take_in(portable(world), before)
    assert report.refused == ()
    assert report.made > 50
    again = data.exported(portable(world))
    assert data.differences(data.everything(before), data.everything(again)) == {}
    report = data.take_in(portable(world), before)
    assert (report.made, report.changed, report.skipped, report.refused) == (0, 0, 0, ())
    asyncio.run(clients_find_it(world))


async def clients_find_it(world: World) -> None:
    ann, bob, muc = world.jid("ann"), world.jid("bob"), world.acme.spec.components.muc
    with pytest.raises(Rejected):
        async with session(world, world.jid("locked")):
            pass
    async with session(world, ann) as client, session(world, bob) as other:
        roster = await client.iq("get", "", element("query", data.ROSTER))
        contacts = {item.get("jid"): item for item in roster.iter(q("item", data.ROSTER))}
        assert contacts[bob].get("subscription") == "to"
        assert {group.text for group in contacts[bob]} == {"Friends", "Ärger & Co"}
        for node in (data.DEVICES, data.BUNDLE):
            found = await other.iq("get", ann, element("pubsub", PUBSUB, element("items", PUBSUB, node=node)))
            assert found.find(f".//{q('item', PUBSUB)}") is not None
        wanted = element("items", PUBSUB, node=data.BOOKMARKS)
        with pytest.raises(StanzaError):
            await other.iq("get", ann, element("pubsub", PUBSUB, wanted))
        assert sorted(bodies(await archive(other))) == sorted(data.WORDS)
        blocked = await client.iq("get", "", element("blocklist", data.BLOCKING))
        assert {item.get("jid") for item in blocked.iter(q("item", data.BLOCKING))} == {
            "evil@example.net",
            "spam.example",
        }
        await join(client, f"board@{muc}", "Änn")
        refusal = await join(other, f"board@{muc}", "Bob")
        assert refusal.get("type") == "error"
        assert set(data.WORDS) <= set(bodies(await archive(client, f"lobby@{muc}")))
    async with session(world, world.jid("away"), data.AWAY):
        pass


def test_names_come_in_pages_and_leave_the_probe_out(world: World) -> None:
    control = world.acme.control
    for name in ("a1", "b2", "c3", "ü4", PROBE_ACCOUNT):
        account(world, name)
    for name in ("r1", "r2", "roost-check-x"):
        control.create_room(local(name), RoomSettings(), Jid.parse(world.jid("a1")))
    assert portable(world).export_accounts(limit=2) == ["a1", "b2"]
    assert portable(world).export_accounts(after="b2", limit=2) == ["c3", "ü4"]
    assert portable(world).export_accounts(after="ü4") == []
    assert portable(world).export_rooms(limit=1) == ["r1"]
    assert portable(world).export_rooms(after="r1") == ["r2"]
    for name in (PROBE_ACCOUNT, "roost-check-x"):
        control.delete_account(local(name))
        control.delete_room(local(name))


def test_an_archive_comes_in_pages_and_stays_in_order(world: World) -> None:
    """Imported out of order and in overlapping portions, each message is there once, at its time."""
    account(world, "ann")
    sent = [
        message(f"{1600000000000000 + n}", f"2026-10-01T10:{n // 60:02}:{n % 60:02}Z", f"no {n}") for n in range(250)
    ]
    control = portable(world)
    assert control.import_archive(sent[100:200], owner=local("ann")).made == 100
    assert control.import_archive(sent[150:], owner=local("ann")).made == 50
    assert control.import_archive(sent[:120], owner=local("ann")).made == 100
    assert control.import_archive(sent, owner=local("ann")).made == 0
    for limit in (1000, 7):
        found = data.archive_of(control, owner=local("ann"), limit=limit)
        assert [ET.fromstring(item).get("id") for item in found] == [ET.fromstring(item).get("id") for item in sent]


def test_clients_find_what_was_imported_beside_what_is_new(world: World) -> None:
    ann, bob = account(world, "ann"), account(world, "bob")
    old = [message("1600000000000001", "2026-10-01T10:00:00.250000Z", "old")]
    assert portable(world).import_archive(old, owner=local("ann")).made == 1

    async def talk() -> None:
        async with session(world, ann) as client, session(world, bob) as other:
            await other.send_message(ann, "new")
            await client.wait_message(lambda m: m.findtext(q("body")) == "new")
            assert portable(world).import_archive(old, owner=local("ann")).made == 0
            assert bodies(await archive(client)) == ["old", "new"]
            assert bodies(await archive(client, **{"with": bob})) == ["old", "new"]

    asyncio.run(talk())
    exported = data.archive_of(portable(world), owner=local("ann"))
    assert "stamp='2026-10-01T10:00:00.250000Z'" in exported[0].replace('"', "'")


def test_a_password_is_not_overwritten_unasked(world: World) -> None:
    account(world, "ann")
    old = portable(world).export_user(local("ann"))
    world.acme.control.set_password(local("ann"), Secret("newer"))
    assert portable(world).import_user(old).skipped == 1
    login(world, world.jid("ann"), Secret("newer"))
    assert portable(world).import_user(old, replace=True).changed == 1
    login(world, world.jid("ann"), PASSWORD)


def test_what_is_there_otherwise_changes_only_if_wanted(world: World) -> None:
    data.fill(world)
    control, name = portable(world), local("lobby")
    before = control.export_room(name)
    world.acme.control.set_room_settings(name, RoomSettings(title="Other", listed=True, language="de"))
    world.acme.control.set_affiliation(name, Jid.parse("admin@globex.example"), "outcast")
    left = control.import_room(before)
    assert (left.made, left.changed) == (0, 0)
    assert left.skipped >= 3
    assert world.acme.control.get_room(name).settings.title == "Other"  # type: ignore[union-attr]
    assert control.import_room(before, replace=True).changed == left.skipped
    assert (
        data.differences(*(data.everything({"users": [], "rooms": [x]}) for x in (before, control.export_room(name))))
        == {}
    )


def test_a_long_user_is_taken_in(world: World) -> None:
    """Longer than one stanza may be: XEP-0227 has no limit, and avatars are big."""
    blocks = "".join(f"<item jid='spam{n}@{'x' * 60}.example'/>" for n in range(3000))
    notes = f"<query xmlns='jabber:iq:private'><notes xmlns='x:notes'>{'ü' * 800_000}</notes></query>"
    xml = user(
        "big", "<query xmlns='jabber:iq:roster'><item jid='bob@acme.example' subscription='both'/></query>", notes
    )
    portable(world).import_user(xml)
    portable(world).import_user(user("big", f"<blocklist xmlns='urn:xmpp:blocking'>{blocks}</blocklist>"))
    again = portable(world).export_user(local("big"))
    assert again.count("spam") == 3000
    assert "ü" * 800_000 in again


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<user xmlns='urn:xmpp:pie:0' name='ann'>",
        "<!DOCTYPE user [<!ENTITY a 'b'>]><user xmlns='urn:xmpp:pie:0' name='ann'>&a;</user>",
        "<user xmlns='urn:example' name='ann'/>",
        "<user xmlns='urn:xmpp:pie:0' name='../../etc/passwd'/>",
        "<user xmlns='urn:xmpp:pie:0' name='ANN'/>",
        "<user xmlns='urn:xmpp:pie:0'/>",
    ],
)
def test_what_is_no_user_is_refused(world: World, xml: str) -> None:
    with pytest.raises((InvalidInput, Rejected)):
        portable(world).import_user(xml)
    assert portable(world).export_accounts() == []


def test_what_makes_no_sense_is_told_and_the_rest_taken(world: World) -> None:
    report = portable(world).import_user(
        user(
            "ann",
            "<query xmlns='jabber:iq:roster'><item jid='@'/><item jid='bob@acme.example' subscription='sideways'/>"
            "<item jid='carol@acme.example' subscription='both'/></query>",
            "<secrets xmlns='urn:example'/>",
        )
    )
    assert len(report.refused) >= 3
    assert "carol@acme.example" in portable(world).export_user(local("ann"))
    archived = portable(world).import_archive(
        [
            message("", "2026-10-01T10:00:00Z", "x"),
            message("1600000000000009", "yesterday", "y"),
            message("1600000000000010", "2026-10-01T10:00:00Z", "z"),
        ],
        owner=local("ann"),
    )
    assert (archived.made, len(archived.refused)) == (1, 2)


def test_nobody_has_nothing(world: World) -> None:
    control = portable(world)
    for call in (
        lambda: control.export_user(local("nobody")),
        lambda: control.export_room(local("nowhere")),
        lambda: control.export_archive(owner=local("nobody")),
        lambda: control.export_archive(room=local("nowhere")),
        lambda: control.import_archive([message("1", "2026-10-01T10:00:00Z", "x")], owner=local("nobody")),
    ):
        with pytest.raises(Rejected):
            call()


def test_sessions_stay_while_everything_goes_out_and_comes_in(world: World) -> None:
    data.fill(world)
    everything = data.exported(portable(world))

    async def talk() -> None:
        async with session(world, world.jid("ann")) as client:
            work = asyncio.to_thread(
                lambda: [data.take_in(portable(world), everything, replace=True) for _ in range(2)]
            )
            task = asyncio.ensure_future(work)
            answered = 0
            while not task.done():
                await client.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"), timeout_s=5)
                answered += 1
            await task
            assert answered
            await client.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"))

    asyncio.run(talk())
