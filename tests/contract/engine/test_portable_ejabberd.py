"""What is ejabberd's own in handing out and taking in portable elements: its times, its one mechanism, its gaps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine.base import RoomSettings
from controlplane.drivers.engine.ejabberd import driver
from controlplane.drivers.engine.ejabberd.control import EjabberdControl
from controlplane.probes.client import q
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.names import Jid
from controlplane.values.secret import Secret
from tests.contract.engine import portable_data as data
from tests.contract.engine.features import MAM, PUBSUB, UPLOAD, bodies
from tests.contract.engine.suite import PASSWORD, account, element, join, local, login, session
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

RSM = "http://jabber.org/protocol/rsm"
SHA_1 = (
    "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>100000</iter-count>"
    "<salt>TmFDbE5hQ2xOYUNsTmFDbE5hQ2xOYUNsTmFDbE5hQ2xOYUNsTmFDbE5hQ2wK</salt>"
    "<server-key>0pXWGK0GZJ6TR73AIUN3ITYtA1g=</server-key><stored-key>Q6qT/SbybblGCZz8e8eSfCJOQic=</stored-key>"
    "</scram-credentials>"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with running_world(driver, network="127.182") as made:
        yield made


@pytest.fixture
def world(shared: World) -> World:
    data.leave(shared.acme.control)
    return shared


def control(world: World) -> EjabberdControl:
    found = world.acme.control
    assert isinstance(found, EjabberdControl)
    return found


def user(name: str, *parts: str) -> str:
    return f"<user xmlns='urn:xmpp:pie:0' name='{name}'>{''.join(parts)}</user>"


def room(name: str, *parts: str) -> str:
    return f"<room xmlns='urn:roost:portable:1' name='{name}'>{''.join(parts)}</room>"


def message(id: str, stamp: str, *, room: str = "") -> str:
    kind, source, to = (
        ("groupchat", f"{room}/Bob", room) if room else ("chat", "bob@acme.example/x", "ann@acme.example")
    )
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='{id}'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<delay xmlns='urn:xmpp:delay' stamp='{stamp}'/><message xmlns='jabber:client' type='{kind}'"
        f" from='{source}' to='{to}'><body>{id}</body></message></forwarded></result>"
    )


def ids(items: list[str]) -> list[str | None]:
    return [ET.fromstring(item).get("id") for item in items]


def test_messages_of_one_second_stay_apart_and_in_order(world: World) -> None:
    """Other servers' times are often whole seconds, and ejabberd pages by time (XEP-0059)."""
    ann = account(world, "ann")
    sent = [message(f"from-elsewhere-{n}", "2026-10-01T10:00:00Z") for n in range(1500)]
    assert control(world).import_archive(sent[:700], owner=local("ann")).made == 700
    assert control(world).import_archive(sent[500:], owner=local("ann")).made == 800
    found = data.archive_of(control(world), owner=local("ann"), limit=333)
    assert ids(found) == ids(sent)
    assert all("stamp='2026-10-01T10:00:00Z'" in item for item in found)

    async def page_through() -> list[str]:
        seen, last = [], ""
        async with session(world, ann) as client:
            while True:
                parts = (
                    [element("max", RSM, text="250"), element("after", RSM, text=last)]
                    if last
                    else [element("max", RSM, text="250")]
                )
                answer = await client.iq("set", "", element("query", MAM, element("set", RSM, *parts)))
                seen += bodies([m for m in client._inbox if m.find(q("result", MAM)) is not None])
                client._inbox.clear()
                last = answer.findtext(f".//{q('last', RSM)}") or ""
                if answer.find(q("fin", MAM)).get("complete") == "true":  # type: ignore[union-attr]
                    return seen

    assert asyncio.run(page_through()) == ids(sent)


