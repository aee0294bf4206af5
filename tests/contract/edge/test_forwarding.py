"""An edge that is a machine of its own: it forwards over private addresses, IPv4 and IPv6, from a known address.

Three machines are network namespaces: a client's, the edge's and a node's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.values.names import DomainName
from tests.contract.edge.namespaces import Namespaces, connect, listen
from tests.servers.haproxy import Haproxy

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which root may"),
]

CLIENT, EDGE, NODE = "rce-client", "rce-edge", "rce-node"
PUBLIC4, PUBLIC6 = "192.0.2.1", "2001:db8::1"
#: For a second HAProxy beside the first: two on one address would share its connections.
OTHER4, OTHER6 = "192.0.2.2", "2001:db8::2"
CLIENT4, CLIENT6 = "192.0.2.50", "2001:db8::50"
PRIVATE4, PRIVATE6 = "10.210.0.1", "fd00:210::1"
#: Of networks that the node has no interface for: every address of them is made local by a route.
AT4, AT6 = "10.211.0.7", "fd00:211::7"
#: The same on the edge's own machine, for an edge that leads to its own instances.
OWN4, OWN6, OWN_LOOPBACK = "10.212.0.7", "fd00:212::7", "127.77.128.7"
HOST = DomainName("acme.example")
HELLO = b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' to='acme.example'>"


@pytest.fixture(scope="module")
def machines() -> Iterator[None]:
    with Namespaces(CLIENT, EDGE, NODE) as net:
        net.join(CLIENT, EDGE)
        net.join(EDGE, NODE)
        for name, addresses, device in (
            (CLIENT, (f"{CLIENT4}/24", f"{CLIENT6}/64", "192.0.2.51/24"), f"to-{EDGE}"),
            (EDGE, (f"{PUBLIC4}/24", f"{OTHER4}/24", f"{PUBLIC6}/64", f"{OTHER6}/64"), f"to-{CLIENT}"),
            # As at many providers: another address of the interface comes first, and the kernel would take that.
            (EDGE, ("10.210.0.9/24", f"{PRIVATE4}/24", "fd00:210::9/64", f"{PRIVATE6}/64"), f"to-{NODE}"),
            (NODE, ("10.210.0.2/24", "fd00:210::2/64"), f"to-{EDGE}"),
        ):
            for address in addresses:
                net.address(name, address, device)
        for name in (EDGE, NODE):  # as the role node_base does for an IPv6 network
            net.run(name, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
        net.route(NODE, "local", "10.211.0.0/24", "dev", "lo")
        net.route(NODE, "local", "fd00:211::/64", "dev", "lo")
        net.route(EDGE, "10.211.0.0/24", "via", "10.210.0.2")
        net.route(EDGE, "fd00:211::/64", "via", "fd00:210::2")
        net.route(EDGE, "local", "10.212.0.0/24", "dev", "lo")
        net.route(EDGE, "local", "fd00:212::/64", "dev", "lo")
        yield


def arrival(edge: Haproxy, machine: str, backend: str, public: str) -> tuple[str, str]:
    """Where a connection to the edge comes from, as the instance sees it, and as the PROXY header says."""
    driver = HaproxyEdge(edge.socket, edge.directory)
    driver.set_routes([HOST], Backend(backend, 7000))
    with listen(machine, backend, 7000) as listener:
        listener.settimeout(5)
        with connect(CLIENT, public, 5222) as client:
            client.sendall(HELLO)
            connection, peer = listener.accept()
            with connection:
                connection.settimeout(5)
                family, length = struct.unpack("!xBH", connection.recv(16)[12:])
                header = connection.recv(length)
                client_at = (
                    socket.inet_ntop(socket.AF_INET, header[:4])
                    if family == 0x11
                    else socket.inet_ntop(socket.AF_INET6, header[:16])
                )
                assert connection.recv(1000) == HELLO
                connection.sendall(b"welcome")
                assert client.recv(100) == b"welcome"
    return peer[0], client_at


@pytest.fixture(scope="module")
def edge(machines: None) -> Iterator[Haproxy]:
    with Haproxy(f"{PUBLIC4} {PUBLIC6}", sources=(PRIVATE4, PRIVATE6), namespace=EDGE) as running:
        yield running


@pytest.mark.parametrize(("public", "client"), [(PUBLIC4, CLIENT4), (PUBLIC6, CLIENT6)], ids=["v4", "v6"])
@pytest.mark.parametrize(
    ("machine", "backend", "source"),
    [(NODE, AT4, PRIVATE4), (NODE, AT6, PRIVATE6), (EDGE, OWN4, PRIVATE4), (EDGE, OWN6, PRIVATE6)],
    ids=["node, v4", "node, v6", "own, v4", "own, v6"],
)
def test_instances_are_reached_from_the_private_address(
    edge: Haproxy, machine: str, backend: str, source: str, public: str, client: str
) -> None:
    from_address, told = arrival(edge, machine, backend, public)
    assert from_address == source
    assert told.removeprefix("::ffff:") == client


def test_without_a_source_the_kernel_chooses(machines: None) -> None:
    """Another address of the interface; on its own machine the instance's own address, or 127.0.0.1, or any."""
    with Haproxy(OTHER4, namespace=EDGE) as edge:
        assert arrival(edge, NODE, AT4, OTHER4)[0] == "10.210.0.9"
        assert arrival(edge, EDGE, OWN4, OTHER4)[0] == OWN4
        assert arrival(edge, EDGE, OWN6, OTHER4)[0] != OWN6
        assert arrival(edge, EDGE, OWN_LOOPBACK, OTHER4)[0] == "127.0.0.1"


