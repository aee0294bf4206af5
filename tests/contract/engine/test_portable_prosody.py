"""What is Prosody's own in handing out and taking in portable elements: its files, its limits, its gaps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine.base import ImportReport, RoomSettings, Upload
from controlplane.drivers.engine.prosody import driver
from controlplane.drivers.engine.prosody.control import ProsodyControl
from controlplane.probes.client import q
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import Jid
from controlplane.values.spec import PROBE_ACCOUNT
from tests.contract.engine import portable_data as data
from tests.contract.engine.features import PUBSUB, UPLOAD, archive, bodies, publish
from tests.contract.engine.suite import PASSWORD, account, element, join, local, login, session
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

SHA_1 = """<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>100000</iter-count>
<salt>TmFDbE5hQ2xOYUNsTmFDbE5hQ2xOYUNsTmFDbE5hQ2xOYUNsTmFDbE5hQ2wK</salt><server-key>0pXWGK0GZJ6TR73AIUN3ITYtA1g=</server-key>
<stored-key>Q6qT/SbybblGCZz8e8eSfCJOQic=</stored-key></scram-credentials>"""


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with running_world(driver, network="127.83") as made:
        yield made


@pytest.fixture
def world(shared: World) -> World:
    data.leave(shared.acme.control)
    return shared


def control(world: World) -> ProsodyControl:
    found = world.acme.control
    assert isinstance(found, ProsodyControl)
    return found


def user(name: str, *parts: str) -> str:
    return f"<user xmlns='urn:xmpp:pie:0' name='{name}'>{''.join(parts)}</user>"


def message(number: int, body: str = "x") -> str:
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='id-{number}'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<delay xmlns='urn:xmpp:delay' stamp='2026-10-01T00:{number // 60 % 60:02}:{number % 60:02}Z'/>"
        f"<message xmlns='jabber:client' type='chat' from='bob@acme.example/x' to='ann@acme.example'>"
        f"<body>{body}</body></message></forwarded></result>"
    )


def ids(items: list[str]) -> list[str | None]:
    return [ET.fromstring(item).get("id") for item in items]


def database(world: World, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """A statement in the file that Prosody keeps archives in, while it runs."""
    with contextlib.closing(sqlite3.connect(world.acme.root / "data/archive.sqlite", timeout=20)) as file:
        found = file.execute(statement, values).fetchall()
        file.commit()
        return found


def expire(world: World, number: int) -> None:
    database(
        world,
        """DELETE FROM prosodyarchive WHERE "key" IN (SELECT "key" FROM prosodyarchive ORDER BY sort_id LIMIT ?)""",
        number,
    )


@pytest.mark.parametrize(("expired", "rest"), [(3, range(5, 20)), (5, range(5, 20)), (8, range(8, 20)), (20, ())])
def test_a_page_goes_on_where_the_last_one_ended_though_messages_have_expired(
    world: World, expired: int, rest: range | tuple[int, ...]
) -> None:
    account(world, "ann")
    control(world).import_archive([message(n) for n in range(20)], owner=local("ann"))
    first, cursor = control(world).export_archive(owner=local("ann"), limit=5)
    expire(world, expired)
    second, cursor = control(world).export_archive(owner=local("ann"), cursor=cursor, limit=100)
    assert (ids(first), ids(second)) == ([f"id-{n}" for n in range(5)], [f"id-{n}" for n in rest])
    assert cursor == ""


def test_an_import_goes_on_though_messages_have_expired(world: World) -> None:
    account(world, "ann")
    sent = [message(n) for n in range(30)]
    assert control(world).import_archive(sent[10:20], owner=local("ann")).made == 10
    expire(world, 5)
    assert control(world).import_archive(sent[20:], owner=local("ann")).made == 10
    assert control(world).import_archive(sent, owner=local("ann")).made == 15
    assert ids(data.archive_of(control(world), owner=local("ann"))) == [f"id-{n}" for n in range(30)]


def test_messages_come_to_their_place_in_whatever_order(world: World) -> None:
    """Between those of people who write at the same time, newest portions first, and between two of one second."""
    ann, bob = account(world, "ann"), account(world, "bob")
    sent = [message(n) for n in range(600)]
    for name in ("ann", "bob"):
        control(world).import_archive(sent[::3], owner=local(name))
    for start in (400, 200, 0):
        for name in ("ann", "bob"):
            control(world).import_archive(sent[start : start + 200], owner=local(name))
    twin = message(7).replace("id-7", "id-7-again")
    assert control(world).import_archive([twin], owner=local("ann")).made == 1
    wanted = [f"id-{n}" for n in range(600)]
    assert ids(data.archive_of(control(world), owner=local("bob"))) == wanted
    assert ids(data.archive_of(control(world), owner=local("ann"))) == [*wanted[:8], "id-7-again", *wanted[8:]]

    async def look() -> None:
        async with session(world, ann) as client, session(world, bob) as other:
            await other.send_message(ann, "the newest")
            await client.wait_message(lambda m: m.findtext(q("body")) == "the newest")

    asyncio.run(look())
    assert "the newest" in data.archive_of(control(world), owner=local("ann"))[-1]


def test_what_is_imported_expires_like_everything(world: World) -> None:
    """By ``archive_days``, within the hour; what is not too old stays."""
    account(world, "ann")
    old = [message(n).replace("2026-10-01", "2020-10-01") for n in range(3)]
    control(world).import_archive([*old, message(7)], owner=local("ann"))
    assert control(world)._call("expire_archives") == 3
    assert ids(data.archive_of(control(world), owner=local("ann"))) == ["id-7"]
    assert control(world)._call("expire_archives") == 0


def test_an_archive_has_no_end_but_its_time(world: World) -> None:
    """Prosody by itself keeps 10,000 messages of each and throws away the oldest without a word."""
    ann, bob = account(world, "ann"), account(world, "bob")
    sent = [message(n) for n in range(10_050)]
    assert control(world).import_archive(sent, owner=local("ann")) == ImportReport(made=len(sent))

    async def talk() -> None:
        async with session(world, ann) as client, session(world, bob) as other:
            for words in ("one more", "and another"):
                await other.send_message(ann, words)
                await client.wait_message(lambda m, words=words: m.findtext(q("body")) == words)

    asyncio.run(talk())
    assert len(data.archive_of(control(world), owner=local("ann"))) == len(sent) + 2


LISTED = """item({
\tname = "message"; attr = { from = "bob@acme.example/x"; to = "ann@acme.example"; type = "chat"; stamp = "STAMP"; };
\t{ name = "body"; attr = { }; "no NUMBER & <more>"; };
\twhen = WHEN; with = "bob@acme.example"; key = "id-NUMBER";
});
"""


def test_archives_that_are_files_yet_move_into_the_database(world: World) -> None:
    """As an earlier Roost kept them. Prosody was killed while it wrote the last one, which it never acknowledged."""
    account(world, "ann")
    control(world).import_archive([message(1, "was there")], owner=local("ann"))
    directory = world.acme.root / "data/acme%2eexample/archive"
    entries = [
        LISTED.replace("NUMBER", str(n))
        .replace("WHEN", str(1790812800 + n))
        .replace("STAMP", f"2026-10-01T00:00:{n:02}Z")
        for n in range(5)
    ]
    world.acme.stop()
    directory.mkdir(exist_ok=True)
    path = directory / "ann.list"
    path.write_text("".join(entries[:4]) + entries[4][:-30])
    for place in (directory, path):
        world.acme.own(place, user=world.acme.uid)
    world.acme.start()
    deadline = time.monotonic() + 20
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    found = data.archive_of(control(world), owner=local("ann"))
    assert ids(found) == ["id-0", "id-1", "id-2", "id-3"]
    assert "was there" in found[1]
    assert "no 3 &amp; &lt;more&gt;" in found[3]
    assert not path.exists()


def test_an_import_that_is_killed_can_be_done_again(world: World) -> None:
    """SIGKILL at five moments of an import: done again, everything is there once, and nothing else."""
    data.fill(world)
    before = data.exported(control(world))
    before["user ann"] = [message(n) for n in range(400)]
    data.leave(control(world))
    for delay_s in (0.01, 0.05, 0.1, 0.2, 0.3):
        killer = threading.Timer(delay_s, lambda: world.acme.process.kill())  # type: ignore[union-attr]
        killer.start()
        with contextlib.suppress(Unavailable, Rejected):
            data.take_in(control(world), before)
        killer.join()
        assert world.acme.process is not None
        world.acme.process.wait(10)
        world.acme.start()
    data.take_in(control(world), before)
    again = data.exported(control(world))
    assert data.differences(data.everything(before), data.everything(again)) == {}


def test_no_cursor_is_no_cursor(world: World) -> None:
    account(world, "ann")
    with pytest.raises(InvalidInput):
        control(world).export_archive(owner=local("ann"), cursor="../../etc/passwd")


def test_passwords_that_prosody_cannot_check_travel_on(world: World) -> None:
    """The credentials of XEP-0227's example 4; when a password is set here, they are worth nothing any more."""
    report = control(world).import_user(user("juliet", SHA_1))
    assert [what for what, _ in report.refused] == ["password of juliet"]
    assert "Q6qT/SbybblGCZz8e8eSfCJOQic=" in control(world).export_user(local("juliet"))
    control(world).set_password(local("juliet"), PASSWORD)
    exported = control(world).export_user(local("juliet"))
    assert "SCRAM-SHA-256" in exported
    assert "SCRAM-SHA-1'" not in exported.replace('"', "'")
    login(world, world.jid("juliet"))


