"""The edge against a real HAProxy: who is routed where, by which port, with whose address, and who is refused.

All of it with the driver on HAProxy's machine, over a line, and over SSH.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.spec import SERVICE_OFFSETS
from tests.contract.edge.instances import (
    ACME,
    BASE,
    BETA,
    EDGE,
    HOST,
    PROXY_V2,
    Backends,
    client_hello,
    header,
    talk,
)
from tests.servers.haproxy import Haproxy

pytestmark = pytest.mark.servers


def test_offsets_are_the_instances_own() -> None:
    from controlplane.drivers.edge.config import OFFSETS

    assert OFFSETS == SERVICE_OFFSETS


@pytest.mark.parametrize(("port", "service"), [(5222, "c2s"), (5269, "s2s")])
@pytest.mark.parametrize(
    "chunks",
    [
        [header("acme.example")],
        [header("acme.example", quote='"', before="")],
        [header("ACME.example", before="  \n")],
        [header("conference.acme.example")],
        [header("acme.example")[:60], header("acme.example")[60:]],
    ],
    ids=["plain", "double quotes", "capitals", "component", "two packets"],
)
def test_starttls_goes_by_the_stream_header(
    edge: HaproxyEdge, backends: Backends, port: int, service: str, chunks: list[bytes]
) -> None:
    assert talk(port, *chunks) == b"welcome to " + ACME.encode()
    address, arrived, data = backends.next()
    assert (address, arrived) == (ACME, BASE + SERVICE_OFFSETS[service])
    assert data.startswith(PROXY_V2)
    length = struct.unpack("!H", data[14:16])[0]
    assert data[16 : 16 + length][:4] == socket.inet_aton("127.0.0.1")
    assert data[16 + length :] == b"".join(chunks)


@pytest.mark.parametrize(
    ("port", "alpn", "service"),
    [
        (5223, ["xmpp-client"], "c2s_tls"),
        (5270, ["xmpp-server"], "s2s_tls"),
        (5270, [], "s2s_tls"),
        (443, ["http/1.1"], "https"),
        (443, [], "https"),
        (443, ["xmpp-client"], "c2s_tls"),
        (443, ["xmpp-server"], "s2s_tls"),
    ],
)
def test_tls_goes_by_sni_and_alpn(
    edge: HaproxyEdge, backends: Backends, port: int, alpn: list[str], service: str
) -> None:
    assert talk(port, client_hello("beta.example", alpn)) == b"welcome to " + BETA.encode()
    address, arrived, data = backends.next()
    assert (address, arrived) == (BETA, BASE + SERVICE_OFFSETS[service])
    assert data.startswith(PROXY_V2)


@pytest.mark.parametrize(
    ("port", "data"),
    [
        (5222, header("nobody.example")),
        (5269, header("nobody.example")),
        (5222, b"GET / HTTP/1.1\r\nHost: acme.example\r\n\r\n"),
        (5222, b"<" + b"x" * 20000),
        (5223, client_hello("nobody.example", [])),
        (443, client_hello("nobody.example", ["http/1.1"])),
        (443, b"GET / HTTP/1.1\r\nHost: acme.example\r\n\r\n"),
    ],
)
def test_strangers_are_refused_at_once(edge: HaproxyEdge, backends: Backends, port: int, data: bytes) -> None:
    # Refused, not left to time out: talk() waits four seconds for an answer and would raise.
    assert talk(port, data) == b""
    assert backends.seen == []


def test_changes_take_effect_without_touching_other_connections(edge: HaproxyEdge, backends: Backends) -> None:
    with socket.create_connection((EDGE, 5222), timeout=5) as kept:
        kept.sendall(header("beta.example"))
        assert kept.recv(100) == b"welcome to " + BETA.encode()
        assert edge.set_routes([HOST], Backend(BETA, BASE)) is True
        assert edge.set_routes([HOST], Backend(BETA, BASE)) is False
        assert talk(5222, header("acme.example")) == b"welcome to " + BETA.encode()
        assert edge.delete_routes([HOST]) is True
        assert edge.delete_routes([HOST]) is False
        assert talk(5222, header("acme.example")) == b""
        kept.sendall(b"<presence/>")
        assert kept.recv(100) == b"still " + BETA.encode()
    assert "acme.example" not in edge.routes()
    assert edge.routes()["beta.example"] == Backend(BETA, BASE)


def test_routes_survive_a_crash_of_the_edge(edge: HaproxyEdge, haproxy: Haproxy, backends: Backends) -> None:
    edge.set_tcp_port(20001, ACME)
    before = dict(edge.routes()), dict(edge.tcp_ports())
    haproxy.stop()
    with pytest.raises(Unavailable):
        edge.routes()
    haproxy.start()
    assert (dict(edge.routes()), dict(edge.tcp_ports())) == before
    assert talk(5222, header("acme.example")) == b"welcome to " + ACME.encode()


def test_a_change_that_met_a_dead_edge_is_made_when_it_comes_again(edge: HaproxyEdge, haproxy: Haproxy) -> None:
    haproxy.stop()
    with pytest.raises(Unavailable):
        edge.set_routes([DomainName("late.example")], Backend(ACME, BASE))
    haproxy.start()
    edge.set_routes([DomainName("late.example")], Backend(ACME, BASE))
    assert edge.routes()["late.example"] == Backend(ACME, BASE)
    edge.delete_routes([DomainName("late.example")])


def test_proxy65_goes_by_port_without_a_header(edge: HaproxyEdge, backends: Backends) -> None:
    edge.set_tcp_port(20001, ACME)
    assert talk(20001, b"\x05\x01\x00") == b"welcome to " + ACME.encode()
    assert backends.next() == (ACME, 20001, b"\x05\x01\x00")
    assert edge.delete_tcp_port(20001) is True
    assert edge.delete_tcp_port(20001) is False
    assert talk(20001, b"\x05\x01\x00") == b""


def test_a_lookup_tells_of_the_asked_alone(edge: HaproxyEdge) -> None:
    edge.set_routes([HOST, DomainName("rooms.acme.example")], Backend(ACME, BASE))
    edge.set_tcp_port(20002, ACME)
    asked = [HOST, DomainName("nobody.example"), DomainName("rooms.acme.example")]
    there = {"acme.example": Backend(ACME, BASE), "rooms.acme.example": Backend(ACME, BASE)}
    assert edge.lookup(asked, 20002) == (there, ACME)
    assert edge.lookup([DomainName("nobody.example")], 20003) == ({}, None)
    edge.delete_tcp_port(20002)
    edge.delete_routes([HOST])
    assert edge.lookup(asked, 20002) == ({"rooms.acme.example": Backend(ACME, BASE)}, None)


def test_a_lookup_counts_only_what_a_restart_would_keep(edge: HaproxyEdge, haproxy: Haproxy) -> None:
    edge.set_routes([HOST], Backend(ACME, BASE))
    (haproxy.directory / "backends.map").write_text("acme.example 127.0.0.9/7000\n")
    assert edge.lookup([HOST], 20003) == ({}, None)
    assert edge.set_routes([HOST], Backend(ACME, BASE)) is True
    assert edge.lookup([HOST], 20003) == ({"acme.example": Backend(ACME, BASE)}, None)


def test_more_hosts_than_one_line_holds_are_looked_up(edge: HaproxyEdge) -> None:
    hosts = [DomainName(f"{'x' * 60}.{'y' * 60}.h{number}.example") for number in range(100)]
    edge.set_routes(hosts, Backend(ACME, BASE))
    try:
        assert edge.lookup(hosts, 20003)[0] == dict.fromkeys((h.ascii for h in hosts), Backend(ACME, BASE))
    finally:
        edge.delete_routes(hosts)


def test_the_socket_takes_no_smuggled_commands(edge: HaproxyEdge) -> None:
    with pytest.raises(Rejected):
        edge.set_routes([DomainName("a.example 1; del map x")], Backend(ACME, BASE))
    with pytest.raises(Rejected):
        edge.lookup([DomainName("a.example;del")], 20003)
    with pytest.raises(ValueError):
        edge.set_routes([HOST], Backend("127.0.0.1; shutdown", BASE))


def test_a_stranger_cannot_write_lines_into_the_log(edge: HaproxyEdge, haproxy: Haproxy) -> None:
    log = haproxy.directory / "haproxy.log"
    with socket.create_connection((EDGE, 5222), timeout=5) as stranger:
        stranger.sendall(b"<stream:stream to='gone.example\nforged line\x1b[31m'>")
        assert stranger.recv(100) == b""
    deadline = time.monotonic() + 5
    while "gone.example" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "gone.example?forged?line??31m ->" in log.read_text()


def test_one_source_holds_only_so_many_connections_over_all_ports(backends: Backends) -> None:
    address = "127.68.0.2"
    with Haproxy(address, max_connections_per_source=3) as limited, contextlib.ExitStack() as stack:
        driver = HaproxyEdge(limited.socket, limited.directory)
        driver.set_routes([HOST], Backend(ACME, BASE))

        def begin(source: str, port: int = 5222) -> bytes:
            """The first answer, b"" if it was refused; the connection stays open."""
            made = stack.enter_context(socket.socket())
            made.settimeout(5)
            made.bind((source, 0))
            with contextlib.suppress(ConnectionError):
                made.connect((address, port))
                made.sendall(header(HOST.ascii))
                return made.recv(1000)
            return b""

        # HAProxy is asked for readiness from the address 127.0.0.1, which is counted by itself.
        assert all(begin("127.68.0.3", port).startswith(b"welcome") for port in (5222, 5269, 5222))
        assert begin("127.68.0.3") == b""
        assert begin("127.68.0.3", 5269) == b""
        assert begin("127.68.0.4").startswith(b"welcome")
        stack.close()
        deadline = time.monotonic() + 5
        while not (answer := begin("127.68.0.3")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert answer.startswith(b"welcome")
