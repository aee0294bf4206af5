"""The cheap round against real servers: a good one passes, each fault has its cause, and turns reach every port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace

import pytest

from controlplane.probes.quick import Quick, QuickSubject, Round, turn_answers
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from tests.contract.probes.world import DNS, HTTPS_PORT, NOBODY, SERVICES, SILENT, TURN, World

pytestmark = pytest.mark.servers


def subject(world: World, domain: str, **changes: object) -> QuickSubject:
    made = QuickSubject(
        domain=domain,
        components=tuple(name.ascii for name in Components.below(DomainName.parse(domain)).all()),
        serial=f"{world.serials[domain]:x}",
        https_port=HTTPS_PORT,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def look(
    world: World,
    wanted: QuickSubject,
    *,
    number: int = 0,
    thorough: bool = True,
    server: tuple[str, int] = (DNS, 53),
    timeout_s: float = 2.0,
) -> Round:
    async def run() -> Round:
        quick = Quick(server, world.roots_pem, timeout_s=timeout_s)
        try:
            return await quick.look(wanted, number=number, thorough=thorough)
        finally:
            quick.asker.close()

    return asyncio.run(run())


def causes(made: Round) -> dict[str, str]:
    return {result.check: result.cause for result in made.results if not result.ok}


@pytest.mark.parametrize("domain", ["good.example", "ej.example"])
def test_a_good_server_passes(world: World, domain: str) -> None:
    made = look(world, subject(world, domain, web=None if domain == "good.example" else False))
    assert causes(made) == {}, made.results
    checks = ["resolve", "ports", "tls", "host-meta"]
    assert [result.check for result in made.results] == checks[: 4 if domain == "good.example" else 3]


def test_thin_rounds_take_turns(world: World) -> None:
    for number in range(6):
        made = look(world, subject(world, "good.example"), number=number, thorough=False)
        assert causes(made) == {}
        assert made.contacts == 2
        assert ("host-meta" in {result.check for result in made.results}) == (number % 3 == 2)


@pytest.mark.parametrize(
    ("domain", "expected", "words"),
    [
        ("nosrv.example", {"resolve": "DnsMissing"}, "_xmpp-client._tcp.nosrv.example"),
        ("halfsrv.example", {"resolve": "DnsMissing"}, "_xmpps-client._tcp.halfsrv.example"),
        ("notarget.example", {"resolve": "DnsMissing"}, "xmpp.hosts.notarget.example"),
        ("deadtarget.example", {"ports": "PortClosed"}, "Nothing listens there"),
        ("deadport.example", {"ports": "PortClosed"}, ":7299"),
        ("othername.example", {"tls": "WrongCertificate"}, "not for othername.example"),
        ("expired.example", {"tls": "CertificateExpired"}, "has expired"),
        ("untrusted.example", {"tls": "CertificateNotTrusted"}, "does not lead to a trusted root"),
        ("nohostmeta.example", {"host-meta": "WebFails"}, "404"),
    ],
)
def test_a_fault_has_its_cause(world: World, domain: str, expected: dict[str, str], words: str) -> None:
    made = look(world, subject(world, domain))
    assert causes(made) == expected, made.results
    assert words in " ".join(result.message for result in made.results)


def test_another_serial_is_the_wrong_certificate(world: World) -> None:
    made = look(world, subject(world, "good.example", serial="0A:BC"))
    assert causes(made) == {"tls": "WrongCertificate"}
    assert "and not ABC" in made.results[2].message


@pytest.mark.parametrize(("answer", "cause"), [(False, "EngineSilent"), (True, "EngineDown")])
def test_silence_and_a_closed_door_are_told_apart(world: World, answer: bool, cause: str) -> None:
    async def run() -> Round:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                if not answer:
                    await asyncio.sleep(5)
                writer.close()

        listeners = [await asyncio.start_server(serve, SILENT, port) for port in SERVICES.values()]
        try:
            quick = Quick((DNS, 53), world.roots_pem, timeout_s=1.0)
            return await quick.look(subject(world, "silent.example", web=False), thorough=True)
        finally:
            for listener in listeners:
                listener.close()

    assert causes(asyncio.run(run())) == {"ports": cause}


def test_a_silent_resolver_is_said(world: World) -> None:
    # Taken, but nobody reads: a port without a socket would be told at once.
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as nobody:
        nobody.bind((NOBODY, 0))
        made = look(world, subject(world, "good.example"), server=nobody.getsockname())
    assert causes(made) == {"resolve": "DnsServerDown"}
    assert made.resolver_silent


def test_a_turn_server_answers_or_not(world: World) -> None:
    assert asyncio.run(turn_answers(TURN, 3478)) is True
    assert asyncio.run(turn_answers(NOBODY, 3478, waits_s=(0.1, 0.1))) is False