def test_what_prosody_has_no_place_for_travels_on(world: World) -> None:
    account(world, "ann")
    privacy = "<query xmlns='jabber:iq:privacy'><list name='public'><item action='allow' order='2'/></list></query>"
    strange = "<secrets xmlns='urn:example'>of <b>another</b> server</secrets>"
    report = control(world).import_user(user("ann", privacy, strange))
    assert (report.made, len(report.refused)) == (0, 2)
    exported = {data.text_of(part) for part in ET.fromstring(control(world).export_user(local("ann")))}
    assert {data.text_of(ET.fromstring(text)) for text in (privacy, strange)} <= exported


def test_a_password_in_the_clear_works(world: World) -> None:
    control(world).import_user(f"<user xmlns='urn:xmpp:pie:0' name='old' password='{'s3cret'}'/>")
    exported = control(world).export_user(local("old"))
    assert "s3cret" not in exported
    assert "SCRAM-SHA-256" in exported


def test_a_vcard_travels_whole(world: World) -> None:
    """Prosody can show only half of this one, as PEP nodes; they are not exported beside it."""
    card = (
        "<vCard xmlns='vcard-temp'><FN>Ann</FN><GEO><LAT>1</LAT><LON>2</LON></GEO><PHOTO><TYPE>image/png</TYPE>"
        "<BINVAL>iVBORw0KGgo=</BINVAL></PHOTO></vCard>"
    )
    before = control(world).import_user(user("ann", card))
    assert before.refused[0][0] == "password of ann"
    exported = ET.fromstring(control(world).export_user(local("ann")))
    found = exported.find(q("vCard", "vcard-temp"))
    assert found is not None
    assert data.text_of(found) == data.text_of(ET.fromstring(card))
    assert exported.find(q("pubsub", PUBSUB)) is None
    assert control(world).import_user(user("ann", card)).made == 0
    # Others see it, and what its owner changes counts from then on.
    control(world).set_password(local("ann"), PASSWORD)
    bob = account(world, "bob")

    async def change() -> None:
        async with session(world, bob) as other, session(world, world.jid("ann")) as client:
            seen = await other.iq("get", world.jid("ann"), element("vCard", "vcard-temp"))
            assert seen.findtext(f".//{q('FN', 'vcard-temp')}") == "Ann"
            assert seen.findtext(f".//{q('BINVAL', 'vcard-temp')}") == "iVBORw0KGgo="
            await client.iq("set", "", element("vCard", "vcard-temp", element("FN", "vcard-temp", text="Anna")))

    asyncio.run(change())
    exported = ET.fromstring(control(world).export_user(local("ann")))
    assert exported.findtext(f".//{q('FN', 'vcard-temp')}") == "Anna"
    assert exported.find(f".//{q('GEO', 'vcard-temp')}") is None
    assert exported.find(q("pubsub", PUBSUB)) is not None


