"""The walk against real servers: a good one passes, and each fault is named by its step and by no other."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from controlplane.probes.walk import STEPS, WalkSubject, walk
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Components
from tests.contract.probes.world import HTTPS_PORT, PASSWORD, SERVICES, SILENT, World

pytestmark = pytest.mark.servers


def subject(world: World, domain: str, **changes: object) -> WalkSubject:
    name = DomainName.parse(domain)
    made = WalkSubject(
        domain=name,
        components=Components.below(name),
        account="roost-probe",
        password=Secret(PASSWORD),
        resolver=world.resolver,
        trust_roots=world.roots_pem,
        expected_serial=f"{world.serials[domain]:x}",
        turn=True,
        https_port=HTTPS_PORT,
        peer=None if domain == "other.example" else DomainName.parse("other.example"),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_good_server_passes_every_step(world: World) -> None:
    report = walk(subject(world, "good.example"))
    assert report.ok, report.message
    assert [step.name for step in report] == list(STEPS)
    assert not any(step.skipped for step in report)
    assert report.cpu_s < report.duration_s + 1
    json.dumps([dict(step.details) for step in report])


def test_a_walk_leaves_no_room_and_can_be_done_again(world: World) -> None:
    assert walk(subject(world, "good.example")).ok
    rooms = 'require"util.array".collect(prosody.hosts["conference.good.example"].modules.muc.each_room())'
    assert world.shell(f"> #{rooms}") == "Result: 0"
    assert walk(subject(world, "good.example")).ok


SRV = ["_xmpps-client._tcp.halfsrv.example", "_xmpps-server._tcp.halfsrv.example"]


@pytest.mark.parametrize(
    ("domain", "step", "words"),
    [
        ("nosrv.example", "resolve", ["_xmpp-client._tcp.nosrv.example", "_xmpps-server._tcp.nosrv.example"]),
        ("halfsrv.example", "resolve", SRV),
        ("notarget.example", "resolve", ["No address: xmpp.hosts.notarget.example"]),
        ("deadtarget.example", "tls", ["Nothing listens there", "7222", "7269"]),
        ("deadport.example", "tls", ["Nothing listens there", "7299"]),
        ("othername.example", "tls", ["not for othername.example"]),
        ("bareonly.example", "tls", ["not for conference.bareonly.example", "not for upload.bareonly.example"]),
        ("expired.example", "tls", ["has expired"]),
        ("untrusted.example", "tls", ["does not lead to a trusted root"]),
        ("plainonly.example", "login", ["no SCRAM"]),
        ("nomam.example", "disco", ["Missing: the message archive (XEP-0313)."]),
        ("noupload.example", "tls", ["does not serve upload.noupload.example"]),
        ("nomuc.example", "tls", ["does not serve conference.nomuc.example"]),
        ("muteupload.example", "disco", ["Missing: file upload (XEP-0363) at upload.muteupload.example."]),
        ("muterooms.example", "disco", ["Missing: rooms (XEP-0045) at conference.muterooms.example."]),
        ("nocarbons.example", "disco", ["XEP-0280", "XEP-0198", "XEP-0352", "XEP-0357"]),
        ("nopep.example", "disco", ["XEP-0163"]),
        ("noextdisco.example", "disco", ["Missing: external services (XEP-0215)."]),
        ("lostupload.example", "upload", ["PUT to https://lostupload.example:7443/nothing-here/", "404"]),
        ("noroomarchive.example", "muc", ["The archive of roost-check-", "does not hold"]),
        ("lockedrooms.example", "muc", ["cannot be entered: not-allowed"]),
        ("noturn.example", "turn", ["announces no TURN service"]),
        ("badturn.example", "turn", ["401"]),
        ("closedturn.example", "turn", ["403"]),
        ("deadturn.example", "turn", ["The TURN server", "in time"]),
        ("noaddress.example", "host-meta", ["noaddress.example has no address"]),
        ("nohostmeta.example", "host-meta", ["404"]),
        ("deadsocket.example", "host-meta", ["refused the WebSocket"]),
        ("twofaced.example", "host-meta", ["say different things"]),
    ],
)
def test_a_fault_is_named_by_its_step_and_no_other(world: World, domain: str, step: str, words: list[str]) -> None:
    report = walk(subject(world, domain, web=True))
    assert [failed.name for failed in report.failures] == [step], report.message
    assert not report.ok
    assert [word for word in words if word not in report.step(step).message] == []
    assert report.step(step).message in report.message


def test_a_wrong_password_is_the_logins_fault(world: World) -> None:
    report = walk(subject(world, "good.example", password=Secret("wrong")))
    assert [failed.name for failed in report.failures] == ["login"]
    assert report.step("host-meta").ok
    assert "wrong" not in report.message
    skipped = [step.name for step in report if step.skipped and not step.ok]
    assert skipped == ["disco", "archive", "upload", "muc", "turn", "clock", "s2s"]


def test_another_certificate_than_the_expected_one_is_named_with_both_serials(world: World) -> None:
    report = walk(subject(world, "good.example", expected_serial="0A:bc"))
    assert [failed.name for failed in report.failures] == ["tls"]
    assert "ABC" in report.message
    assert f"{world.serials['good.example']:X}" in report.message


def test_a_peer_that_does_not_answer_is_named(world: World) -> None:
    report = walk(subject(world, "good.example", peer=DomainName.parse("down.example")))
    assert [failed.name for failed in report.failures] == ["s2s"]
    assert "down.example" in report.message


def test_what_was_not_wanted_is_skipped_and_all_right(world: World) -> None:
    report = walk(subject(world, "good.example", peer=None, turn=False, web=False, expected_serial=None))
    assert report.ok, report.message
    assert [step.name for step in report if step.skipped] == ["turn", "host-meta", "s2s"]


def test_a_dead_resolver_is_a_report_within_the_time(world: World) -> None:
    start = time.monotonic()
    report = walk(subject(world, "good.example", resolver="127.67.0.97@53", timeout_s=3.0))
    assert [failed.name for failed in report.failures] == ["resolve"]
    assert all(not step.ok for step in report)
    assert time.monotonic() - start < 10  # a bound, not a speed: without one it would be DNS' own minutes


@pytest.fixture
def silent() -> Iterator[None]:
    """Something takes connections where silent.example's ports are, and never says a word."""
    with contextlib.ExitStack() as stack:
        for port in SERVICES.values():
            listener = stack.enter_context(contextlib.closing(socket.socket()))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((SILENT, port))
            listener.listen(50)
        yield


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("timeout_s", "words"), [(12.0, "No answer in time"), (3.0, "Not done within the walk's 3 s.")]
)
def test_servers_that_stay_silent_do_not_hold_the_walk(world: World, timeout_s: float, words: str) -> None:
    report = walk(subject(world, "silent.example", timeout_s=timeout_s))
    assert [step.name for step in report] == list(STEPS)
    assert report.failures[0].name == "tls"
    assert words in report.step("tls").message
    assert report.duration_s < timeout_s


