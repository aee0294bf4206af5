"""What every engine has to offer to clients, tried through the edge's stand-in by a client that trusts nothing.

The second half of the engines' contract (``suite`` has the first). What an engine of Debian's lacks is
marked in its own test module, by overriding the test with one that shows the lack.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from controlplane.drivers.engine.base import RoomSettings
from controlplane.probes.client import ProbeClient, StanzaError, q
from controlplane.values.names import Jid
from tests.contract.engine.suite import account, element, join, local, session
from tests.servers.engine import World

DISCO_INFO, DISCO_ITEMS = "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items"
PUBSUB, MAM, FORWARD, DATA = (
    "http://jabber.org/protocol/pubsub",
    "urn:xmpp:mam:2",
    "urn:xmpp:forward:0",
    "jabber:x:data",
)
UPLOAD, EXTDISCO, BYTESTREAMS = (
    "urn:xmpp:http:upload:0",
    "urn:xmpp:extdisco:2",
    "http://jabber.org/protocol/bytestreams",
)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

#: XEP-0163, -0280, -0191, -0313, -0215: where a client looks for them.
DOMAIN_FEATURES = {
    EXTDISCO,
    "urn:xmpp:carbons:2",
    "urn:xmpp:blocking",
    "urn:xmpp:ping",
    "jabber:iq:version",
    "vcard-temp",
}
ACCOUNT_FEATURES = {MAM, f"{PUBSUB}#publish-options", f"{PUBSUB}#auto-create", f"{PUBSUB}#persistent-items"}


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


async def info(client: ProbeClient, to: str, node: str = "") -> ET.Element:
    extra = {"node": node} if node else {}
    return await client.iq("get", to, element("query", DISCO_INFO, **extra))


def features(answer: ET.Element) -> set[str]:
    return {f.get("var", "") for f in answer.iter(q("feature", DISCO_INFO))}


def form(form_type: str, type_: str = "submit", **values: str) -> ET.Element:
    fields = [element("field", DATA, element("value", DATA, text=form_type), var="FORM_TYPE", type="hidden")]
    for name, value in values.items():
        fields.append(element("field", DATA, element("value", DATA, text=value), var=name.replace("__", "#")))
    return element("x", DATA, *fields, type=type_)


def publish(node: str, payload: ET.Element, *, id: str = "current", **options: str) -> ET.Element:
    parts = [element("publish", PUBSUB, element("item", PUBSUB, payload, id=id), node=node)]
    if options:
        named = {f"pubsub__{name}": value for name, value in options.items()}
        parts.append(element("publish-options", PUBSUB, form(f"{PUBSUB}#publish-options", **named)))
    return element("pubsub", PUBSUB, *parts)


async def archive(client: ProbeClient, to: str = "", **filters: str) -> list[ET.Element]:
    """The forwarded messages of one page of an archive (XEP-0313 §4)."""
    query = element("query", MAM, queryid="page")
    if filters:
        query.append(form(MAM, **filters))
    await client.iq("set", to, query)
    found = []
    while True:
        for number, message in enumerate(client._inbox):
            if message.find(q("result", MAM)) is not None:
                found.append(client._inbox.pop(number))
                break
        else:
            return found


def bodies(messages: list[ET.Element]) -> list[str]:
    return [b.text or "" for m in messages for b in m.iter(q("body"))]


class FeatureContract:
    """Clients' features, one test each."""

    def test_the_stream_offers_what_mobiles_need(self, world: World) -> None:
        jid = account(world, "stream")

        async def steps() -> None:
            for service in ("xmpp-client", "xmpps-client"):
                async with session(world, jid, services=(service,)) as client:
                    assert {"{urn:xmpp:sm:3}sm", "{urn:xmpp:csi:0}csi"} <= client.stream_features
                    client.send(element("inactive", "urn:xmpp:csi:0"))
                    client.send(element("active", "urn:xmpp:csi:0"))
                    enabled: asyncio.Future[ET.Element] = asyncio.get_running_loop().create_future()
                    assert client._stream is not None

                    def told(stanza: Any, heard: asyncio.Future[ET.Element] = enabled) -> None:
                        heard.set_result(stanza.xml)

                    for name in ("enabled", "failed"):
                        path = MatchXPath(f"{{urn:xmpp:sm:3}}{name}")
                        client._stream.register_handler(Callback(name, path, told))
                    client.send(element("enable", "urn:xmpp:sm:3", resume="true"))
                    answer = await asyncio.wait_for(enabled, 10)
                    assert answer.tag == q("enabled", "urn:xmpp:sm:3")
                    assert answer.get("resume") in ("true", "1")

        run(steps())

    def test_discovery_names_everything(self, world: World) -> None:
        jid = account(world, "explorer")

        async def steps() -> None:
            async with session(world, jid) as client:
                assert features(await info(client, world.acme.domain)) >= DOMAIN_FEATURES
                assert features(await info(client, jid)) >= ACCOUNT_FEATURES
                items = await client.iq("get", world.acme.domain, element("query", DISCO_ITEMS))
                found = {i.get("jid") for i in items.iter(q("item", DISCO_ITEMS))}
                assert {c.ascii for c in world.acme.spec.components.all()} <= found
                assert UPLOAD in features(await info(client, str(world.acme.spec.components.upload)))
                assert BYTESTREAMS in features(await info(client, str(world.acme.spec.components.proxy)))
                muc = features(await info(client, str(world.acme.spec.components.muc)))
                assert "http://jabber.org/protocol/muc" in muc

        run(steps())

    def test_contact_addresses(self, world: World) -> None:
        jid = account(world, "complainer")

        async def steps() -> None:
            async with session(world, jid) as client:
                answer = await info(client, world.acme.domain)
                for form_ in answer.iter(q("x", DATA)):
                    values = {
                        f.get("var"): [v.text for v in f.iter(q("value", DATA))] for f in form_.iter(q("field", DATA))
                    }
                    if values.get("FORM_TYPE") == ["http://jabber.org/network/serverinfo"]:
                        assert values["abuse-addresses"] == [f"mailto:abuse@{world.acme.domain}"]
                        assert values["support-addresses"] == [f"xmpp:help@{world.acme.domain}"]
                        return
                raise AssertionError(ET.tostring(answer, encoding="unicode"))

        run(steps())

    def test_where_outages_are_told(self, world: World) -> None:
        """XEP-0455 §2.1: at the domain alone, changed by a reload with every session kept, and gone when unset."""
        jid = account(world, "worrier")
        url = "https://status.example/status/acme.example/outage.json?\"'<&>]]"

        async def addresses(client: Any, target: str) -> list[list[str | None]]:
            found = []
            for form_ in (await info(client, target)).iter(q("x", DATA)):
                values = {
                    f.get("var"): [v.text for v in f.iter(q("value", DATA))] for f in form_.iter(q("field", DATA))
                }
                if values.get("FORM_TYPE") == ["urn:xmpp:sos:0"]:
                    found.append(values["external-status-addresses"])
            return found

        async def steps() -> None:
            async with session(world, jid) as client:
                for wanted in (url, url + "2"):
                    await asyncio.to_thread(world.acme.change, outage_url=wanted)
                    assert await addresses(client, world.acme.domain) == [[wanted]]
                    assert await addresses(client, str(world.acme.spec.components.muc)) == []
                answer = await info(client, world.acme.domain)
                assert "abuse-addresses" in ET.tostring(answer, encoding="unicode")
                await asyncio.to_thread(world.acme.change, outage_url="")
                assert await addresses(client, world.acme.domain) == []

        run(steps())

    def test_messages_are_archived_for_both(self, world: World) -> None:
        ann, bob = account(world, "mam-ann"), account(world, "mam-bob")

        async def steps() -> None:
            async with session(world, ann) as a:
                await a.send_message(bob, "into the archive")
                await a.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"))
                assert bodies(await archive(a, **{"with": bob})) == ["into the archive"]
            async with session(world, bob) as b:
                assert bodies(await archive(b)) == ["into the archive"]

        run(steps())

    def test_carbons_reach_the_other_client(self, world: World) -> None:
        ann, bob = account(world, "carbon-ann"), account(world, "carbon-bob")

        async def steps() -> None:
            async with session(world, ann) as phone, session(world, ann) as desk, session(world, bob) as b:
                await desk.iq("set", "", element("enable", "urn:xmpp:carbons:2"))
                await phone.send_message(b.jid, "from the phone")
                copy = await desk.wait_message(lambda m: m.find(q("sent", "urn:xmpp:carbons:2")) is not None)
                assert bodies([copy]) == ["from the phone"]

        run(steps())

    def test_pep_keeps_publish_options_for_omemo(self, world: World) -> None:
        ann, bob = account(world, "omemo-ann"), account(world, "omemo-bob")
        node, space = "eu.siacs.conversations.axolotl.devicelist", "eu.siacs.conversations.axolotl"

        async def steps() -> None:
            async with session(world, ann) as a, session(world, bob) as b:
                devices = element("list", space, element("device", space, id="4711"))
                await a.iq("set", "", publish(node, devices, access_model="open", persist_items="true"))
                get = element("pubsub", PUBSUB, element("items", PUBSUB, node=node))
                answer = await b.iq("get", ann, get)
                assert [d.get("id") for d in answer.iter(q("device", space))] == ["4711"]
                with pytest.raises(StanzaError) as refused:
                    await a.iq("set", "", publish(node, devices, access_model="whitelist"))
                assert refused.value.condition == "conflict"
                bundles = f"{space}.bundles.many"
                for number in range(3):
                    many = publish(bundles, devices, id=str(number), max_items="max", access_model="open")
                    await a.iq("set", "", many)
                answer = await b.iq("get", ann, element("pubsub", PUBSUB, element("items", PUBSUB, node=bundles)))
                assert len(list(answer.iter(q("item", PUBSUB)))) == 3

        run(steps())

    def test_vcard_and_avatar(self, world: World) -> None:
        ann, bob = account(world, "face-ann"), account(world, "face-bob")
        data, metadata = "urn:xmpp:avatar:data", "urn:xmpp:avatar:metadata"
        digest = hashlib.sha1(PNG).hexdigest()  # XEP-0084 names avatars by it

        async def steps() -> None:
            async with session(world, ann) as a, session(world, bob) as b:
                card = element("vCard", "vcard-temp", element("FN", "vcard-temp", text="Ann & Co"))
                await a.iq("set", "", card)
                picture = element("data", data, text=base64.b64encode(PNG).decode())
                await a.iq("set", "", publish(data, picture, id=digest, access_model="open"))
                told = element("info", metadata, bytes=str(len(PNG)), id=digest, type="image/png")
                options = {"access_model": "open"}
                await a.iq("set", "", publish(metadata, element("metadata", metadata, told), id=digest, **options))
                answer = await b.iq("get", ann, element("vCard", "vcard-temp"))
                assert answer.findtext(f".//{q('FN', 'vcard-temp')}") == "Ann & Co"
                photo = "".join((answer.findtext(f".//{q('BINVAL', 'vcard-temp')}") or "").split())
                assert base64.b64decode(photo) == PNG

        run(steps())

    def test_blocking(self, world: World) -> None:
        ann, bob = account(world, "block-ann"), account(world, "block-bob")

        async def steps() -> None:
            async with session(world, ann) as a, session(world, bob) as b:
                item = element("item", "urn:xmpp:blocking", jid=bob)
                await a.iq("set", "", element("block", "urn:xmpp:blocking", item))
                id = await b.send_message(ann, "unwanted")
                bounce = await b.wait_message(lambda m: m.get("id") == id)
                assert bounce.get("type") == "error"
                answer = await a.iq("get", "", element("blocklist", "urn:xmpp:blocking"))
                assert [i.get("jid") for i in answer.iter(q("item", "urn:xmpp:blocking"))] == [bob]

        run(steps())

    def test_bookmarks_of_old_and_new_clients_are_the_same(self, world: World) -> None:
        jid = account(world, "reader")
        storage, room = "storage:bookmarks", f"books@{world.acme.spec.components.muc}"

        async def steps() -> None:
            async with session(world, jid) as client:
                conference = element("conference", storage, jid=room, name="Books", autojoin="true")
                private = element("query", "jabber:iq:private", element("storage", storage, conference))
                await client.iq("set", "", private)
                ask = element("pubsub", PUBSUB, element("items", PUBSUB, node="storage:bookmarks"))
                answer = await client.iq("get", "", ask)
                assert [c.get("jid") for c in answer.iter(q("conference", storage))] == [room]

        run(steps())

    def test_a_file_goes_up_and_comes_down(self, world: World) -> None:
        jid, content = account(world, "uploader"), bytes(range(256)) * 800

        async def steps() -> None:
            async with session(world, jid) as client:
                upload = str(world.acme.spec.components.upload)
                ask = {"filename": 'näme "x".bin', "content-type": "application/octet-stream"}
                slot = await client.iq("get", upload, element("request", UPLOAD, size=str(len(content)), **ask))
                put, get = slot.find(f".//{q('put', UPLOAD)}"), slot.find(f".//{q('get', UPLOAD)}")
                assert put is not None and get is not None  # noqa: PT018
                headers = {h.get("name", ""): h.text or "" for h in put.iter(q("header", UPLOAD))}
                headers["Content-Type"] = "application/octet-stream"
                for where, method in ((put, "PUT"), (get, "GET")):
                    url = urlsplit(where.get("url", ""))
                    assert url.scheme == "https"
                    assert url.port in (None, 443)
                    path = url.path + (f"?{url.query}" if url.query else "")
                    body = content if method == "PUT" else None
                    response, got = await asyncio.to_thread(
                        world.acme.https,
                        method,
                        path,
                        host=url.hostname or "",
                        body=body,
                        headers=headers if method == "PUT" else {},
                    )
                    assert response.status in (200, 201), (method, got)
                assert got == content
                too_big = str(world.acme.spec.limits.upload_max_bytes + 1)
                with pytest.raises(StanzaError):
                    await client.iq("get", upload, element("request", UPLOAD, filename="big", size=too_big))
            usage = world.acme.control.usage()
            assert usage.upload_bytes is None or usage.upload_bytes >= len(content)

        run(steps())

    def test_a_stranger_gets_no_slot(self, world: World) -> None:
        jid = account(world, "stranger", world.globex)

        async def steps() -> None:
            async with session(world, jid) as client:
                ask = element("request", UPLOAD, filename="x", size="10")
                with pytest.raises(StanzaError):
                    await client.iq("get", str(world.acme.spec.components.upload), ask)

        run(steps())

    def test_rooms_keep_an_archive(self, world: World) -> None:
        ann = account(world, "room-ann")
        world.acme.control.create_room(local("archive"), RoomSettings("Archive"), Jid.parse(ann))
        room = f"archive@{world.acme.spec.components.muc}"

        async def steps() -> None:
            async with session(world, ann) as a:
                await join(a, room, "ann")
                id = await a.send_message(room, "for the record", type="groupchat")
                await a.wait_message(lambda m: m.get("id") == id)
                assert "for the record" in bodies(await archive(a, room))
                assert MAM in features(await info(a, room))

        run(steps())

    def test_a_clients_own_room_is_persistent_and_archived(self, world: World) -> None:
        ann = account(world, "founder")
        room = f"founded@{world.acme.spec.components.muc}"

        async def steps() -> None:
            async with session(world, ann) as a:
                await join(a, room, "ann")
                owner = "http://jabber.org/protocol/muc#owner"
                await a.iq("set", room, element("query", owner, element("x", DATA, type="submit")))

        run(steps())
        world.acme.restart()
        found = world.acme.control.get_room(local("founded"))
        assert found is not None
        assert found.settings.persistent
        assert found.settings.archived
        assert found.settings.language == world.acme.spec.language
        assert found.affiliations == {ann: "owner"}

    def test_external_services_give_turn_credentials(self, world: World) -> None:
        jid = account(world, "caller")
        turn = world.acme.spec.turn
        assert turn is not None

        async def steps() -> None:
            async with session(world, jid) as client:
                answer = await client.iq("get", world.acme.domain, element("services", EXTDISCO))
                services = list(answer.iter(q("service", EXTDISCO)))
                assert {s.get("host") for s in services} == {"turn.example"}
                relays = [s for s in services if s.get("type") == "turn"]
                assert relays
                for relay in relays:
                    name, password = relay.get("username", ""), relay.get("password", "")
                    assert name.endswith(f":{turn.label}")
                    mac = hmac.digest(turn.secret.reveal().encode(), name.encode(), "sha1")
                    assert base64.b64decode(password) == mac

        run(steps())

    def test_websocket_and_bosh_are_reachable(self, world: World) -> None:
        with world.acme.tls() as stream:
            stream.sendall(
                f"GET /{self.websocket_path} HTTP/1.1\r\nHost: {world.acme.domain}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: xmpp\r\nOrigin: https://{world.acme.domain}\r\n\r\n".encode()
            )
            answer = stream.recv(4096).decode()
        assert answer.startswith("HTTP/1.1 101")
        assert "s3pplmbitxaq9kygzzhzrbk+xoo=" in answer.lower()
        body = (
            f"<body xmlns='http://jabber.org/protocol/httpbind' to='{world.acme.domain}' rid='1' wait='5' hold='1'"
            " ver='1.6' xml:lang='en' xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0'/>"
        )
        response, got = world.acme.https("POST", f"/{self.bosh_path}", body=body.encode())
        assert response.status == 200
        assert ET.fromstring(got).get("sid")

    websocket_path = "xmpp-websocket"
    bosh_path = "http-bind"

    def test_host_meta_tells_where_they_are(self, world: World) -> None:
        response, got = world.acme.https("GET", "/.well-known/host-meta")
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        xrd = "{http://docs.oasis-open.org/ns/xri/xrd-1.0}"
        links = {e.get("rel"): e.get("href") for e in ET.fromstring(got).iter(f"{xrd}Link")}
        wanted = {
            "urn:xmpp:alt-connections:websocket": f"wss://{world.acme.domain}/{self.websocket_path}",
            "urn:xmpp:alt-connections:xbosh": f"https://{world.acme.domain}/{self.bosh_path}",
        }
        assert links == wanted
        response, got = world.acme.https("GET", "/.well-known/host-meta.json")
        assert response.status == 200
        assert {link["rel"]: link["href"] for link in json.loads(got)["links"]} == wanted

    def test_push_can_be_enabled(self, world: World) -> None:
        jid = account(world, "pushed")

        async def steps() -> None:
            async with session(world, jid) as client:
                enable = element("enable", "urn:xmpp:push:0", jid="push.example", node="device")
                assert (await client.iq("set", "", enable)).get("type") == "result"

        run(steps())

    def test_registration_is_closed(self, world: World) -> None:
        """An engine with invitations may offer to redeem one; without one nobody gets an account."""
        with socket.create_connection((world.acme.edge, 5223), timeout=10) as plain:
            context = ssl.create_default_context(cadata=world.roots_pem)
            with context.wrap_socket(plain, server_hostname=world.acme.domain) as stream:
                stream.sendall(
                    f"<stream:stream to='{world.acme.domain}' version='1.0' xmlns='jabber:client'"
                    " xmlns:stream='http://etherx.jabber.org/streams'>".encode()
                )
                seen = b""
                while b"</stream:features>" not in seen:
                    seen += stream.recv(8192) or pytest.fail(repr(seen))
                assert b"SCRAM-SHA" in seen
                stream.sendall(
                    b"<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>intruder</username>"
                    b"<password>x</password></query></iq>"
                )
                seen = b""
                while chunk := stream.recv(8192):
                    seen += chunk
                    if b"</iq>" in seen or b"</stream:stream>" in seen:
                        break
        assert b"type='result'" not in seen
        assert "intruder" not in [a.local.text for a in world.acme.control.list_accounts()]

    def test_proxy65_serves_streams(self, world: World) -> None:
        jid = account(world, "streamer")

        async def steps() -> None:
            async with session(world, jid) as client:
                proxy = str(world.acme.spec.components.proxy)
                answer = await client.iq("get", proxy, element("query", BYTESTREAMS))
                host = answer.find(f".//{q('streamhost', BYTESTREAMS)}")
                assert host is not None
                assert host.get("port") == str(world.acme.spec.listen.proxy65_port)
                assert host.get("host") == proxy

        run(steps())
        listen = world.acme.spec.listen
        with socket.create_connection((listen.address, listen.proxy65_port), timeout=10) as s:
            s.sendall(b"\x05\x01\x00")
            assert s.recv(2) == b"\x05\x00"

    def test_a_message_crosses_to_another_instance(self, world: World) -> None:
        ann, bob = account(world, "cross-ann"), account(world, "cross-bob", world.globex)

        async def steps() -> None:
            async with session(world, ann) as a, session(world, bob) as b:
                for sender, receiver, body in ((a, b, "over"), (b, a, "and back")):
                    id = await sender.send_message(receiver.jid, body)
                    message = await receiver.wait_message(lambda m, id=id: m.get("id") == id)  # type: ignore[misc]
                    assert message.findtext(q("body")) == body

        run(steps())