def test_nodes_of_another_server_stay_as_closed_as_they_were(world: World) -> None:
    node = (
        "<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='n'>"
        "<x xmlns='jabber:x:data' type='submit'>"
        "<field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#node_config</value></field>"
        "<field var='pubsub#access_model'><value>roster</value></field>"
        "<field var='pubsub#roster_groups_allowed'><value>Friends</value><value>Family</value></field>"
        "<field var='pubsub#max_items'><value>1000</value></field></x></configure>"
        "<affiliations node='n'><affiliation jid='carol@globex.example' affiliation='member'/></affiliations></pubsub>"
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='n'><item id='1'><a xmlns='u'/></item></items>"
        "</pubsub>"
    )
    account(world, "ann")
    report = control(world).import_user(user("ann", node))
    assert [what for what, _ in report.refused] == ["node n"]
    exported = control(world).export_user(local("ann")).replace('"', "'")
    for wanted in (
        "<field var='pubsub#access_model'><value>roster</value>",
        "<field var='pubsub#roster_groups_allowed'><value>Friends</value><value>Family</value>",
        "<field var='pubsub#max_items'><value>1000</value>",
        "carol@globex.example",
    ):
        assert wanted in exported

    async def look() -> None:
        async with session(world, account(world, "bob")) as other:
            wanted = element("pubsub", PUBSUB, element("items", PUBSUB, node="n"))
            with pytest.raises(Exception, match=r"forbidden|not-authorized|closed"):
                await other.iq("get", world.jid("ann"), wanted)

    asyncio.run(look())


