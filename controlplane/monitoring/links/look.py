"""Why a peer does not answer, as far as a stranger can see: its names, its ports, its certificate.

Looks from where the control plane is, by the resolver that the engines use. It names what is the peer's own fault, so
that it is not dialled again and again; it changes nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.probes import trust
from controlplane.probes.lookup import SERVER_SERVICES, Endpoint, Lookup
from controlplane.probes.streams import NoRoute, negotiate_tls
from controlplane.values.errors import RoostError, Unavailable

#: RFC 6120 §3.2.2: without SRV records a server is at the domain's own address.
FALLBACK_PORT = 5269
#: So many of a peer's addresses are dialled; the first that answers is enough.
DIALLED = 4
#: OpenSSL's X509_V_ERR_* -> cause; any other: not trusted.
_CERTIFICATES = {10: "PeerCertificateExpired", 9: "PeerCertificateNotValidYet", 62: "PeerCertificateWrong"}


@dataclass(frozen=True, slots=True)
class Look:
    """``addresses``: where DNS leads to. ``alive``: None if that cannot be told from here. ``cause``: "" if alive."""

    addresses: tuple[str, ...]
    alive: bool | None
    cause: str = ""
    message: str = ""


def addresses_of(
    domains: Sequence[str], resolver: str | None, *, timeout_s: float = 2.0
) -> list[frozenset[str] | None]:
    """Where DNS leads servers to, for each domain, asked anew; None where nobody gave an answer."""

    async def one(domain: str) -> frozenset[str] | None:
        try:
            return frozenset(e.address for e in await _endpoints(Lookup(resolver, timeout_s=timeout_s), domain))
        except RoostError:
            return None

    async def every() -> list[frozenset[str] | None]:
        return list(await asyncio.gather(*map(one, domains)))

    return asyncio.run(every())


def look_at(
    places: Sequence[tuple[str, str]], *, resolver: str | None, roots_pem: str | None, timeout_s: float = 3.0
) -> list[Look]:
    """For each (domain, who asks): is there a server, and what speaks against it? Ends within about ``timeout_s``."""
    roots = trust.roots_text(roots_pem)

    async def every() -> list[Look]:
        return list(await asyncio.gather(*(_look(name, from_, resolver, roots, timeout_s) for name, from_ in places)))

    return asyncio.run(every())


async def _look(domain: str, from_: str, resolver: str | None, roots_pem: str | None, timeout_s: float) -> Look:
    try:
        endpoints = await _endpoints(Lookup(resolver, timeout_s=min(2.0, timeout_s)), domain)
    except RoostError as error:
        return Look((), None, "DnsSilent", f"The name servers give no answer: {error.message}")
    addresses = tuple(sorted({endpoint.address for endpoint in endpoints}))
    if not endpoints:
        return Look((), False, "PeerDnsMissing", "The other server's names lead nowhere: no SRV record, no address.")
    dials = [asyncio.ensure_future(_dial(e, domain, from_, roots_pem, timeout_s)) for e in endpoints[:DIALLED]]
    errors: list[RoostError] = []
    try:
        for dial in asyncio.as_completed(dials):
            try:
                await dial
            except RoostError as error:
                errors.append(error)
            else:
                return Look(addresses, True)
    finally:
        for pending in dials:
            pending.cancel()
    judged = [_judge(error) for error in errors]
    # A certificate that is refused says more than a port that is closed.
    cause = next((found for found in judged if found not in ("PeerDown", "NoRoute")), judged[0])
    message = errors[judged.index(cause)].message
    if all(found == "NoRoute" for found in judged):
        return Look(addresses, None, "NoRoute", message)
    return Look(addresses, False, cause, message)


async def _endpoints(lookup: Lookup, domain: str) -> list[Endpoint]:
    found = await lookup.endpoints(domain, SERVER_SERVICES)
    if found:
        return list({(e.address, e.port): e for e in found}.values())
    return [Endpoint("xmpp-server", domain, address, FALLBACK_PORT) for address in await lookup.addresses(domain)]


async def _dial(endpoint: Endpoint, domain: str, from_: str, roots_pem: str | None, timeout_s: float) -> None:
    context = trust.client_context(roots_pem, trust.XMPP_SERVER if endpoint.direct_tls else None)
    stream = await negotiate_tls(endpoint, domain, context, "jabber:server", from_=from_, timeout_s=timeout_s)
    stream.close()


def _judge(error: RoostError) -> str:
    reason = error.__cause__
    if isinstance(error, NoRoute):
        return "NoRoute"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(reason.verify_code, "PeerCertificateNotTrusted")
    return "PeerDown" if isinstance(error, Unavailable) else "PeerRefuses"
