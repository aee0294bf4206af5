"""The cheap round: is the server there, by DNS, by its ports, by its certificate? A few milliseconds of CPU each.

A thin round asks for all SRV sets of the domain and one component's, and contacts one client's and one server's port,
another each time; a thorough one, which follows any doubt, contacts every address of every port. It logs in nowhere:
that is ``walk``'s. It says what it saw and why, by a cause; whether that is an incident is for others to judge.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import os
import ssl
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from controlplane.probes import trust
from controlplane.probes.ask import Asker, NoAnswer, ServerFailed
from controlplane.probes.contact import (
    CONNECT,
    FEATURES,
    STREAM,
    TLS,
    NoStarttls,
    Seen,
    StreamRefused,
    contact,
)
from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, Endpoint
from controlplane.probes.recordsets import Server
from controlplane.probes.streams import normal_serial

HTTPS = "https"
HOST_META = "/.well-known/host-meta"
#: What a thin round contacts, one of each row in turn.
CLIENT_TURNS = ("xmpp-client", "xmpps-client", HTTPS)
SERVER_TURNS = ("xmpp-server", "xmpps-server")
#: A name's addresses beyond these are not all dialled.
MOST_ADDRESSES = 4
_ALPN = {"xmpps-client": trust.XMPP_CLIENT, "xmpps-server": trust.XMPP_SERVER, HTTPS: trust.HTTP}

RESOLVE, PORTS, TLS_CHECK, HOST_META_CHECK, CLOCK = "resolve", "ports", "tls", "host-meta", "clock"


@dataclass(frozen=True, slots=True)
class QuickSubject:
    """Whom to look at. Names are A-labels.

    ``serial``: hexadecimal, of the certificate that has to be served; empty for any that is trusted. ``left_out``:
    addresses of edges that are known to be away. ``web``: whether the domain's own address has to be the server's;
    None: only if DNS leads there.
    """

    domain: str
    components: tuple[str, ...] = ()
    serial: str = ""
    https_port: int = 443
    left_out: frozenset[str] = frozenset()
    web: bool | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One check's result. ``cause``: CamelCase, empty if ok. Checks that could not be made have none."""

    check: str
    ok: bool
    duration_s: float
    cause: str = ""
    message: str = ""


@dataclass(slots=True)
class Round:
    """What a cheap round saw. ``clock_off_s``: how far the server's clock is ahead, where it told its time."""

    results: list[Result] = field(default_factory=list)
    resolver_silent: bool = False
    clock_off_s: float | None = None
    contacts: int = 0

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)


