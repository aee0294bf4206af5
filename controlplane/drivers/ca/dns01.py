"""Looks where a CA will look for a dns-01 challenge: TXT at the authoritative servers, CNAMEs on the way.

Reads only, and through no cache where it matters; writing is the DNS driver's.
"""

from __future__ import annotations

from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

from controlplane.values.errors import Unavailable

Server = tuple[str, int]
_TIMEOUT_S = 2.0
_MAX_CNAMES = 8


def resolver_at(resolver: str | None) -> dns.resolver.Resolver:
    """A resolver at ``address`` or ``address@port`` (None: the system's), without a cache."""
    made = dns.resolver.Resolver(configure=resolver is None)
    if resolver is not None:
        address, _, port = resolver.partition("@")
        made.nameservers, made.port = [address], int(port or 53)
    made.timeout, made.lifetime = _TIMEOUT_S, 2 * _TIMEOUT_S
    return made


def authoritative_for(zone: str, resolver: str | None) -> tuple[Server, ...]:
    """The addresses of the zone's name servers, IPv4 first; ``Unavailable`` if there are none."""
    asked = resolver_at(resolver)
    try:
        hosts = sorted(str(r.target) for r in asked.resolve(f"{zone}.", "NS", search=False))
        found: list[Server] = []
        for host in hosts:
            for kind in ("A", "AAAA"):
                try:
                    found += [(str(r), 53) for r in asked.resolve(host, kind, search=False)]
                except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                    continue
    except (dns.exception.DNSException, OSError) as error:
        raise Unavailable(f"The name servers of {zone} cannot be found: {error}") from error
    if not found:
        raise Unavailable(f"The name servers of {zone} have no address.")
    return tuple(found)


def txt_at(server: Server, name: str) -> frozenset[str]:
    """The TXT values at ``name`` as this server has them; empty if there are none. Raises ``Unavailable``."""
    query = dns.message.make_query(f"{name}.", dns.rdatatype.TXT)
    query.flags &= ~dns.flags.RD
    shown = f"The name server {server[0]}:{server[1]}"
    try:
        answer, _ = dns.query.udp_with_fallback(query, server[0], port=server[1], timeout=_TIMEOUT_S)
    except (dns.exception.DNSException, OSError) as error:
        raise Unavailable(f"{shown} gives no answer for {name} TXT.", remedy="Check that it runs.") from error
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Unavailable(f"{shown} answers {dns.rcode.to_text(answer.rcode())} for {name} TXT.")
    values = set()
    for rrset in answer.answer:
        if rrset.rdtype == dns.rdatatype.TXT:
            values |= {b"".join(rdata.strings).decode("utf-8", "replace") for rdata in rrset}
    return frozenset(values)


def missing(servers: Sequence[Server], name: str, values: frozenset[str]) -> tuple[Server, ...]:
    """The servers that do not have all of these TXT values at ``name``. Raises ``Unavailable``."""
    return tuple(server for server in servers if not values <= txt_at(server, name))


def follow(name: str, resolver: str | None) -> tuple[str, ...]:
    """The names that the CNAMEs at ``name`` lead through, without ``name`` itself; empty without a CNAME.

    Raises ``Unavailable`` when the resolver does not answer.
    """
    asked, at, passed = resolver_at(resolver), name, []
    for _ in range(_MAX_CNAMES):
        try:
            answer = asked.resolve(f"{at}.", "CNAME", search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            break
        except (dns.exception.DNSException, OSError) as error:
            raise Unavailable(f"The CNAME of {at} cannot be looked up: {error}") from error
        at = str(answer[0].target).rstrip(".").lower()
        passed.append(at)
    return tuple(passed)
