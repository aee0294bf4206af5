"""The strict client against real servers: what it accepts, and what it has to refuse."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.probes.client import ProbeClient, deliver, q
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.secret import Secret
from tests.contract.probes.world import PASSWORD, World

pytestmark = pytest.mark.servers


def client(world: World, jid: str, **options: object) -> ProbeClient:
    options.setdefault("password", Secret(PASSWORD))
    return ProbeClient(jid, resolver=world.resolver, trust_roots=world.roots_pem, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("service", ["xmpp-client", "xmpps-client"])
def test_logs_in_by_starttls_and_by_direct_tls(world: World, service: str) -> None:
    async def run() -> None:
        async with client(world, "roost-probe@good.example", services=[service]) as session:
            assert session.jid.startswith("roost-probe@good.example/")
            assert session.endpoint is not None
            assert session.endpoint.service == service
            assert q("sm", "urn:xmpp:sm:3") in session.stream_features

    asyncio.run(run())


def test_delivers_a_message(world: World) -> None:
    seconds = deliver(
        "roost-probe@good.example",
        Secret(PASSWORD),
        "ann@good.example",
        Secret(PASSWORD),
        "<&> \"quoted\" 'text' ✓",
        resolver=world.resolver,
        trust_roots=world.roots_pem,
    )
    assert seconds > 0


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("nosrv.example", "leads to no address"),
        ("expired.example", "has expired"),
        ("untrusted.example", "does not lead to a trusted root"),
        ("othername.example", "not for othername.example"),
        ("plainonly.example", "no SCRAM"),
    ],
)
def test_refuses_what_a_careful_client_refuses(world: World, domain: str, words: str) -> None:
    async def run() -> None:
        async with client(world, f"roost-probe@{domain}"):
            pass

    with pytest.raises(Rejected) as refused:
        asyncio.run(run())
    assert words in refused.value.message


def test_a_wrong_password_is_refused_and_not_shown(world: World) -> None:
    async def run() -> None:
        async with client(world, "roost-probe@good.example", password=Secret("hunter2")):
            pass

    with pytest.raises(Rejected) as refused:
        asyncio.run(run())
    assert "refused the login" in refused.value.message
    assert "hunter2" not in str(refused.value)


def test_nothing_listening_is_a_reason_to_wait(world: World) -> None:
    async def run() -> None:
        async with client(world, "roost-probe@deadtarget.example"):
            pass

    with pytest.raises(Unavailable):
        asyncio.run(run())


def test_delivers_to_another_server(world: World) -> None:
    seconds = deliver(
        "ann@good.example",
        Secret(PASSWORD),
        "ann@other.example",
        Secret(PASSWORD),
        "over s2s",
        resolver=world.resolver,
        trust_roots=world.roots_pem,
    )
    assert seconds > 0