class Quick:
    """Rounds through one resolver and with one set of roots, within one event loop.

    ``end_days``: fewer days left than this, or than a tenth of the certificate's life, is a failure.
    """

    def __init__(self, server: Server, roots_pem: str | None, *, timeout_s: float = 5.0, end_days: float = 5.0) -> None:
        self.asker = Asker(server)
        self.roots_pem = roots_pem
        self._timeout_s = timeout_s
        self._end_days = end_days

    async def look(self, subject: QuickSubject, *, number: int = 0, thorough: bool = False) -> Round:
        """One round; ``number`` chooses whose turn it is in a thin one."""
        made = Round()
        began = time.perf_counter()
        try:
            places, problems = await self._resolve(subject, number, thorough)
        except (NoAnswer, ServerFailed) as error:
            made.resolver_silent = isinstance(error, NoAnswer)
            made.results.append(_bad(RESOLVE, began, "DnsServerDown", str(error)))
            return made
        made.results.append(
            _bad(RESOLVE, began, "DnsMissing", problems) if problems else Result(RESOLVE, True, _since(began))
        )
        seen = await asyncio.gather(*(self._contact(alternatives) for alternatives in places))
        known = [one for one in seen if not one.no_route]
        made.contacts = len(seen)
        made.results += self._judge(subject, known)
        made.clock_off_s = next((off for one in known if (off := _clock_off(one)) is not None), None)
        return made

    # -- names

    async def _resolve(
        self, subject: QuickSubject, number: int, thorough: bool
    ) -> tuple[list[list[tuple[str, Endpoint]]], str]:
        """What to contact, each with alternatives that are tried if this machine has no way there; what is missing."""
        services = (*CLIENT_SERVICES, *SERVER_SERVICES)
        components = (
            subject.components if thorough else subject.components[number % max(1, len(subject.components)) :][:1]
        )
        wanted = [(subject.domain, service) for service in services] + [(name, "xmpp-server") for name in components]
        sets = await asyncio.gather(*(self.asker.ask(f"_{service}._tcp.{name}", "SRV") for name, service in wanted))
        targets: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for key, records in zip(wanted, sets, strict=True):
            ordered = sorted(records, key=lambda r: (r.priority, -r.weight))
            targets[key] = [
                (r.target.to_text(omit_final_dot=True).lower(), r.port) for r in ordered if len(r.target) > 1
            ]
        turns = set(services) | {HTTPS}
        if not thorough:
            turns = {CLIENT_TURNS[number % len(CLIENT_TURNS)], SERVER_TURNS[number % len(SERVER_TURNS)]}
        hosts = {host for found in targets.values() for host, _ in found}
        if HTTPS in turns and subject.web is not False:
            hosts.add(subject.domain)
        addresses = await self._addresses(sorted(hosts), subject.left_out)
        absent = [f"_{service}._tcp.{name}" for (name, service), found in targets.items() if not found]
        homeless = [host for host in sorted(hosts) if not addresses[host] and host != subject.domain]
        if subject.web and HTTPS in turns and not addresses[subject.domain]:
            homeless.append(subject.domain)
        problems = [f"No SRV record: {', '.join(absent)}."] if absent else []
        problems += [f"No address: {', '.join(homeless)}."] if homeless else []

        places: list[list[tuple[str, Endpoint]]] = []
        dialled: set[tuple[str, str, int]] = set()
        for (name, service), found in targets.items():
            if service not in turns or (name != subject.domain and not thorough):
                continue
            every = [Endpoint(service, host, address, port) for host, port in found for address in addresses[host]]
            fresh = [e for e in every if (name, e.address, e.port) not in dialled]
            dialled |= {(name, e.address, e.port) for e in fresh}
            places += _places(name, fresh, number, thorough)
        if HTTPS in turns and subject.web is not False:
            ours = {address for host in hosts - {subject.domain} for address in addresses[host]}
            own = addresses.get(subject.domain, ())
            if subject.web or set(own) & ours:
                web = [Endpoint(HTTPS, subject.domain, address, subject.https_port) for address in own]
                places += _places(subject.domain, web, number, thorough)
        return places, " ".join(problems)

    async def _addresses(self, hosts: Sequence[str], left_out: frozenset[str]) -> dict[str, tuple[str, ...]]:
        asked = await asyncio.gather(*(self.asker.ask(host, type) for host in hosts for type in ("A", "AAAA")))
        found = {}
        for number, host in enumerate(hosts):
            every = tuple(sorted(r.address for r in asked[2 * number])) + tuple(
                sorted(r.address for r in asked[2 * number + 1])
            )
            found[host] = tuple(address for address in every if address not in left_out) or every
        return found

    # -- ports

    async def _contact(self, alternatives: Sequence[tuple[str, Endpoint]]) -> Seen:
        seen: Seen | None = None
        for name, endpoint in alternatives:
            context = trust.client_context(self.roots_pem, _ALPN.get(endpoint.service))
            seen = await contact(endpoint, name, context, path=HOST_META, timeout_s=self._timeout_s)
            if not seen.no_route:
                break
        assert seen is not None
        return seen

    def _judge(self, subject: QuickSubject, seen: Sequence[Seen]) -> Iterable[Result]:
        # Where STARTTLS is offered somebody is there: who breaks off a handshake then has nothing to serve.
        speaks = any(one.stage == TLS and not one.endpoint.direct_tls and one.endpoint.service != HTTPS for one in seen)
        ports = [(_port_fault(one, speaks=speaks), one) for one in seen]
        if ports:
            yield _sum(PORTS, ports, max(one.connect_s + one.stream_s for one in seen))
        shaken = [one for one in seen if one.certificate or (one.stage == TLS and not _port_fault(one, speaks=speaks))]
        if shaken:
            faults = [(self._tls_fault(subject, one), one) for one in shaken]
            yield _sum(TLS_CHECK, faults, max(one.tls_s for one in shaken))
        web = [one for one in seen if one.endpoint.service == HTTPS and one.certificate]
        if web:
            yield _sum(HOST_META_CHECK, [(_web_fault(one), one) for one in web], max(one.total_s for one in web))

    def _tls_fault(self, subject: QuickSubject, seen: Seen) -> tuple[str, str] | None:
        if seen.error is not None and not seen.certificate:
            return _handshake_fault(seen)
        serial = normal_serial(str(seen.certificate.get("serialNumber", "")))
        if subject.serial and serial != normal_serial(subject.serial):
            return "WrongCertificate", (f"the certificate has serial {serial} and not {normal_serial(subject.serial)}")
        end = ssl.cert_time_to_seconds(str(seen.certificate["notAfter"]))
        life_s = end - ssl.cert_time_to_seconds(str(seen.certificate["notBefore"]))
        left_s = end - time.time()
        if left_s < min(self._end_days * 86400, life_s / 10):
            return "CertificateEndsSoon", f"the certificate ends in {left_s / 86400:.1f} days and was not renewed"
        return None


def _places(name: str, endpoints: Sequence[Endpoint], number: int, thorough: bool) -> list[list[tuple[str, Endpoint]]]:
    """All of them at once, or one (another each time) with the others as its alternatives."""
    if not endpoints:
        return []
    if thorough:
        return [[(name, endpoint)] for endpoint in endpoints[:MOST_ADDRESSES]]
    turn = number // len(CLIENT_TURNS) % len(endpoints)
    return [[(name, endpoint) for endpoint in (*endpoints[turn:], *endpoints[:turn])]]


