"""ejabberd through the engines' contract, and what is ejabberd's own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import resource
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine.ejabberd import driver
from controlplane.probes.client import StanzaError, q
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.secret import Secret
from controlplane.values.spec import Contact
from tests.contract.engine.features import DATA, DISCO_INFO, DISCO_ITEMS, PNG, PUBSUB, FeatureContract, info, publish
from tests.contract.engine.suite import PASSWORD, ControlContract, account, element, local, login, session, until
from tests.servers import proxy_v2
from tests.servers.engine import World, running_world
from tests.servers.little_ca import LittleCa

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_world(driver, network="127.62") as made:
        yield made


class TestControl(ControlContract):
    """The control channel."""


class TestFeatures(FeatureContract):
    """What clients get."""


HELLO = (
    b"<stream:stream to='acme.example' version='1.0' xmlns='jabber:client'"
    b" xmlns:stream='http://etherx.jabber.org/streams'>"
)
WRONG_LOGIN = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AG5vYm9keQB3cm9uZw==</auth>"
HOSTILE = "a\"b\\c\n- x: y # {{ @HOST@ @VERSION@ %{x} ~s ]]>&'<ü😀"


def features_of(stream: socket.socket) -> bytes:
    """What a server says to a stream's header, up to its features or its end."""
    stream.sendall(HELLO)
    seen = b""
    while b"</stream:features>" not in seen and (chunk := stream.recv(8192)):
        seen += chunk
    stream.sendall(WRONG_LOGIN)
    return seen


def sent(world: World, service: str, source: str, header: bytes) -> bytes:
    """What a client hears that says ``header`` first, from an address of its own."""
    listen = world.acme.spec.listen
    address = (listen.address, listen.port(service))
    with socket.create_connection(address, timeout=10, source_address=(source, 0)) as plain:
        plain.sendall(header)
        try:
            if service == "c2s":
                return features_of(plain)
            context = ssl.create_default_context(cadata=world.roots_pem)
            with context.wrap_socket(plain, server_hostname=world.acme.domain) as stream:
                return features_of(stream)
        except OSError:
            return b""


def log(world: World) -> str:
    return (world.acme.root / "log" / "ejabberd.log").read_text()


class TestEdge:
    """PROXY protocol: from the edge, of every kind; from nobody else."""

    @pytest.mark.parametrize("service", ["c2s", "c2s_tls"])
    @pytest.mark.parametrize(
        ("header", "address"),
        [
            (proxy_v2.header(("192.0.2.7", 4000), ("192.0.2.1", 5223)), "192.0.2.7"),
            (proxy_v2.header(("2001:db8::7", 4000), ("2001:db8::1", 5223)), "2001:db8::7"),
            (proxy_v2.header(("::ffff:192.0.2.9", 4000), ("2001:db8::1", 5223)), "192.0.2.9"),
            (proxy_v2.header(("192.0.2.8", 4000), ("192.0.2.1", 5223), extra=b"\x04\x00\x03abc" * 20), "192.0.2.8"),
            (proxy_v2.SIGNATURE + b"\x20\x00\x00\x00", "127.62.1.1"),  # LOCAL: the edge itself
        ],
    )
    def test_headers_of_every_kind(self, world: World, service: str, header: bytes, address: str) -> None:
        assert b"</stream:features>" in sent(world, service, world.acme.edge, header)
        if service == "c2s_tls":  # elsewhere nobody can try to log in yet
            assert until(lambda: f"authentication for nobody@acme.example from {address}: Invalid" in log(world))

    @pytest.mark.parametrize(
        "header",
        [
            proxy_v2.SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,  # version 1 in the form of version 2
            proxy_v2.SIGNATURE + b"\x21\x31\x00\xd8" + b"\0" * 216,  # unix sockets
            proxy_v2.SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,  # too short for its addresses
            proxy_v2.SIGNATURE + b"\x21\x11\xff\xff",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 5223\r\n",
        ],
    )
    def test_other_headers_are_refused(self, world: World, header: bytes) -> None:
        assert sent(world, "c2s", world.acme.edge, header) == b""

    def test_a_true_header_from_elsewhere_is_no_header(self, world: World) -> None:
        header = proxy_v2.header(("192.0.2.66", 4000), ("192.0.2.1", 5223))
        for service in ("c2s", "c2s_tls"):
            assert sent(world, service, "127.62.9.9", header) == b""
        assert "192.0.2.66" not in log(world)

    def test_one_silent_connection_keeps_nobody_waiting(self, world: World) -> None:
        listen = world.acme.spec.listen
        header = proxy_v2.header(("192.0.2.7", 4000), ("192.0.2.1", 5223))
        with contextlib.ExitStack() as silent:
            for _ in range(5):
                address = (listen.address, listen.port("c2s"))
                silent.enter_context(socket.create_connection(address, 10, source_address=(world.acme.edge, 0)))
            assert b"</stream:features>" in sent(world, "c2s", world.acme.edge, header)

    def test_the_clients_address_is_in_the_log(self, world: World) -> None:
        jid = account(world, "wrong")
        with pytest.raises(Rejected):
            login(world, jid, Secret("not this one"))
        # The log is written a moment later, in one go with others.
        assert until(lambda: "authentication for wrong@acme.example from 127.0.0.1: Invalid" in log(world))


