"""The walk's second step: every port a stranger may dial, and the certificate it serves.

The chain, the dates and the name are checked as RFC 6120 §13.7 and RFC 6125 want it, for the domain and for
each component, and the serial number against the one that should be in use. Nothing is logged in to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.probes import trust
from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, Endpoint
from controlplane.probes.report import Blocked, Failed, Finding
from controlplane.probes.streams import (
    NoRoute,
    PeerCertificate,
    RawStream,
    look_at_certificate,
    negotiate_tls,
    normal_serial,
)
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey
from controlplane.values.errors import Rejected, RoostError

HTTPS = "https"
NAMESPACES = {
    "xmpp-client": "jabber:client",
    "xmpps-client": "jabber:client",
    "xmpp-server": "jabber:server",
    "xmpps-server": "jabber:server",
}
_ALPN = {"xmpps-client": trust.XMPP_CLIENT, "xmpps-server": trust.XMPP_SERVER, HTTPS: trust.HTTP}


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    endpoint: Endpoint
    certificate: PeerCertificate | None = None
    error: RoostError | None = None

    @property
    def place(self) -> str:
        return str(self.endpoint) if self.name == self.endpoint.target else f"{self.name} at {self.endpoint}"


async def tls(journey: Journey) -> Finding:
    """A handshake with every address of every port, or ``Failed`` with all that went wrong."""
    journey.needs_dns()
    places = await _places(journey)
    if not any(endpoint.service != HTTPS for _, endpoint in places):
        raise Blocked("DNS leads to no port.")
    seen = await asyncio.gather(*(_look(journey, name, endpoint) for name, endpoint in places))
    wanted = journey.subject.expected_serial
    problems: dict[str, list[str]] = {}  # what is wrong -> where
    refused: _Seen | None = None
    for one in seen:
        if isinstance(one.error, NoRoute):
            continue  # says something of this machine, not of the server
        if one.error is not None:
            what = one.error.message.removeprefix(f"{one.endpoint}: ").rstrip(".")
            problems.setdefault(what, []).append(one.place)
            journey.refused.add((one.name, one.endpoint.service))
            refused = refused or (one if isinstance(one.error, Rejected) else None)
        elif one.certificate is not None and wanted and one.certificate.serial != normal_serial(wanted):
            what = f"the certificate has serial {one.certificate.serial} and not {normal_serial(wanted)}"
            problems.setdefault(what, []).append(one.place)
        else:
            journey.trusted.add((one.name, one.endpoint.service))
    details: dict[str, Any] = {"ports": [_describe(one) for one in seen]}
    if problems:
        details |= await _looks_like(refused)
        remedies = {one.error.remedy for one in seen if one.error and one.error.remedy}
        text = " ".join(f"{what[:1].upper()}{what[1:]}: {_list(where)}." for what, where in problems.items())
        raise Failed(text, remedy=" ".join(sorted(remedies)) or "Have the server load it again.", details=details)
    dates = {one.certificate.not_after for one in seen if one.certificate}
    if not dates:
        raise Failed("No address of the server can be reached from here.", details=details)
    return Finding(f"{len(seen)} ports serve a trusted certificate, valid until {min(dates)}.", details)


async def _places(journey: Journey) -> list[tuple[str, Endpoint]]:
    """(name to check for, where to dial): each (address, port) once for a name."""
    subject = journey.subject
    names: list[tuple[str, tuple[str, ...]]] = [(journey.domain, (*CLIENT_SERVICES, *SERVER_SERVICES))]
    names += [(component.ascii, SERVER_SERVICES) for component in subject.components.all()]
    found = await asyncio.gather(*(journey.lookup.endpoints(name, services) for name, services in names))
    places = [(name, e) for (name, _), endpoints in zip(names, found, strict=True) for e in endpoints]
    web = [subject.components.upload.ascii, *([journey.domain] if await journey.has_web() else [])]
    for host, addresses in zip(web, await asyncio.gather(*map(journey.lookup.addresses, web)), strict=True):
        places += [(host, Endpoint(HTTPS, host, address, subject.https_port)) for address in addresses]
    return list({(name, e.service, e.address, e.port): (name, e) for name, e in places}.values())


async def _look(journey: Journey, name: str, endpoint: Endpoint) -> _Seen:
    context = trust.client_context(journey.roots_pem, _ALPN.get(endpoint.service))
    try:
        if endpoint.service == HTTPS:
            stream = await RawStream.dial(endpoint, name, context=context, timeout_s=STEP_TIMEOUT_S)
        else:
            stream = await negotiate_tls(
                endpoint, name, context, NAMESPACES[endpoint.service], timeout_s=STEP_TIMEOUT_S
            )
    except RoostError as error:
        return _Seen(name, endpoint, error=error)
    try:
        return _Seen(name, endpoint, PeerCertificate.of(stream.tls))
    finally:
        stream.close()


async def _looks_like(refused: _Seen | None) -> dict[str, Any]:
    if refused is None or refused.endpoint.service == HTTPS:
        return {}
    shown = await look_at_certificate(
        refused.endpoint, refused.name, NAMESPACES[refused.endpoint.service], timeout_s=STEP_TIMEOUT_S
    )
    return {"refused": shown} if shown else {}


def _describe(one: _Seen) -> dict[str, Any]:
    return {
        "name": one.name,
        "service": one.endpoint.service,
        "target": one.endpoint.target,
        "address": one.endpoint.address,
        "port": one.endpoint.port,
        "serial": one.certificate.serial if one.certificate else None,
        "not_after": one.certificate.not_after if one.certificate else None,
        "tls": one.certificate.tls_version if one.certificate else None,
        "error": str(one.error) if one.error else None,
    }


def _list(places: Iterable[str]) -> str:
    every = list(dict.fromkeys(places))
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")
