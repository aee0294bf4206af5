"""The main job: tenants of both engines that strangers find by DNS, trust by TLS, log in to and write to."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time

import pytest

from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, Lookup
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = pytest.mark.stack


def test_each_condition_is_true_and_the_walk_passed(live: Live, tenant: Tenant) -> None:
    seen = live.api.get(tenant.path)
    assert {c["type"]: c["status"] for c in seen["conditions"]} == dict.fromkeys(
        (
            *("DomainProven", "NodeAssigned", "DnsPublished", "CertificateIssued", "TurnReady", "ServerRunning"),
            *("EdgeRouted", "Verified", "Ready"),
        ),
        "True",
    )
    walk = live.api.get(f"{tenant.path}verification/")
    assert walk["ok"]
    until(lambda: "s2s" in walked(live, tenant), "the walk was made again with a peer")


def walked(live: Live, tenant: Tenant) -> set[str]:
    """Steps of the last walk that were not left out."""
    steps = live.api.get(f"{tenant.path}verification/")["steps"]
    assert all(step["ok"] for step in steps if not step["skipped"])
    return {step["name"] for step in steps if not step["skipped"]}


@pytest.mark.parametrize(("sender", "receiver"), [ENGINES, ENGINES[::-1]])
def test_a_message_travels_by_srv_and_certificate(
    live: Live, tenants: dict[str, Tenant], sender: str, receiver: str
) -> None:
    one, other = tenants[sender], tenants[receiver]
    live.ready(one, other)
    live.deliver(one, other, f"from {sender} to {receiver}")
    edge = live.layout.edge_address
    for tenant in (one, other):
        for services, ports in ((CLIENT_SERVICES, {5222, 5223}), (SERVER_SERVICES, {5269, 5270})):
            found = asyncio.run(Lookup(live.resolver, timeout_s=5.0).endpoints(tenant.domain, services))
            assert {(e.address, e.port) for e in found} == {(edge, port) for port in ports}
    for tenant, peer in ((one, other), (other, one)):
        links = [c for c in live.control(tenant).s2s_connections() if c.remote == peer.domain]
        assert links, f"{tenant.domain} tells of no link to {peer.domain}"
        assert {(link.encrypted, link.auth) for link in links} == {(True, "certificate")}


def test_an_unmodified_client_of_debians_logs_in_and_sends(live: Live, tenants: dict[str, Tenant]) -> None:
    """go-sendxmpp knows nothing of Roost: it resolves, checks certificates and logs in as it does anywhere."""
    for sender, receiver in (ENGINES, ENGINES[::-1]):
        one, other = tenants[sender], tenants[receiver]
        jid, to = live.account(one, "romeo"), live.account(other, "benvolio")
        body = f"go-sendxmpp {sender} {time.monotonic()}"
        argv = ["run", "go-sendxmpp", "-u", jid, "-p", one.passwords["romeo"], to]
        client = live.client(other, "benvolio")

        async def run(argv: list[str] = argv, body: str = body, client=client) -> None:  # type: ignore[no-untyped-def]
            async with client:
                await client.send_presence()
                sent = await asyncio.to_thread(live.roost, *argv, input=body)
                assert sent.returncode == 0, sent.stderr
                await client.wait_message(lambda m: body in "".join(m.itertext()), timeout_s=20)

        asyncio.run(run())


def test_the_unmodified_client_refuses_a_server_that_its_store_does_not_know(
    live: Live, tenants: dict[str, Tenant]
) -> None:
    """So the log-ins above did check certificates: without the stack's root the same program will not go on."""
    tenant = tenants["prosody"]
    jid = live.account(tenant, "romeo")
    script = 'mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && shift && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"]
    argv += [str(live.state / "stranger" / "resolv.conf"), "go-sendxmpp", "-u", jid, "-p", tenant.passwords["romeo"]]

    def sent(*more: str) -> int:
        command = [*argv, *more, jid]
        return subprocess.run(
            command, input="never", text=True, capture_output=True, timeout=30, check=False
        ).returncode

    assert sent() != 0
    assert sent("--no-tls-verify") == 0


@pytest.mark.parametrize("port", [5222, 5269])
def test_the_edge_refuses_an_unknown_host(live: Live, tenants: dict[str, Tenant], port: int) -> None:
    kind = "client" if port == 5222 else "server"
    header = (
        f"<?xml version='1.0'?><stream:stream to='nobody.roost.example' xmlns='jabber:{kind}' "
        "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
    )
    with socket.create_connection((live.layout.edge_address, port), timeout=10) as connection:
        connection.sendall(header.encode())
        answer = b""
        try:
            while chunk := connection.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
    assert b"stream:features" not in answer


def test_the_engine_sees_the_clients_own_address(live: Live, tenant: Tenant) -> None:
    """The edge's address would make every limit and log line worthless."""
    live.account(tenant, "romeo")
    before = log_of(live, tenant)
    tenant.passwords["romeo"], good = "wrong-password", tenant.passwords["romeo"]
    try:
        with pytest.raises(Exception, match="refused the login"):
            live.login(tenant, "romeo")
    finally:
        tenant.passwords["romeo"] = good
    until(lambda: "127.0.0.1" in log_of(live, tenant)[len(before) :], "the engine's log has the client's address")


def log_of(live: Live, tenant: Tenant) -> str:
    """What the engine wrote: into its own directory, or to the console, which the supervisor keeps."""
    own = sorted((live.layout.node / "instances" / tenant.key / "log").glob("*.log"))
    console = live.layout.node / "state" / "log" / f"roost-{tenant.key}.log"
    return "".join(path.read_text(errors="replace") for path in [*own, console] if path.exists())