def test_rooms_keep_what_prosody_has_no_use_for(world: World) -> None:
    room = (
        "<room xmlns='urn:roost:portable:1' name='hall'><x xmlns='jabber:x:data' type='submit'>"
        "<field var='muc#roomconfig_roomname'><value>Hall</value></field>"
        "<field var='muc#roomconfig_maxusers'><value>200</value></field></x>"
        "<subject by='hall@conference.acme.example/Bob' stamp='2026-10-01T10:00:00Z'>Welcome &amp; enjoy</subject>"
        "<affiliations><item jid='ann@acme.example' affiliation='owner' nick='Queen'/>"
        "<item jid='evil@example.net' affiliation='outcast'><reason>Spam</reason></item></affiliations>"
        "<hats><hat jid='ann@acme.example' uri='urn:hats:host' title='Host'/></hats>"
        "<occupant-ids salt='pepper'/></room>"
    )
    assert control(world).import_room(room).refused == ()
    exported = control(world).export_room(local("hall")).replace('"', "'")
    given, found = (data.everything({"users": [], "rooms": [text]}) for text in (room, exported))
    for kind, pieces in given.items():
        assert pieces - found[kind] == {}, kind
    assert control(world).import_room(exported, replace=True) == ImportReport()


def test_a_room_that_is_in_use_is_told_and_kept(world: World) -> None:
    ann = account(world, "ann")
    muc = world.acme.spec.components.muc
    control(world).create_room(local("live"), RoomSettings(title="Old"), Jid.parse(ann))
    exported = control(world).export_room(local("live"))

    async def talk() -> None:
        async with session(world, ann) as client:
            await join(client, f"live@{muc}", "Ann")
            control(world).set_room_settings(local("live"), RoomSettings(title="New"))
            assert control(world).import_room(exported, replace=True).changed == 1
            await client.send_message(f"live@{muc}", "still here", type="groupchat")
            await client.wait_message(lambda m: m.findtext(q("body")) == "still here")

    asyncio.run(talk())
    found = control(world).get_room(local("live"))
    assert found is not None
    assert found.settings.title == "Old"
    world.acme.restart()
    assert control(world).export_rooms() == ["live"]


def test_temporary_rooms_stay_at_home(world: World) -> None:
    ann = account(world, "ann")
    control(world).create_room(local("kept"), RoomSettings(), Jid.parse(ann))
    control(world).create_room(local("brief"), RoomSettings(persistent=False), Jid.parse(ann))
    assert control(world).export_rooms() == ["kept"]


def test_a_room_of_which_there_is_but_a_name_is_no_room(world: World) -> None:
    """Prosody lists a room before it writes it; SIGKILL can come in between."""
    ann = account(world, "ann")
    for name in ("whole", "half"):
        control(world).create_room(local(name), RoomSettings(), Jid.parse(ann))
    world.acme.stop()
    (world.acme.root / "data/conference%2eacme%2eexample/config/half.dat").unlink()
    world.acme.start()
    assert control(world).export_rooms() == ["whole"]
    assert control(world).import_room("<room xmlns='urn:roost:portable:1' name='half'/>").made == 1
    assert control(world).export_rooms() == ["half", "whole"]


def test_clients_that_are_there_see_what_comes_in(world: World) -> None:
    """The roster and the block list are in memory while a client is connected; PEP nodes even longer."""
    ann = account(world, "ann")

    async def talk() -> None:
        async with session(world, ann) as client:
            await client.iq("get", "", element("query", data.ROSTER))
            await client.iq("get", "", element("blocklist", data.BLOCKING))
            await client.iq("set", "", publish("urn:own", element("a", "urn:own"), id="mine"))
            control(world).import_user(
                user(
                    "ann",
                    "<query xmlns='jabber:iq:roster'><item jid='bob@acme.example' name='B'/></query>",
                    "<blocklist xmlns='urn:xmpp:blocking'><item jid='evil@example.net'/></blocklist>",
                    "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:new'><item id='1'>"
                    "<b xmlns='urn:new'/></item></items></pubsub>",
                )
            )
            roster = await client.iq("get", "", element("query", data.ROSTER))
            assert [item.get("name") for item in roster.iter(q("item", data.ROSTER))] == ["B"]
            blocked = await client.iq("get", "", element("blocklist", data.BLOCKING))
            assert [item.get("jid") for item in blocked.iter(q("item", data.BLOCKING))] == ["evil@example.net"]
            for node in ("urn:own", "urn:new"):
                found = await client.iq("get", ann, element("pubsub", PUBSUB, element("items", PUBSUB, node=node)))
                assert len(list(found.iter(q("item", PUBSUB)))) == 1

    asyncio.run(talk())
    world.acme.restart()
    assert "urn:new" in control(world).export_user(local("ann"))