class TestEjabberdAlone:
    """What the contract does not ask of every engine."""

    def test_hostile_words_reach_clients_unchanged(self, world: World) -> None:
        jid = account(world, "reader-of-words")
        contacts = (Contact("abuse", f"mailto:{HOSTILE}"),)
        before = world.acme.spec
        world.acme.change(display_name=HOSTILE + "\x00\x1b", contacts=contacts, admins=(), turn=None, s2s_blocked=())

        async def look() -> ET.Element:
            async with session(world, jid) as client:
                return await info(client, world.acme.domain)

        try:
            answer = asyncio.run(look())
        finally:
            world.acme.change(display_name=before.display_name, contacts=before.contacts, turn=before.turn)
        assert HOSTILE in {identity.get("name") for identity in answer.iter(q("identity", DISCO_INFO))}
        assert f"mailto:{HOSTILE}" in {value.text for value in answer.iter(q("value", DATA))}
        world.acme.change(admins=before.admins)

    def test_it_opens_no_port_but_its_own(self, world: World) -> None:
        """Neither epmd nor a distribution port: nobody gets into the node but by the control socket."""
        assert world.acme.process is not None
        pid, listen = world.acme.process.pid, world.acme.spec.listen
        inodes = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(entry.readlink()))
        found = set()
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(int(fields[1].partition(":")[2], 16))
        assert found == {listen.base_port + n for n in range(5)} | {listen.proxy65_port}

    def test_the_control_socket_is_the_control_groups(self, world: World) -> None:
        found = (world.acme.root / "run" / "control.sock").stat()
        assert stat.S_IMODE(found.st_mode) == 0o660

    def test_a_configuration_that_is_wrong_ends_the_process(self, world: World) -> None:
        """So that the supervisor sees it: and the one before is taken up again."""
        path = world.globex.root / "config" / "ejabberd.yml"
        right = path.read_bytes()
        world.globex.stop()
        path.write_bytes(right + b"no_such_option: true\n")
        try:
            with pytest.raises(RuntimeError, match="no_such_option"):
                world.globex.start()
            assert world.globex.process is not None
            assert world.globex.process.poll() not in (None, 0)
        finally:
            world.globex.stop()
            path.write_bytes(right)
            world.globex.start()
        assert world.globex.control.health().version.startswith("ejabberd 23.")

    def test_a_wrong_reload_is_refused_and_changes_nothing(self, world: World) -> None:
        path = world.globex.root / "config" / "ejabberd.yml"
        right = path.read_bytes()
        path.write_bytes(right + b"no_such_option: true\n")
        try:
            with pytest.raises(Rejected, match="no_such_option"):
                world.globex.control.reload()
        finally:
            path.write_bytes(right)
        world.globex.control.reload()
        assert world.globex.control.health().uptime_s > 0

    def test_it_stops_cleanly(self, world: World) -> None:
        process = world.globex.process
        assert process is not None
        world.globex.stop()
        try:
            assert process.returncode == 0
            assert not (world.globex.root / "run" / "control.sock").exists()
        finally:
            world.globex.start()

    def test_it_lives_within_its_memory(self, world: World) -> None:
        """Under the same limit as on a node (``prlimit --data``)."""
        assert world.globex.process is not None
        limits = world.globex.spec.limits
        maximum = (256 * 1024 * 1024,) * 2
        world.globex.stop()
        before = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (maximum[0], before[1]))
        try:
            world.globex.start()
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        assert maximum[0] < limits.memory_bytes
        assert world.globex.control.health().sessions == 0

    def test_a_password_set_while_disabled_counts_when_enabled(self, world: World) -> None:
        control, jid, new = world.acme.control, account(world, "sleeper"), Secret("after the sleep")
        control.set_account_enabled(local("sleeper"), False)
        control.set_password(local("sleeper"), new)
        with pytest.raises(Rejected):
            login(world, jid, new)
        control.set_account_enabled(local("sleeper"), True)
        login(world, jid, new)
        with pytest.raises(Rejected):
            login(world, jid)

    def test_a_disabled_account_that_was_deleted_leaves_no_trace(self, world: World) -> None:
        control, jid = world.acme.control, account(world, "ended")
        control.set_account_enabled(local("ended"), False)
        assert control.delete_account(local("ended")) is True
        assert control.create_account(local("ended"), PASSWORD) is True
        assert {a.local.text: a.enabled for a in control.list_accounts()}["ended"] is True
        login(world, jid)

    def test_a_vcards_photo_becomes_an_avatar(self, world: World) -> None:
        jid, metadata = account(world, "photographed"), "urn:xmpp:avatar:metadata"

        async def look() -> ET.Element:
            async with session(world, jid) as client:
                binval = element("BINVAL", "vcard-temp", text=base64.b64encode(PNG).decode())
                photo = element("PHOTO", "vcard-temp", element("TYPE", "vcard-temp", text="image/png"), binval)
                await client.iq("set", "", element("vCard", "vcard-temp", photo))
                return await client.iq("get", "", element("pubsub", PUBSUB, element("items", PUBSUB, node=metadata)))

        found = [i.attrib for i in asyncio.run(look()).iter(q("info", metadata))]
        assert [(i["bytes"], i["type"]) for i in found] == [(str(len(PNG)), "image/png")]

    def test_publish_options_that_ejabberd_does_not_know(self, world: World) -> None:
        """XEP-0402 §4 asks for these on each publication; another value is a conflict, an unknown one refused."""
        jid, node = account(world, "bookmarker"), "urn:xmpp:bookmarks:1"
        wanted = {
            "persist_items": "true",
            "max_items": "max",
            "send_last_published_item": "never",
            "access_model": "whitelist",
        }

        async def steps() -> None:
            async with session(world, jid) as client:
                for number in range(3):
                    payload = element("conference", node, name=str(number))
                    await client.iq("set", "", publish(node, payload, id=f"r{number}@x.example", **wanted))
                answer = await client.iq("get", "", element("pubsub", PUBSUB, element("items", PUBSUB, node=node)))
                assert len(list(answer.iter(q("item", PUBSUB)))) == 3
                for change, condition in (({"max_items": "7"}, "conflict"), ({"odd": "1"}, "resource-constraint")):
                    with pytest.raises(StanzaError) as refused:
                        await client.iq("set", "", publish(node, payload, id="x", **{**wanted, **change}))
                    assert refused.value.condition == condition

        asyncio.run(steps())

    def test_a_blocked_domains_services_are_blocked_too(self, world: World) -> None:
        rooms = world.globex.spec.components.muc
        assert world.acme.control.ping(rooms) > 0
        world.acme.change(s2s_blocked=(world.globex.spec.domain,))
        try:
            world.acme.control.close_s2s(world.acme.spec.domain, rooms)
            with pytest.raises(Unavailable):
                world.acme.control.ping(rooms, timeout_s=3)
        finally:
            world.acme.change(s2s_blocked=())
        assert world.acme.control.ping(rooms) > 0

    def test_a_dialback_link_says_so(self, world: World) -> None:
        """A peer whose certificate is for another name gets no EXTERNAL, and is let in by dialback."""
        world.globex.certify(LittleCa("nobody's root"))
        world.globex.control.reload()
        acme, globex = world.acme, world.globex
        try:
            for one, other in ((acme, globex), (globex, acme)):
                one.control.close_s2s(one.spec.domain, other.spec.domain)
            assert globex.control.ping(acme.spec.domain) > 0
            found = {
                c.auth for c in acme.control.s2s_connections() if c.remote == globex.domain and c.direction == "in"
            }
            assert found == {"dialback"}
        finally:
            globex.certify()
            globex.control.reload()
            for one, other in ((acme, globex), (globex, acme)):
                one.control.close_s2s(one.spec.domain, other.spec.domain)
        assert globex.control.ping(acme.spec.domain) > 0

    def test_there_are_no_invitations(self, world: World) -> None:
        """ejabberd 23.01 lacks XEP-0401 and XEP-0445; the page about the engine says so."""
        jid = account(world, "inviting")

        async def look() -> str:
            async with session(world, jid) as client:
                ask = element("query", DISCO_ITEMS, node="http://jabber.org/protocol/commands")
                return ET.tostring(await client.iq("get", world.acme.domain, ask), encoding="unicode")

        assert "invite" not in asyncio.run(look())
        header = proxy_v2.header(("192.0.2.7", 4000), ("192.0.2.1", 5223))
        assert b"invite" not in sent(world, "c2s_tls", world.acme.edge, header)
