"""What every engine driver has to pass, against the real server: the control channel's half of the contract.

An engine's test module gives a module-scoped fixture ``world`` (``tests.servers.engine.running_world``) and
subclasses ``ControlContract`` here and ``FeatureContract`` in ``features``. Tests make accounts and rooms of
their own names, so they stand alone in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine.base import RoomSettings
from controlplane.drivers.node.base import NodeTarget
from controlplane.drivers.node.ssh import SshLine
from controlplane.probes.client import ProbeClient, StanzaError, q
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import PROBE_ACCOUNT
from tests.servers.engine import Instance, World
from tests.servers.sshd import SSHD, Sshd, make_key

PASSWORD = Secret("p r;o\"b'e\\n")
MUC_USER = "http://jabber.org/protocol/muc#user"


def local(text: str) -> Localpart:
    return Localpart.parse(text)


def account(world: World, name: str, instance: Instance | None = None) -> str:
    """Make the account (with ``PASSWORD``) and give its bare JID."""
    (instance or world.acme).control.create_account(local(name), PASSWORD)
    return world.jid(name, instance)


@contextlib.asynccontextmanager
async def session(world: World, jid: str, password: Secret = PASSWORD, **kwargs: object) -> AsyncIterator[ProbeClient]:
    """A logged-in client that has sent its presence."""
    client = ProbeClient(jid, password, resolver=world.resolver, trust_roots=world.roots_pem, **kwargs)  # type: ignore[arg-type]
    async with client:
        await client.send_presence()
        yield client


def login(world: World, jid: str, password: Secret = PASSWORD) -> None:
    async def run() -> None:
        async with session(world, jid, password):
            pass

    asyncio.run(run())


def element(name: str, namespace: str, /, *children: ET.Element, text: str = "", **attributes: str) -> ET.Element:
    made = ET.Element(q(name, namespace), {k.rstrip("_"): v for k, v in attributes.items()})
    made.text = text or None
    made.extend(children)
    return made


def until(true: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """Whether it got true in time: engines close things a moment after they have answered."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def join(client: ProbeClient, room: str, nick: str) -> ET.Element:
    """Enter a room; the room's subject message, which ends the joining (XEP-0045 §7.2.15), or its refusal."""
    heard: asyncio.Future[ET.Element] = asyncio.get_running_loop().create_future()
    stream = client._stream
    assert stream is not None

    def presence(stanza: object) -> None:
        xml: ET.Element = stanza.xml  # type: ignore[attr-defined]
        if xml.get("from", "").startswith(room) and xml.get("type") == "error" and not heard.done():
            heard.set_result(xml)

    stream.add_event_handler("presence_error", presence)
    await client.send_presence(element("x", "http://jabber.org/protocol/muc"), to=f"{room}/{nick}")
    subject = asyncio.ensure_future(
        client.wait_message(lambda m: m.get("from", "").startswith(room) and m.find(q("subject")) is not None)
    )
    done, _ = await asyncio.wait({heard, subject}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    subject.cancel() if heard in done else heard.cancel()
    assert done, f"{room} neither let {nick} in nor refused"
    return done.pop().result()


class ControlContract:
    """Every method of ``EngineControl``, twice where it changes something."""

    def test_health_names_the_engine_and_counts_sessions(self, world: World) -> None:
        jid = account(world, "healthy")

        async def run() -> None:
            before = world.acme.control.health().sessions
            async with session(world, jid):
                assert world.acme.control.health().sessions == before + 1

        asyncio.run(run())
        health = world.acme.control.health()
        assert health.version
        assert health.uptime_s > 0

    def test_an_account_is_made_once_and_keeps_its_password(self, world: World) -> None:
        control = world.acme.control
        assert control.create_account(local("made"), PASSWORD) is True
        assert control.create_account(local("made"), Secret("another")) is False
        login(world, world.jid("made"))
        with pytest.raises(Rejected):
            login(world, world.jid("made"), Secret("another"))

    @pytest.mark.parametrize("name", ["a]]b", "a%n$(id)", "x{{7*7}}", "ü.ö", "..", "a\\b", "--", "#!", "日本", "a;b,c"])
    def test_odd_names_are_names(self, world: World, name: str) -> None:
        control = world.acme.control
        assert control.create_account(local(name), PASSWORD) is True
        assert local(name) in [a.local for a in control.list_accounts()]
        login(world, world.jid(name))
        assert control.delete_account(local(name)) is True
        assert local(name) not in [a.local for a in control.list_accounts()]

    def test_a_name_that_the_engine_would_change_is_refused(self, world: World) -> None:
        with pytest.raises(InvalidInput):
            world.acme.control.create_account(Localpart("Capital"), PASSWORD)

    def test_a_new_password_replaces_the_old(self, world: World) -> None:
        jid = account(world, "changed")
        for _ in range(2):
            world.acme.control.set_password(local("changed"), Secret("näw \\'\"]]"))
        login(world, jid, Secret("näw \\'\"]]"))
        with pytest.raises(Rejected):
            login(world, jid)

    def test_nobody_has_no_password_and_cannot_be_disabled(self, world: World) -> None:
        with pytest.raises(Rejected):
            world.acme.control.set_password(local("nobody"), PASSWORD)
        with pytest.raises(Rejected):
            world.acme.control.set_account_enabled(local("nobody"), False)
        assert "nobody" not in [a.local.text for a in world.acme.control.list_accounts()]

    def test_a_disabled_account_is_put_out_and_keeps_its_data(self, world: World) -> None:
        control, jid = world.acme.control, account(world, "disabled")
        online_before = control.health().sessions

        async def run() -> None:
            async with session(world, jid) as client:
                vcard = element("vCard", "vcard-temp", element("FN", "vcard-temp", text="Kept"))
                await client.iq("set", "", vcard)
                for _ in range(2):
                    control.set_account_enabled(local("disabled"), False)
                assert until(lambda: control.health().sessions == online_before)

        asyncio.run(run())
        assert {a.local.text: a.enabled for a in control.list_accounts()}["disabled"] is False
        with pytest.raises(Rejected):
            login(world, jid)
        assert control.create_account(local("disabled"), PASSWORD) is False
        world.acme.restart()
        with pytest.raises(Rejected):
            login(world, jid)
        for _ in range(2):
            control.set_account_enabled(local("disabled"), True)
        assert {a.local.text: a.enabled for a in control.list_accounts()}["disabled"] is True

        async def look() -> None:
            async with session(world, jid) as client:
                answer = await client.iq("get", "", element("vCard", "vcard-temp"))
                assert answer.findtext(f".//{q('FN', 'vcard-temp')}") == "Kept"

        asyncio.run(look())

    def test_a_deleted_account_leaves_nothing_to_its_successor(self, world: World) -> None:
        control, jid = world.acme.control, account(world, "gone")
        friend = account(world, "friend")

        async def fill() -> None:
            async with session(world, jid) as client:
                item = element("item", "jabber:iq:roster", jid=friend, name="Friend")
                await client.iq("set", "", element("query", "jabber:iq:roster", item))
                await client.iq("set", "", element("vCard", "vcard-temp", element("FN", "vcard-temp", text="Gone")))
                await client.send_message(friend, "to be forgotten")
                await client.iq("get", "", element("ping", "urn:xmpp:ping"))

        asyncio.run(fill())
        assert control.delete_account(local("gone")) is True
        assert control.delete_account(local("gone")) is False
        with pytest.raises(Rejected):
            login(world, jid)
        assert control.create_account(local("gone"), PASSWORD) is True

        async def look() -> None:
            async with session(world, jid) as client:
                roster = await client.iq("get", "", element("query", "jabber:iq:roster"))
                assert roster.find(f".//{q('item', 'jabber:iq:roster')}") is None
                archive = await client.iq("set", "", element("query", "urn:xmpp:mam:2", queryid="q"))
                count = archive.findtext(f".//{q('count', 'http://jabber.org/protocol/rsm')}")
                assert count in (None, "0")
                with contextlib.suppress(StanzaError):
                    vcard = await client.iq("get", "", element("vCard", "vcard-temp"))
                    assert vcard.findtext(f".//{q('FN', 'vcard-temp')}") is None

        asyncio.run(look())

    def test_lists_are_sorted_and_leave_the_probe_out(self, world: World) -> None:
        control, jid = world.acme.control, account(world, "lister-b")
        account(world, "lister-a")
        before = control.usage().accounts
        assert control.create_account(local(PROBE_ACCOUNT), PASSWORD) in (True, False)
        assert control.usage().accounts == before

        async def run() -> None:
            async with session(world, jid), session(world, world.jid(PROBE_ACCOUNT)):
                accounts = control.list_accounts()
                names = [a.local.text for a in accounts]
                assert names == sorted(names)
                assert PROBE_ACCOUNT not in names
                online = {a.local.text: a.online for a in accounts}
                assert online["lister-b"] is True
                assert online["lister-a"] is False

        asyncio.run(run())

    def test_a_room_is_made_once_with_its_settings(self, world: World) -> None:
        control, owner = world.acme.control, Jid.parse(world.jid("owner"))
        settings = RoomSettings("Tîtle \"]]'", "Line one\nline <two>", "members", True, "none", True, True, "de", True)
        assert control.create_room(local("planning"), settings, owner) is True
        assert control.create_room(local("planning"), RoomSettings("other"), owner) is False
        room = control.get_room(local("planning"))
        assert room is not None
        assert room.settings == settings
        assert room.affiliations == {str(owner): "owner"}
        assert room.occupants == 0
        listed = {r.local.text: r for r in control.list_rooms()}
        assert listed["planning"].settings == settings
        assert listed["planning"].affiliations == {}
        assert control.get_room(local("no-such-room")) is None

    @pytest.mark.parametrize("name", ["r]]m", "räum%s", "..", "a\\b"])
    def test_odd_rooms_are_rooms(self, world: World, name: str) -> None:
        control = world.acme.control
        assert control.create_room(local(name), RoomSettings(name), Jid.parse(world.jid("owner"))) is True
        assert local(name) in [r.local for r in control.list_rooms()]
        assert control.delete_room(local(name)) is True
        assert control.get_room(local(name)) is None

    def test_each_setting_changes_alone(self, world: World) -> None:
        control, name = world.acme.control, local("changing")
        settings = RoomSettings("start")
        control.create_room(name, settings, Jid.parse(world.jid("owner")))
        for change in (
            {"title": "Other"},
            {"description": "More"},
            {"access": "members"},
            {"moderated": True},
            {"anonymity": "none"},
            {"listed": True},
            {"language": "fr-CA"},
            {"archived": False},
        ):
            settings = replace(settings, **change)
            for _ in range(2):
                control.set_room_settings(name, settings)
            room = control.get_room(name)
            assert room is not None
            assert room.settings == settings
        with pytest.raises(Rejected):
            control.set_room_settings(local("no-such-room"), settings)

    def test_rooms_survive_a_restart_with_everyone_in_them(self, world: World) -> None:
        control, name = world.acme.control, local("lasting")
        settings = RoomSettings("Lasting", access="members", listed=True, language="de")
        control.create_room(name, settings, Jid.parse(world.jid("owner")))
        for person, affiliation in (("ann", "admin"), ("mel", "member"), ("out", "outcast"), ("gone", "member")):
            for _ in range(2):
                control.set_affiliation(name, Jid.parse(f"{person}@elsewhere.example"), affiliation)
        control.set_affiliation(name, Jid.parse("gone@elsewhere.example"), "none")
        account(world, "lasting-account")
        world.acme.restart()
        assert "lasting" in [r.local.text for r in control.list_rooms()]
        room = control.get_room(name)
        assert room is not None
        assert room.settings == settings
        assert room.affiliations == {
            world.jid("owner"): "owner",
            "ann@elsewhere.example": "admin",
            "mel@elsewhere.example": "member",
            "out@elsewhere.example": "outcast",
        }
        login(world, world.jid("lasting-account"))

    def test_affiliations_count_at_the_door(self, world: World) -> None:
        control, name = world.acme.control, local("club")
        member, other = account(world, "member"), account(world, "other")
        control.create_room(name, RoomSettings(access="members"), Jid.parse(world.jid("owner")))
        control.set_affiliation(name, Jid.parse(member), "member")
        room = f"club@{world.acme.spec.components.muc}"

        async def run() -> None:
            async with session(world, member) as inside, session(world, other) as outside:
                assert (await join(inside, room, "m")).get("type") == "groupchat"
                assert (await join(outside, room, "o")).get("type") == "error"
                found = control.get_room(name)
                assert found is not None
                assert found.occupants == 1
                control.set_affiliation(name, Jid.parse(member), "outcast")
                assert until(lambda: {r.local.text: r for r in control.list_rooms()}["club"].occupants == 0)

        asyncio.run(run())
        with pytest.raises(Rejected):
            control.set_affiliation(local("no-such-room"), Jid.parse(member), "member")

    def test_a_deleted_room_is_gone(self, world: World) -> None:
        control, owner = world.acme.control, Jid.parse(world.jid("owner"))
        control.create_room(local("brief"), RoomSettings("first", listed=True), owner)
        control.set_affiliation(local("brief"), Jid.parse("m@elsewhere.example"), "member")
        assert control.delete_room(local("brief")) is True
        assert control.delete_room(local("brief")) is False
        assert "brief" not in [r.local.text for r in control.list_rooms()]
        control.create_room(local("brief"), RoomSettings(), owner)
        room = control.get_room(local("brief"))
        assert room is not None
        assert room.settings == RoomSettings()
        assert room.affiliations == {str(owner): "owner"}

    def test_a_ping_opens_a_link_that_certificates_authenticate(self, world: World) -> None:
        acme, globex = world.acme.control, world.globex.control
        assert 0 < acme.ping(world.globex.spec.domain) < 10
        assert 0 < globex.ping(world.acme.spec.domain) < 10
        for control, own, peer in ((acme, world.acme, world.globex), (globex, world.globex, world.acme)):
            pairs = [c for c in control.s2s_connections() if (c.local, c.remote) == (own.domain, peer.domain)]
            assert {c.direction for c in pairs} == {"in", "out"}
            assert all(c.encrypted for c in pairs)
            assert {c.auth for c in pairs} == {"certificate"}

    def test_the_clients_address_reaches_the_engine(self, world: World) -> None:
        world.globex.control.ping(world.acme.spec.domain)
        addresses = {c.address for c in world.acme.control.s2s_connections() if c.direction == "in"}
        assert addresses
        assert world.acme.edge not in addresses

    def test_closing_a_pair_closes_both_directions_and_no_other(self, world: World) -> None:
        acme, globex = world.acme.control, world.globex.control
        acme.ping(world.globex.spec.domain)
        globex.ping(world.acme.spec.domain)
        assert acme.close_s2s(world.acme.spec.domain, DomainName("stranger.example")) == 0
        assert acme.close_s2s(world.acme.spec.components.muc, world.globex.spec.domain) == 0
        assert acme.close_s2s(world.acme.spec.domain, world.globex.spec.domain) >= 2

        def none_left() -> bool:
            return not [
                c for c in acme.s2s_connections() if (c.local, c.remote) == (world.acme.domain, world.globex.domain)
            ]

        assert until(none_left)
        # What is still on its way out (or dialled anew for what waits) may be closed once more; then there is nothing.
        assert until(lambda: acme.close_s2s(world.acme.spec.domain, world.globex.spec.domain) == 0)
        acme.purge_dns_cache()
        assert acme.ping(world.globex.spec.domain) > 0
        assert globex.ping(world.acme.spec.domain) > 0

    def test_a_ping_to_nowhere_fails_in_time(self, world: World) -> None:
        with pytest.raises(Unavailable):
            world.acme.control.ping(DomainName("nowhere.example"), timeout_s=2)

    def test_blocked_domains_are_cut_off_in_both_directions(self, world: World) -> None:
        world.acme.control.ping(world.globex.spec.domain)
        world.acme.change(s2s_blocked=(world.globex.spec.domain,))
        try:
            world.acme.control.close_s2s(world.acme.spec.domain, world.globex.spec.domain)
            with pytest.raises(Unavailable):
                world.acme.control.ping(world.globex.spec.domain, timeout_s=3)
            world.globex.control.close_s2s(world.globex.spec.domain, world.acme.spec.domain)
            with pytest.raises(Unavailable):
                world.globex.control.ping(world.acme.spec.domain, timeout_s=3)
        finally:
            world.acme.change(s2s_blocked=())
        assert world.acme.control.ping(world.globex.spec.domain) > 0

    def test_usage_counts(self, world: World) -> None:
        control, jid = world.acme.control, account(world, "user-counted")
        before = control.usage()
        control.create_account(local("one-more"), PASSWORD)
        control.create_room(local("one-more"), RoomSettings(), Jid.parse(world.jid("owner")))
        after = control.usage()
        assert after.accounts == before.accounts + 1
        assert after.rooms == before.rooms + 1

        async def run() -> None:
            async with session(world, jid):
                assert control.usage().online == before.online + 1

        asyncio.run(run())

    def test_a_reload_switches_certificates_and_keeps_sessions(self, world: World) -> None:
        jid = account(world, "reloading")

        async def run() -> None:
            async with session(world, jid) as client:
                chain = world.acme.certify()
                world.acme.control.reload()
                wanted = hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain.partition("-----END CERTIFICATE-----")[0]
                                                                 + "-----END CERTIFICATE-----\n")).digest()  # fmt: skip
                for service in ("c2s_tls", "s2s_tls", "https"):
                    with world.acme.tls(service) as connection:
                        served = connection.getpeercert(binary_form=True) or b""
                    assert hashlib.sha256(served).digest() == wanted, service
                async with session(world, jid, services=("xmpp-client",)) as second:
                    assert hashlib.sha256(second.certificate).digest() == wanted
                await client.iq("get", world.acme.domain, element("ping", "urn:xmpp:ping"))

        asyncio.run(run())

    def test_changed_settings_reach_the_running_engine(self, world: World) -> None:
        before = world.acme.spec
        world.acme.change(display_name='new ]] "name"', language="de")
        try:
            assert world.acme.control.health().version
        finally:
            world.acme.change(display_name=before.display_name, language=before.language)

    def test_no_header_no_service(self, world: World) -> None:
        """PROXY protocol: a stranger's bytes are never taken for the edge's, nor a header from elsewhere."""
        spec = world.acme.spec
        for service in ("c2s", "c2s_tls", "s2s", "s2s_tls", "https"):
            for source, first in ((spec.edge_addresses[0], b"<?xml version='1.0'?>" + b" " * 300), ("127.0.0.1", b"")):
                with socket.create_connection(
                    (spec.listen.address, spec.listen.port(service)), timeout=15, source_address=(source, 0)
                ) as s:
                    s.sendall(first or b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + b"<?xml version='1.0'?>" * 20)
                    with contextlib.suppress(ConnectionError):
                        assert s.recv(1000) == b"", (service, source)

    def test_a_call_that_was_meant_for_another_is_refused(self, world: World) -> None:
        """On another machine a link may lead the one's socket to the other's, and the line follows it."""
        acme, other = world.acme, world.globex
        astray = acme.driver.control(acme.spec, Path(other.spec.paths.control_socket))
        with pytest.raises(Rejected):
            astray.create_account(local("astray"), PASSWORD)
        assert local("astray") not in [found.local for found in other.control.list_accounts()]

    @pytest.mark.skipif(not SSHD.exists() or os.geteuid() != 0, reason="needs openssh-server and root")
    def test_it_is_the_same_over_a_line(self, world: World, tmp_path: Path) -> None:
        account(world, "overline")
        with Sshd("127.65.200.6") as sshd, tempfile.TemporaryDirectory(prefix="re", dir="/tmp") as place:
            sshd.allow(make_key(tmp_path / "key"))
            reach = {"address": sshd.address, "ssh_port": sshd.port, "host_keys": sshd.host_keys}
            key = Secret((tmp_path / "key").read_text())
            target = NodeTarget("n1", "ssh", "systemd", state_dir="/x", runtime_dir="/x", private_key=key, **reach)
            line = SshLine(target, Path(place))
            acme = world.acme
            control = acme.driver.control(acme.spec, line.socket(str(acme.spec.paths.control_socket)))
            assert control.health().version == acme.control.health().version
            assert not control.create_account(local("overline"), PASSWORD)
            assert control.list_accounts() == acme.control.list_accounts()
            for pid in sshd.sessions():
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(Unavailable):
                control.health()
            line.close()

    def test_a_stopped_engine_is_unavailable(self, world: World) -> None:
        world.globex.stop()
        try:
            with pytest.raises(Unavailable):
                world.globex.control.health()
            with pytest.raises(Unavailable):
                world.globex.control.create_account(local("late"), PASSWORD)
        finally:
            world.globex.start()
        assert world.globex.control.health().version
