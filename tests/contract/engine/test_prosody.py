"""Prosody through the engines' contract, and what is Prosody's own."""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.drivers.engine.prosody import driver
from controlplane.probes.client import ProbeClient, q
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.secret import Secret
from controlplane.values.spec import Contact
from tests.contract.engine.features import DATA, DISCO_INFO, EXTDISCO, FeatureContract, info
from tests.contract.engine.suite import ControlContract, account, element, login, session
from tests.servers import proxy_v2
from tests.servers.engine import World, running_world
from tests.servers.haproxy import Haproxy
from tests.servers.little_ca import LittleCa

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_world(driver, network="127.61") as made:
        yield made


class TestControl(ControlContract):
    """The control channel."""


class TestFeatures(FeatureContract):
    """What clients get."""


HELLO = (
    b"<stream:stream to='acme.example' version='1.0' xmlns='jabber:client'"
    b" xmlns:stream='http://etherx.jabber.org/streams'>"
)


def heard(stream: socket.socket, wanted: bytes) -> bytes:
    """What the server said until a whole piece with ``wanted`` was in it."""
    seen = b""
    while wanted not in seen or not seen.endswith((b">", b"\n")):
        chunk = stream.recv(8192)
        assert chunk, seen
        seen += chunk
    return seen


def shell(world: World, lua: str) -> str:
    """The answer of acme's administration shell to a line of Lua."""
    line = ET.Element("repl-input")
    line.text = ">" + lua
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(world.acme.root / "run" / "control.sock"))
        s.sendall(b"<stream:stream xmlns='xmpp:prosody.im/admin' version='1.0'")
        s.sendall(b" xmlns:stream='http://etherx.jabber.org/streams'>" + ET.tostring(line))
        return heard(s, b"</repl-result>").decode()