def _port_fault(seen: Seen, *, speaks: bool) -> tuple[str, str] | None:
    """What is wrong before the certificate or behind it: (cause, words). ``speaks``: the server itself was heard."""
    error = seen.error
    if error is None or isinstance(error, ssl.SSLError | NoStarttls):
        return None
    if isinstance(error, StreamRefused):
        return "StreamRefused", f"the server ended the stream with {error}"
    if seen.stage == CONNECT:
        return "PortClosed", trust.explain(error, seen.name)[0]
    if seen.endpoint.service == HTTPS and seen.stage == FEATURES:
        return None  # host-meta tells of it
    if isinstance(error, TimeoutError):
        what = {STREAM: "a connection is taken and nothing is said", TLS: "the TLS handshake is not answered"}
        return "EngineSilent", what.get(seen.stage, "no answer after the TLS handshake")
    if seen.stage == TLS and speaks:
        return None  # the certificate's check tells of it
    return "EngineDown", "a connection is taken and closed again at once"


def _handshake_fault(seen: Seen) -> tuple[str, str]:
    error = seen.error
    assert error is not None
    if isinstance(error, NoStarttls):
        return "NoStarttls", "no encryption is offered"
    words = trust.explain(error, seen.name)[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        causes = {10: "CertificateExpired", 9: "CertificateNotYetValid", 62: "WrongCertificate"}
        return causes.get(error.verify_code, "CertificateNotTrusted"), words
    if not isinstance(error, ssl.SSLError):
        return "TlsFails", "the server breaks off the TLS handshake"
    return "TlsFails", words


def _web_fault(seen: Seen) -> tuple[str, str] | None:
    if seen.error is not None:
        return "WebSilent", f"no answer to {HOST_META}: {trust.explain(seen.error, seen.name)[0]}"
    status = seen.text[:64].split(b" ")[1:2]
    if status != [b"200"]:
        return "WebFails", f"{HOST_META} is answered with {b''.join(status).decode('latin-1') or 'no status'}"
    if b"urn:xmpp:alt-connections:" not in seen.text:
        return "WebFails", f"{HOST_META} announces no endpoint"
    return None


def _sum(check: str, faults: Sequence[tuple[tuple[str, str] | None, Seen]], duration_s: float) -> Result:
    """One result of many places: the first cause by the weight below, and every fault with its places."""
    bad = [(fault, seen) for fault, seen in faults if fault is not None]
    if not bad:
        return Result(check, True, duration_s)
    where: dict[str, list[str]] = {}
    for (_, words), seen in bad:
        where.setdefault(words, []).append(f"{seen.name} at {seen.endpoint}")
    text = " ".join(
        f"{words[:1].upper()}{words[1:]}: {', '.join(list(dict.fromkeys(places))[:4])}"
        + (f" and {len(places) - 4} more." if len(places) > 4 else ".")
        for words, places in where.items()
    )
    causes = [fault[0] for fault, _ in bad]
    return Result(check, False, duration_s, max(causes, key=causes.count), text)


def _clock_off(seen: Seen) -> float | None:
    """Seconds that the clock of whoever answered over HTTP is ahead, by its Date header (RFC 9110 §6.6.1)."""
    if seen.endpoint.service != HTTPS or not seen.text:
        return None
    return date_off_s(seen.text)


def date_off_s(answer: bytes) -> float | None:
    """The same of any HTTP answer's bytes; None without a Date that can be read."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            try:
                said = email.utils.parsedate_to_datetime(value.strip())
            except ValueError:
                return None
            if said.tzinfo is None:
                said = said.replace(tzinfo=datetime.UTC)
            return said.timestamp() - time.time()
    return None


class _Stun(asyncio.DatagramProtocol):
    def __init__(self, id: bytes) -> None:
        self._id = id
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  # asyncio's
        if len(data) >= 20 and data[8:20] == self._id and not self.answered.done():
            self.answered.set_result(True)

    def error_received(self, exc: Exception) -> None:
        pass


async def turn_answers(host: str, port: int, *, waits_s: Sequence[float] = (0.5, 1.0, 1.5)) -> bool:
    """Whether a TURN server answers a STUN binding request (RFC 8489 §6.2.1); ``host``: an address."""
    id = os.urandom(12)
    loop = asyncio.get_running_loop()
    try:
        transport, stun = await loop.create_datagram_endpoint(lambda: _Stun(id), remote_addr=(host, port))
    except OSError:
        return False
    try:
        for wait_s in waits_s:
            transport.sendto(struct.pack("!HHI12s", 1, 0, 0x2112A442, id))
            done, _ = await asyncio.wait([stun.answered], timeout=wait_s)
            if done:
                return True
        return False
    finally:
        transport.close()


def _since(began: float) -> float:
    return time.perf_counter() - began


def _bad(check: str, began: float, cause: str, message: str) -> Result:
    return Result(check, False, _since(began), cause, message)
