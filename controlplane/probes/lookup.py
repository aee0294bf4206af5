"""DNS as a stranger's client asks it: SRV sets and addresses through one given resolver (RFC 2782, RFC 6120 §3.2).

What is found is returned in the order in which a client tries it; whether it is right is left to the
caller. The system's hosts file plays no part: XMPP clients find servers by DNS.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.resolver

from controlplane.values.errors import Unavailable

#: SRV service -> what it carries. The ``xmpps`` ones are direct TLS (XEP-0368).
CLIENT_SERVICES = ("xmpps-client", "xmpp-client")
SERVER_SERVICES = ("xmpps-server", "xmpp-server")


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record; ``target`` without the final dot ("" stands for ".": service not offered)."""

    service: str
    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something to dial: the SRV service it came from, the target's name, one address of it, the port."""

    service: str
    target: str
    address: str
    port: int

    @property
    def direct_tls(self) -> bool:
        return self.service.startswith("xmpps-")

    def __str__(self) -> str:
        return f"{self.target} [{self.address}]:{self.port}"


def split_resolver(resolver: str) -> tuple[str, int]:
    """``address`` or ``address@port`` -> (address, port); the port defaults to 53."""
    address, _, port = resolver.partition("@")
    return address, int(port or 53)


class Lookup:
    """Look-ups through one resolver ("address" or "address@port"; None: the system's), cached while it lives.

    ``timeout_s`` bounds each question with all of its retries. ``left_out``: addresses that are not given where a
    name has others, because whoever asks knows that nobody is there now.
    """

    def __init__(
        self, resolver: str | None = None, *, timeout_s: float = 5.0, left_out: frozenset[str] = frozenset()
    ) -> None:
        self._left_out = left_out
        self._shown = resolver or "the system's resolver"
        self._resolver = dns.asyncresolver.Resolver(configure=resolver is None)
        if resolver is not None:
            address, port = split_resolver(resolver)
            self._resolver.nameservers = [address]
            self._resolver.port = port
        self._resolver.timeout = min(2.0, timeout_s)
        self._resolver.lifetime = timeout_s
        self._resolver.cache = dns.resolver.Cache()

    async def _ask(self, name: str, type: str) -> list[object]:
        """The rdata of one set; empty when there is none. Raises ``Unavailable`` when nobody answers properly."""
        try:
            answer = await self._resolver.resolve(name + ".", type, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            raise Unavailable(
                f"{self._shown} gave no answer for {name} {type}: {error}",
                remedy="Check that the resolver runs and reaches the zone's name servers.",
            ) from error
        except OSError as error:
            raise Unavailable(f"{self._shown} cannot be asked for {name} {type}: {error}.") from error
        return list(answer)

    async def srv(self, domain: str, service: str) -> tuple[SrvRecord, ...]:
        """The SRV set of ``_service._tcp.domain`` sorted by priority; empty when there is none."""
        found = await self._ask(f"_{service}._tcp.{domain}", "SRV")
        records = [
            SrvRecord(
                service,
                r.priority,  # type: ignore[attr-defined]  # dnspython types an answer's items as plain Rdata
                r.weight,  # type: ignore[attr-defined]
                r.port,  # type: ignore[attr-defined]
                r.target.to_text(omit_final_dot=True).lower() if len(r.target) > 1 else "",  # type: ignore[attr-defined]
            )
            for r in found
        ]
        return tuple(sorted(records, key=lambda r: (r.priority, -r.weight, r.target, r.port)))

    async def addresses(self, host: str) -> tuple[str, ...]:
        """IPv4 addresses, then IPv6 ones."""
        v4, v6 = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        found = tuple(sorted(str(r) for r in v4)) + tuple(sorted(str(r) for r in v6))
        return tuple(address for address in found if address not in self._left_out) or found

    async def endpoints(self, domain: str, services: Sequence[str]) -> tuple[Endpoint, ...]:
        """All there is to dial for these services, in RFC 2782 order over their union (XEP-0368 §3).

        At the same priority the service that is named first goes first.
        """
        sets = await asyncio.gather(*(self.srv(domain, service) for service in services))
        ordered = order_by_weight((r for records in sets for r in records if r.target), services)
        found = await asyncio.gather(*(self.addresses(record.target) for record in ordered))
        return tuple(
            Endpoint(record.service, record.target, address, record.port)
            for record, addresses in zip(ordered, found, strict=True)
            for address in addresses
        )


def order_by_weight(records: Iterable[SrvRecord], services: Sequence[str]) -> list[SrvRecord]:
    """By priority, then by the services' order, then drawn by weight (RFC 2782, "Usage rules")."""
    rank = {service: number for number, service in enumerate(services)}
    # An exponential draw with rate = weight gives the RFC's distribution; weight 0 goes last.
    return sorted(
        records,
        key=lambda r: (
            r.priority,
            rank.get(r.service, len(rank)),
            random.expovariate(r.weight) if r.weight else float("inf"),
        ),
    )