class TestProsodyAlone:
    """What the contract does not ask of every engine."""

    def test_the_clients_address_is_in_the_log(self, world: World) -> None:
        jid = account(world, "wrong")
        with pytest.raises(Rejected):
            login(world, jid, Secret("not this one"))
        log = (world.acme.root / "out.log").read_text()
        assert "Failed authentication attempt (not-authorized) for user wrong" in log
        assert "from IP: 127.0.0.1" in log

    def test_logs_only_to_its_supervisor_also_after_a_reload(self, world: World) -> None:
        world.acme.control.reload()
        before = (world.acme.root / "out.log").stat().st_size
        with pytest.raises(Rejected):
            login(world, account(world, "relogged"), Secret("not this one"))
        assert "for user relogged" in (world.acme.root / "out.log").read_text()[before:]
        assert list((world.acme.root / "log").iterdir()) == []

    @pytest.mark.parametrize(
        ("pieces", "address"),
        [
            ([proxy_v2.header(("192.0.2.7", 4000), ("192.0.2.1", 5223))], "192.0.2.7"),
            ([proxy_v2.header(("2001:db8::7", 4000), ("2001:db8::1", 5223))], "2001:db8::7"),
            ([proxy_v2.header(("::ffff:192.0.2.9", 4000), ("2001:db8::1", 5223))], "192.0.2.9"),
            ([proxy_v2.header(("192.0.2.8", 4000), ("192.0.2.1", 5223), extra=b"\x04\x00\x03abc" * 20)], "192.0.2.8"),
            ([bytes((b,)) for b in proxy_v2.header(("192.0.2.9", 4000), ("192.0.2.1", 5223))], "192.0.2.9"),
            ([proxy_v2.SIGNATURE + b"\x20\x00\x00\x00"], "127.61.1.1"),  # LOCAL: the edge itself
        ],
    )
    def test_headers_of_every_kind(self, world: World, pieces: list[bytes], address: str) -> None:
        listen = world.acme.spec.listen
        source = (world.acme.edge, 0)
        for service in ("c2s", "c2s_tls"):
            with socket.create_connection((listen.address, listen.port(service)), 10, source_address=source) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    plain.sendall(piece)
                    time.sleep(0.001)
                stream: socket.socket = plain
                if service == "c2s_tls":
                    context = ssl.create_default_context(cadata=world.roots_pem)
                    stream = context.wrap_socket(plain, server_hostname=world.acme.domain)
                stream.sendall(HELLO)
                heard(stream, b"</stream:features>")
                assert address in self.addresses(world)
                assert f":{address}" not in self.addresses(world)

    @staticmethod
    def addresses(world: World) -> str:
        """What Prosody says of its connections."""
        lua = "local t, c2s = {}, hosts['acme.example'].modules.c2s.module "
        lua += "for _, s in pairs(c2s:shared'/*/c2s/sessions') do t[#t + 1] = s.ip end "
        return shell(world, lua + "return table.concat(t, ' ')")

    def test_an_invitation_makes_one_account(self, world: World) -> None:
        answer = shell(world, "return hosts['acme.example'].modules.invites.create_account('invited').token")
        token = answer.partition("Result: ")[2].partition("<")[0].strip()
        assert token
        preauth = f"<iq type='set' id='p'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>"
        for name, outcome in (("invited", b"type='result'"), ("another", b"type='error'")):
            register = f"<query xmlns='jabber:iq:register'><username>{name}</username><password>pw-1</password></query>"
            with world.acme.tls("c2s_tls") as stream:
                stream.sendall(HELLO)
                heard(stream, b"</stream:features>")
                stream.sendall(preauth.encode())
                heard(stream, b"id='p'")
                stream.sendall(f"<iq type='set' id='r'>{register}</iq>".encode())
                assert outcome in heard(stream, b"id='r'")
        assert "another" not in [a.local.text for a in world.acme.control.list_accounts()]
        login(world, world.jid("invited"), Secret("pw-1"))

    def test_hostile_settings_start_and_are_told_as_they_are(self, world: World) -> None:
        before = world.acme.spec
        evil = "\"]] } -- \n os.exit(1) \\ ' {{ x }} <a>&é"
        turn = before.turn
        assert turn is not None
        world.acme.change(
            display_name=evil,
            contacts=(Contact("abuse", f"mailto:{evil}"),),
            turn=replace(turn, label=evil.replace("\n", "")),
        )
        try:
            world.acme.restart()
            jid = account(world, "evil-reader")

            async def look() -> None:
                async with session(world, jid) as client:
                    answer = await info(client, world.acme.domain)
                    names = [e.get("name") for e in answer.iter(q("identity", DISCO_INFO))]
                    assert evil in names or evil.replace("\n", " ") in names

            asyncio.run(look())
        finally:
            world.acme.change(display_name=before.display_name, contacts=before.contacts, turn=before.turn)

    def test_a_reload_brings_live_settings_to_connected_clients(self, world: World) -> None:
        jid, before = account(world, "patient"), world.acme.spec
        old = before.turn
        assert old is not None

        async def passwords(client: ProbeClient, secret: Secret) -> list[bool]:
            """For each TURN service whether its password was made with this secret."""
            answer = await client.iq("get", world.acme.domain, element("services", EXTDISCO))
            found = [s for s in answer.iter(q("service", EXTDISCO)) if s.get("type") == "turn"]
            key = secret.reveal().encode()
            macs = [hmac.digest(key, s.get("username", "").encode(), "sha1") for s in found]
            return [base64.b64decode(s.get("password", "")) == mac for s, mac in zip(found, macs, strict=True)]

        async def run() -> None:
            async with session(world, jid) as client:
                new = replace(old, secret=Secret("rotated"))
                assert all(await passwords(client, old.secret))
                for turn in (new, None, old):
                    process = world.acme.process
                    world.acme.change(turn=turn, limits=replace(before.limits, upload_max_bytes=777))
                    assert world.acme.process is process
                    good = await passwords(client, turn.secret if turn else old.secret)
                    assert all(good)
                    assert bool(good) is (turn is not None)
                upload = await info(client, str(world.acme.spec.components.upload))
                assert "777" in [v.text for v in upload.iter(q("value", DATA))]

        asyncio.run(run())
        world.acme.change(limits=before.limits)

    def test_only_the_control_group_may_enter(self, world: World) -> None:
        run, control = world.acme.root / "run", world.acme.root / "run" / "control.sock"
        assert stat.S_IMODE(control.stat().st_mode) & 0o007 == 0
        assert stat.S_IMODE(control.stat().st_mode) & 0o060 == 0o060
        assert control.stat().st_gid == run.stat().st_gid

    def test_idle_memory_is_small(self, world: World) -> None:
        assert world.globex.process is not None
        status = Path(f"/proc/{world.globex.process.pid}/status").read_text()
        resident_kib = int(status.partition("VmRSS:")[2].split()[0])
        print(f"idle: {resident_kib} KiB resident")
        assert resident_kib < 64 * 1024

    def test_through_the_real_edge(self, world: World) -> None:
        spec, edge = world.acme.spec, "127.61.1.9"
        world.acme.change(edge_addresses=(*spec.edge_addresses, "127.0.0.1"))  # HAProxy dials from there
        try:
            with Haproxy(edge) as haproxy:
                routes = HaproxyEdge(haproxy.socket, haproxy.directory)
                routes.set_routes(spec.server_names, Backend(spec.listen.address, spec.listen.base_port))
                context = ssl.create_default_context(cadata=world.roots_pem)
                for port, name, wanted in ((5223, spec.domain, b"SCRAM-SHA-256"), (443, spec.domain, b"HTTP/1.1")):
                    with (
                        socket.create_connection((edge, port), 10) as plain,
                        context.wrap_socket(plain, server_hostname=name.ascii) as stream,
                    ):
                        get = f"GET /.well-known/host-meta HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
                        stream.sendall(get.encode() if port == 443 else HELLO)
                        assert wanted in heard(stream, wanted)
        finally:
            world.acme.change(edge_addresses=spec.edge_addresses)

    def test_a_peer_that_nobody_vouches_for_is_refused(self, world: World) -> None:
        """s2s_secure_auth: dialback is for peers that do not offer EXTERNAL, not for untrusted certificates."""
        world.globex.control.close_s2s(world.globex.spec.domain, world.acme.spec.domain)
        world.globex.certify(LittleCa("A rogue"))
        world.globex.control.reload()
        try:
            with pytest.raises(Unavailable, match="not trusted"):
                world.globex.control.ping(world.acme.spec.domain)
        finally:
            world.globex.certify()
            world.globex.control.reload()
        assert world.globex.control.ping(world.acme.spec.domain) > 0
