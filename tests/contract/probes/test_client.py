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
