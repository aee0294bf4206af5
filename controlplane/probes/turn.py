"""The walk's call: credentials that the server hands to this session (XEP-0215), and a relay that really carries bytes.

A wrong password has to be refused as well: a relay for everybody is as wrong as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from controlplane.probes import trust
from controlplane.probes.c2s import EXTDISCO
from controlplane.probes.client import ProbeClient, q
from controlplane.probes.lookup import Endpoint
from controlplane.probes.quick import turn_answers
from controlplane.probes.relay import Address, Refused, Relay, round_trip
from controlplane.probes.report import Failed, Finding, Skipped
from controlplane.probes.streams import RawStream
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey
from controlplane.values.errors import Unavailable
from controlplane.values.secret import Secret

Service = Mapping[str, str]


async def turn(journey: Journey) -> Finding:
    if not journey.subject.turn:
        raise Skipped("This instance has no TURN service.")
    session = journey.session
    journey.needs(EXTDISCO, "external services")
    services = await _services(session, journey.domain)
    wanted = [s for s in services if s.get("type") == "turn" and s.get("transport", "udp") == "udp"]
    if not wanted:
        raise Failed(
            "The server announces no TURN service over UDP.",
            remedy="Give it the TURN host and secret.",
            details={"services": [_shown(s) for s in services]},
        )
    service = await _with_credentials(session, journey.domain, wanted[0])
    server = await _address(journey, service)
    user, password = service["username"], Secret(service["password"])
    try:
        carried = await round_trip(server, user, password, timeout_s=STEP_TIMEOUT_S)
    except Refused as error:
        hint = {
            401: "The TURN server does not know the secret that the tenant's server announces, or clocks differ.",
            403: "Let the relay reach its own address, or allow loopback peers in a lab.",
            486: "Raise the tenant's quota, or find out who uses it up.",
        }
        cause = {401: "TurnWrongSecret", 403: "RelayClosed"}.get(error.code, "TurnRefused")
        details = {**_shown(service), "cause": cause}
        raise Failed(error.message, remedy=hint.get(error.code, ""), details=details) from None
    except Unavailable as error:
        # It may be gone, or only its relay ports may be closed: the question that needs no relay tells.
        answers = await turn_answers(*server)
        cause = "RelayClosed" if answers else "TurnUnreachable"
        raise Failed(
            f"{error.message} It answers to a binding request, so its relay ports are closed."
            if answers
            else error.message,
            remedy="Open the relay's range of UDP ports." if answers else "Start it, or open its port.",
            details={**_shown(service), "cause": cause},
        ) from None
    await _refuses_others(server, user)
    for secure in (s for s in services if s.get("type") == "turns"):
        await _serves_tls(journey, secure)
    return Finding(f"{carried} bytes went through two relays at {server[0]}:{server[1]}.", _shown(service))


async def _services(session: ProbeClient, domain: str) -> list[Service]:
    """XEP-0215 §3.1."""
    answer = await session.iq("get", domain, ET.Element(q("services", EXTDISCO)))
    return [dict(element.attrib) for element in answer.iter(q("service", EXTDISCO))]


async def _with_credentials(session: ProbeClient, domain: str, service: Service) -> Service:
    """The service with user name and password, asked for if they were left out (§3.3)."""
    if not service.get("username") or not service.get("password"):
        request = ET.Element(q("credentials", EXTDISCO))
        ET.SubElement(
            request, q("service", EXTDISCO), {k: service[k] for k in ("type", "host", "port") if k in service}
        )
        answer = await session.iq("get", domain, request)
        given = answer.find(f".//{q('service', EXTDISCO)}")
        service = {**service, **(given.attrib if given is not None else {})}
    if not service.get("username") or not service.get("password"):
        raise Failed("The server gives no TURN credentials.", remedy="Give it the secret.", details=_shown(service))
    return service


async def _address(journey: Journey, service: Service) -> Address:
    host, port = service.get("host", ""), service.get("port", "3478")
    if not port.isdecimal():
        raise Failed(f"The TURN service has the port {port!r}.", details=_shown(service))
    if _is_literal(host):
        return host, int(port)
    addresses = await journey.lookup.addresses(host) if host else ()
    if not addresses:
        raise Failed(f"The TURN server {host!r} has no address.", remedy="Publish it.", details=_shown(service))
    return addresses[0], int(port)


async def _refuses_others(server: Address, user: str) -> None:
    """``Failed`` if the same user gets an allocation with a password that is nobody's."""
    try:
        async with Relay.allocate(server, user, Secret("not-it"), timeout_s=STEP_TIMEOUT_S):
            pass
    except Refused:
        return
    raise Failed(f"The TURN server {server[0]}:{server[1]} takes any password.", remedy="Set use-auth-secret.")


async def _serves_tls(journey: Journey, service: Service) -> None:
    """What is announced as TURN over TLS has to serve a certificate for its name (RFC 8656 §2.1)."""
    host, port = await _address(journey, service)
    stream = await RawStream.dial(
        Endpoint("turns", service["host"], host, port),
        service["host"],
        context=trust.client_context(journey.roots_pem),
        timeout_s=STEP_TIMEOUT_S,
    )
    stream.close()


def _shown(service: Service) -> dict[str, str]:
    return {k: v for k, v in service.items() if k in {"type", "host", "port", "transport", "expires", "username"}}


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdecimal()