def test_roots_that_are_none_are_the_callers_mistake(world: World) -> None:
    with pytest.raises(InvalidInput):
        walk(subject(world, "good.example", trust_roots="/nowhere.pem"))


def test_a_customers_web_site_is_not_asked_for_host_meta(world: World) -> None:
    report = walk(subject(world, "noaddress.example"))
    assert report.ok, report.message
    assert report.step("host-meta").skipped


def test_ejabberd_passes_as_well(world: World) -> None:
    report = walk(subject(world, "ej.example"))
    assert report.ok, report.message
    assert not any(step.skipped for step in report)


@pytest.mark.parametrize(
    ("domain", "cause"),
    [
        ("badturn.example", "TurnWrongSecret"),
        ("closedturn.example", "RelayClosed"),
        ("deadturn.example", "TurnUnreachable"),
    ],
)
def test_a_relay_that_does_not_work_has_its_cause(world: World, domain: str, cause: str) -> None:
    report = walk(subject(world, domain))
    assert [step.name for step in report.failures] == ["turn"]
    assert report.step("turn").details["cause"] == cause


@pytest.mark.parametrize(("off_s", "words"), [(3600, "behind"), (-3600, "ahead")])
def test_a_clock_that_is_off_by_an_hour_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, off_s: int, words: str
) -> None:
    # Only the clock that the step compares with: OpenSSL keeps the true time.
    real = time.time
    monkeypatch.setattr("controlplane.probes.clock.time", SimpleNamespace(time=lambda: real() + off_s))
    report = walk(subject(world, "good.example"))
    assert [step.name for step in report.failures] == ["clock"]
    # The server tells whole seconds.
    assert re.search(rf"is (3599|3600|3601) s {words}\.", report.step("clock").message)
    assert report.step("clock").details["cause"] == "ClockOff"