def test_the_writer_of_a_rooms_message_is_nobodys_business(world: World) -> None:
    """In a room where only moderators see addresses, an imported message must not show one to all."""
    ann, bob, muc = account(world, "ann"), account(world, "bob"), world.acme.spec.components.muc
    world.acme.control.create_room(local("tea"), RoomSettings(), Jid.parse(ann))
    who = "<x xmlns='http://jabber.org/protocol/muc#user'><item jid='secret@acme.example/x' affiliation='member'/></x>"
    item = message("one", "2026-10-01T10:00:00Z", room=f"tea@{muc}").replace("<body>", who + "<body>")
    assert control(world).import_archive([item], room=local("tea")).made == 1
    exported, _ = control(world).export_archive(room=local("tea"))
    assert [data.text_of(ET.fromstring(out)) for out in exported] == [data.text_of(ET.fromstring(item))]

    async def seen_by(jid: str) -> str:
        async with session(world, jid) as client:
            await join(client, f"tea@{muc}", "Nick")
            await client.iq("set", f"tea@{muc}", element("query", MAM))
            found = [m for m in client._inbox if m.find(q("result", MAM)) is not None]
            assert bodies(found) == ["one"]
            return ET.tostring(found[0], "unicode")

    assert "secret@acme.example" in asyncio.run(seen_by(ann))
    assert "secret@acme.example" not in asyncio.run(seen_by(bob))


def test_what_ejabberd_has_no_place_for_is_told_and_leaves_again(world: World) -> None:
    strange = "<secrets xmlns='urn:example'><one/></secrets>"
    pep = (
        "<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='urn:example:n'>"
        "<x xmlns='jabber:x:data' type='submit'><field var='pubsub#access_model'><value>open</value></field>"
        "<field var='pubsub#colour'><value>red</value></field></x></configure></pubsub>"
    )
    approved = (
        "<query xmlns='jabber:iq:roster'><item jid='bob@acme.example' subscription='none' approved='true'/></query>"
    )
    report = control(world).import_user(user("ann", strange, pep, approved, SHA_1))
    assert {what for what, _ in report.refused} == {
        "<secrets xmlns='urn:example'/> of ann",
        "PEP node urn:example:n: pubsub#colour",
        "the approval of bob@acme.example before it asks, by ann",
        "the password of ann",
    }
    out = control(world).export_user(local("ann"))
    for piece in ("<secrets xmlns='urn:example'><one/></secrets>", "pubsub#colour", "approved='true'", "SCRAM-SHA-1"):
        assert piece in out
    again = control(world).import_user(out)
    assert (again.made, again.changed, again.skipped) == (0, 0, 0)
    world.acme.control.delete_account(local("ann"))
    account(world, "ann")
    assert "secrets" not in control(world).export_user(local("ann"))
    assert "colour" not in control(world).export_user(local("ann"))


def test_a_room_keeps_what_it_cannot_show_until_it_is_gone(world: World) -> None:
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='muc#roomconfig_roomname'><value>Tea</value></field>"
        "<field var='muc#roomconfig_historylength'><value>7</value></field></x>"
    )
    rest = (
        "<subject by='tea@conference.acme.example/Ann' stamp='2026-10-01T10:00:00Z'>Cake</subject>"
        "<affiliations><item jid='ann@acme.example' affiliation='owner'/>"
        "<item jid='bob@acme.example' affiliation='member' nick='Bobby'><reason>nice</reason></item></affiliations>"
        "<occupant-ids salt='abc'/>"
    )
    report = control(world).import_room(room("tea", form, rest))
    assert report.made == 3
    assert len(report.refused) == 3
    out = control(world).export_room(local("tea"))
    for piece in (
        "historylength",
        "stamp='2026-10-01T10:00:00Z'",
        "nick='Bobby'",
        "<reason>nice</reason>",
        "salt='abc'",
    ):
        assert piece in out
    world.acme.restart()
    assert control(world).export_room(local("tea")) == out
    world.acme.control.delete_room(local("tea"))
    world.acme.control.create_room(local("tea"), RoomSettings(), Jid.parse("ann@acme.example"))
    assert not re.search("historylength|stamp|Bobby|salt", control(world).export_room(local("tea")))


def test_a_subject_comes_back_into_an_empty_room_only(world: World) -> None:
    ann, muc = account(world, "ann"), world.acme.spec.components.muc
    old = room(
        "tea", "<subject>Cake</subject><affiliations><item jid='ann@acme.example' affiliation='owner'/></affiliations>"
    )
    control(world).import_room(old)

    async def speak() -> None:
        async with session(world, ann) as client:
            await join(client, f"tea@{muc}", "Ann")
            subject = element("subject", "jabber:client", text="Biscuits")
            client.send(element("message", "jabber:client", subject, to=f"tea@{muc}", type="groupchat"))
            await client.wait_message(lambda m: m.findtext(q("subject")) == "Biscuits")
            assert control(world).import_room(old, replace=True).skipped >= 1
            assert "Biscuits" in control(world).export_room(local("tea"))

    asyncio.run(speak())
    assert control(world).import_room(old).skipped >= 1
    assert control(world).import_room(old, replace=True).changed >= 1
    assert "Cake" in control(world).export_room(local("tea"))
    found = world.acme.control.get_room(local("tea"))
    assert found is not None
    assert (found.subject, found.affiliations) == ("Cake", {ann: "owner"})