def test_uploads_are_listed_with_where_they_are(world: World) -> None:
    ann, upload = account(world, "ann"), world.acme.spec.components.upload.ascii

    async def slot(name: str, size: int) -> ET.Element:
        async with session(world, ann) as client:
            wanted = element("request", UPLOAD, filename=name, size=str(size), content_type="text/plain")
            wanted.set("content-type", wanted.attrib.pop("content_type"))
            return await client.iq("get", upload, wanted)

    for name, content in (("ä b.txt", b"one"), ("two.txt", b"second"), ("never sent.txt", b"")):
        answer = asyncio.run(slot(name, max(1, len(content))))
        put = answer.find(f".//{q('put', UPLOAD)}")
        assert put is not None
        if content:
            header = put.find(q("header", UPLOAD))
            assert header is not None
            path = "/" + put.get("url", "").split("/", 3)[3]
            response, _ = world.acme.https(
                "PUT", path, host=upload, body=content, headers={"Authorization": header.text or ""}
            )
            assert response.status == 201
    found = control(world).export_uploads()
    assert {entry.name: entry.size for entry in found} == {"ä b.txt": 3, "two.txt": 6}
    assert [entry.id for entry in found] == sorted(entry.id for entry in found)
    for entry in found:
        assert (world.acme.root / entry.path).stat().st_size == entry.size
        assert (entry.user, entry.type) == (ann, "text/plain")
    assert control(world).export_uploads(after=found[0].id, limit=1) == found[1:]
    assert control(world).export_uploads(after=found[1].id) == []
    uploads_come_back(world, found)


def uploads_come_back(world: World, found: list[Upload]) -> None:
    """Deleted with its owner, noted down again and put where it belongs, a file has its old address."""
    kept = {entry.id: (world.acme.root / entry.path).read_bytes() for entry in found}
    data.leave(world.acme.control)
    assert control(world).export_uploads() == []
    strange = replace(found[0], id="../../run/control")
    report, paths = control(world).import_uploads([*found, strange])
    assert (report.made, len(report.refused)) == (2, 1)
    assert paths == {entry.id: entry.path for entry in found}
    assert control(world).import_uploads(found) == (ImportReport(), paths)
    for id, path in paths.items():
        (world.acme.root / path).write_bytes(kept[id])
        world.acme.own(world.acme.root / path, user=world.acme.uid)
    assert control(world).export_uploads() == found
    for entry in found:
        path = f"/file_share/{entry.id}/{quote(entry.name)}"
        response, content = world.acme.https("GET", path, host=world.acme.spec.components.upload.ascii)
        assert (response.status, content) == (200, kept[entry.id])


def test_old_clients_messages_survive_odd_characters(world: World) -> None:
    """What JSON, Lua and XML each escape in their own way, between two accounts and back."""
    account(world, "ann")
    odd = ["\u2028 \x7f \ufffd", "\\n \\u0000 %s %1", "' \" & < > ]]>".replace("&", "&amp;").replace("<", "&lt;")]
    odd = [text.replace(">", "&gt;") for text in odd]
    control(world).import_archive([message(n, text) for n, text in enumerate(odd)], owner=local("ann"))
    found = data.archive_of(control(world), owner=local("ann"))
    assert [data.text_of(ET.fromstring(item)) for item in found] == [
        data.text_of(ET.fromstring(message(n, text))) for n, text in enumerate(odd)
    ]
    assert json.dumps(found)

    async def look() -> None:
        async with session(world, world.jid("ann")) as client:
            assert len(bodies(await archive(client))) == len(odd)

    asyncio.run(look())


def test_nobody_brings_along_what_is_roosts(world: World) -> None:
    for call, xml in (
        (control(world).import_user, user(PROBE_ACCOUNT)),
        (control(world).import_room, "<room xmlns='urn:roost:portable:1' name='roost-check-1'/>"),
    ):
        with pytest.raises(Rejected):
            call(xml)


def test_an_abyss_is_refused(world: World) -> None:
    deep = "<query xmlns='jabber:iq:private'>" + "<a xmlns='u'>" * 20_000 + "</a>" * 20_000 + "</query>"
    with pytest.raises(InvalidInput):
        control(world).import_user(user("deep", deep))
    assert control(world).export_accounts() == []