def test_loopback_is_reached_from_a_private_address_too(edge: Haproxy) -> None:
    assert arrival(edge, EDGE, OWN_LOOPBACK, PUBLIC4)[0] == PRIVATE4


def test_a_backend_that_is_away_is_given_up(edge: Haproxy) -> None:
    driver = HaproxyEdge(edge.socket, edge.directory)
    driver.set_routes([HOST], Backend("10.211.0.99", 7000))
    with connect(CLIENT, PUBLIC4, 5222) as client:
        client.sendall(HELLO)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""


def test_bytestreams_go_over_private_addresses(edge: Haproxy) -> None:
    driver = HaproxyEdge(edge.socket, edge.directory)
    for backend in (AT4, AT6):
        driver.set_tcp_port(20001, backend)
        with listen(NODE, backend, 20001) as listener, connect(CLIENT, PUBLIC4, 20001) as client:
            listener.settimeout(5)
            connection, peer = listener.accept()
            with connection:
                assert peer[0] == (PRIVATE6 if ":" in backend else PRIVATE4)
                client.sendall(b"\x05\x01\x00")
                assert connection.recv(10) == b"\x05\x01\x00"
    driver.delete_tcp_port(20001)


@pytest.mark.parametrize("listening", ["*", f"{OTHER4} {OTHER6}"])
def test_every_ipv4_client_is_counted_by_itself(machines: None, listening: str) -> None:
    with Haproxy(listening, namespace=EDGE, max_connections_per_source=2) as edge, contextlib.ExitStack() as stack:
        HaproxyEdge(edge.socket, edge.directory).set_routes([HOST], Backend(AT4, 7000))
        listener = stack.enter_context(listen(NODE, AT4, 7000))
        listener.settimeout(5)

        def is_let_in(source: str) -> bool:
            try:
                client = stack.enter_context(connect(CLIENT, OTHER4, 5222, source))
                client.sendall(HELLO)
                client.settimeout(1)
                if client.recv(1) == b"":
                    return False
            except TimeoutError:
                stack.enter_context(listener.accept()[0])
                return True
            except ConnectionError:
                pass
            return False

        assert [is_let_in(CLIENT4) for _ in range(3)] == [True, True, False]
        assert is_let_in("192.0.2.51")