def test_an_affiliation_comes_back_although_the_room_has_to_sleep_for_its_role(world: World) -> None:
    """The role is written while the room's process is ended: the affiliation has to be set before."""
    carol = Jid.parse("carol@globex.example")
    control(world).create_room(local("tea"), RoomSettings(), Jid.parse("ann@acme.example"))
    control(world).set_affiliation(local("tea"), carol, "admin")
    saved = control(world).export_room(local("tea"))
    control(world).set_affiliation(local("tea"), carol, "none")
    report = control(world).import_room(saved, replace=True)
    assert report.refused == ()
    assert control(world).export_room(local("tea")) == saved
    again = control(world).import_room(saved, replace=True)
    assert (again.made, again.changed, again.refused) == (0, 0, ())


def test_an_old_passwords_other_hash_does_not_outlive_it(world: World) -> None:
    account(world, "ann")
    both = control(world).export_user(local("ann")).replace("</user>", SHA_1 + "</user>")
    world.acme.control.delete_account(local("ann"))
    control(world).import_user(both)
    assert "SCRAM-SHA-1'" in control(world).export_user(local("ann"))
    login(world, world.jid("ann"), PASSWORD)
    world.acme.control.set_password(local("ann"), Secret("newer"))
    assert "SCRAM-SHA-1'" not in control(world).export_user(local("ann"))


def test_an_account_is_locked_or_not_as_it_was(world: World) -> None:
    account(world, "ann")
    free = control(world).export_user(local("ann"))
    world.acme.control.set_account_enabled(local("ann"), False)
    locked = control(world).export_user(local("ann"))
    assert locked == free.replace(
        "</scram-credentials>", "</scram-credentials><disabled xmlns='urn:roost:portable:1'/>"
    )
    assert control(world).import_user(free).skipped == 1
    with pytest.raises(Rejected):
        login(world, world.jid("ann"))
    assert control(world).import_user(free, replace=True).changed == 1
    login(world, world.jid("ann"))
    world.acme.control.delete_account(local("ann"))
    assert control(world).import_user(locked).made == 1
    with pytest.raises(Rejected):
        login(world, world.jid("ann"))
    world.acme.control.set_account_enabled(local("ann"), True)
    login(world, world.jid("ann"))


@pytest.mark.parametrize(
    ("part", "by"),
    [
        ("100000", "0"),
        ("100000", "many"),
        ("Q6qT/SbybblGCZz8e8eSfCJOQic=", "AAAA"),
        ("0pXWGK0GZJ6TR73AIUN3ITYtA1g=", ""),
    ],
)
def test_keys_that_are_none_make_an_account_without_a_password(world: World, part: str, by: str) -> None:
    """Not one that ejabberd denies afterwards, and not a login for everybody."""
    report = control(world).import_user(user("ann", SHA_1.replace(part, by)))
    assert report.made == 1
    assert "password of ann" in {what for what, _ in report.refused}
    assert [found.local for found in world.acme.control.list_accounts()] == [local("ann")]
    assert control(world).export_accounts() == ["ann"]
    for password in ("", "pencil"):
        with pytest.raises(Rejected):
            login(world, world.jid("ann"), Secret(password))
    world.acme.control.set_password(local("ann"), PASSWORD)
    login(world, world.jid("ann"))


def test_a_part_that_makes_no_sense_takes_no_other_with_it(world: World) -> None:
    prefs = "<prefs xmlns='urn:xmpp:mam:2' default='sometimes'/>"
    card = "<vCard xmlns='vcard-temp'><FN>Ann</FN></vCard>"
    report = control(world).import_user(user("ann", prefs, card))
    assert {what for what, _ in report.refused} == {"archive preferences of ann", "the password of ann"}
    assert card in control(world).export_user(local("ann"))
    with pytest.raises(InvalidInput):
        control(world).import_room(room("tea", "<hats><hat jid='@' uri='u' title='t'/></hats>"))


def test_prefixes_are_read(world: World) -> None:
    """As every XML library but XMPP's servers writes it."""
    xml = (
        "<p:user xmlns:p='urn:xmpp:pie:0' xmlns:r='jabber:iq:roster' name='ann'><r:query><r:item jid='bob@acme.example'"
        " subscription='both'><r:group>G &#10; &lt;</r:group></r:item></r:query><v:vCard xmlns:v='vcard-temp'>"
        "<v:FN>Ann</v:FN></v:vCard><p:offline-messages><c:message xmlns:c='jabber:client' from='b@x.example'>"
        "<c:body>hi</c:body></c:message></p:offline-messages></p:user>"
    )
    assert control(world).import_user(xml).made == 4
    out = ET.fromstring(control(world).export_user(local("ann")))
    assert out.findtext(f".//{q('group', data.ROSTER)}") == "G \n <"
    assert out.findtext(f"{q('vCard', 'vcard-temp')}/{q('FN', 'vcard-temp')}") == "Ann"
    assert out.findtext(f"{q('offline-messages', data.PIE)}/{q('message')}/{q('body')}") == "hi"


def test_a_node_of_one_item_stays_one(world: World) -> None:
    def node(item: str) -> str:
        return user(
            "ann",
            "<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='n'><x xmlns='jabber:x:data'"
            " type='submit'><field var='pubsub#max_items'><value>1</value></field></x></configure></pubsub>"
            f"<pubsub xmlns='{PUBSUB}'><items node='n'><item id='{item}'><a xmlns='urn:example'/></item></items>"
            "</pubsub>",
        )

    control(world).import_user(node("new"))
    assert control(world).import_user(node("old")).skipped == 1
    assert "id='old'" not in control(world).export_user(local("ann"))
    control(world).import_user(node("old"), replace=True)
    out = control(world).export_user(local("ann"))
    assert "id='old'" in out
    assert "id='new'" not in out


def test_privacy_lists_travel_beside_the_block_list(world: World) -> None:
    lists = (
        "<query xmlns='jabber:iq:privacy'><default name='public'/><list name='public'><item type='jid'"
        " value='tybalt@example.com' action='deny' order='1'/><item action='allow' order='2'><message/></item></list>"
        "</query>"
    )
    assert control(world).import_user(user("ann", lists)).made == 2
    out = control(world).export_user(local("ann"))
    assert "<blocklist xmlns='urn:xmpp:blocking'><item jid='tybalt@example.com'/></blocklist>" in out
    assert "<item action='allow' order='2'><message/></item>" in out
    again = control(world).import_user(out)
    assert (again.made, again.changed, again.skipped) == (0, 0, 0)


@pytest.mark.parametrize(
    "xml", ["", "<room/>", room(""), room("TEA"), room("a@b"), "<room xmlns='urn:example' name='a'/>"]
)
def test_what_is_no_room_is_refused(world: World, xml: str) -> None:
    with pytest.raises(InvalidInput):
        control(world).import_room(xml)
    assert control(world).export_rooms() == []


def test_uploads_are_listed_with_where_they_are(world: World) -> None:
    ann, upload = account(world, "ann"), world.acme.spec.components.upload.ascii
    contents = {"one.png": b"first", "zwei ü.txt": b"the second"}

    async def slot(name: str, size: int) -> ET.Element:
        async with session(world, ann) as client:
            return await client.iq("get", upload, element("request", UPLOAD, filename=name, size=str(size)))

    for name, content in contents.items():
        put = asyncio.run(slot(name, len(content))).find(f".//{q('put', UPLOAD)}")
        assert put is not None
        path = "/" + (put.get("url") or "").split("/", 3)[3]
        response, _ = world.acme.https("PUT", path, body=content)
        assert response.status == 201
    found = control(world).export_uploads()
    assert [f.id for f in found] == sorted(f.id for f in found)
    for file in found:
        assert (world.acme.root / file.path).read_bytes() in contents.values()
        assert file.size == (world.acme.root / file.path).stat().st_size
        assert file.user == ann
    assert {f.type for f in found} == {"image/png", "text/plain"}
    assert control(world).export_uploads(limit=1) == found[:1]
    assert control(world).export_uploads(after=found[0].id) == found[1:]
    assert control(world).export_uploads(after=found[1].id) == []
