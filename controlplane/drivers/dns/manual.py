"""For a provider zone that people write by hand: shows through a resolver what is there, and writes nothing.

The ``zones`` room lists what is to be published; this driver only tells how far that has come.
"""

from __future__ import annotations

from collections.abc import Sequence

import dns.exception
import dns.rdatatype
import dns.resolver

from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.rdata import of_rdata
from controlplane.values.records import Change, RecordSet

TIMEOUT_S = 5.0
REMEDY = "Publish the records that the status lists, or choose a DNS driver that writes (ROOST_DNS_DRIVER)."


class Manual:
    """``resolver``: "address" or "address@port"; None: the system's. Its caches decide how old an answer may be."""

    name = "manual"
    can_write = False
    exact_ttl = False

    def __init__(self, resolver: str | None) -> None:
        self._shown = resolver or "the system's resolver"
        self._resolver = dns.resolver.Resolver(configure=resolver is None)
        if resolver is not None:
            address, _, port = resolver.partition("@")
            self._resolver.nameservers = [address]
            self._resolver.port = int(port or 53)
        self._resolver.lifetime = TIMEOUT_S

    def zone_exists(self, zone: DomainName) -> bool:
        return self._ask(zone.ascii, "SOA") is not None

    def create_zone(self, zone: DomainName, nameservers: Sequence[str]) -> bool:  # noqa: ARG002
        if self.zone_exists(zone):
            return False
        raise Rejected(f"There is no zone {zone}.", remedy="Create it at your DNS provider and delegate it.")

    def read(
        self,
        zone: DomainName,  # noqa: ARG002  (a resolver finds the zone by itself)
        keys: Sequence[tuple[str, str]],
        *,
        unserved: bool = False,  # noqa: ARG002  (a resolver tells of served ones alone)
    ) -> dict[tuple[str, str], RecordSet]:
        found = {}
        for name, type in dict.fromkeys(keys):
            answer = self._ask(name, type)
            if answer is not None and answer.rrset is not None:
                rdatas = [of_rdata(type, rdata) for rdata in answer.rrset]
                found[name, type] = RecordSet.of(name, type, answer.rrset.ttl, rdatas)
        return found

    def apply(self, zone: DomainName, changes: Sequence[Change]) -> None:
        if changes:
            raise Rejected(f"The zone {zone} is published by hand: Roost does not write it.", remedy=REMEDY)

    def _ask(self, name: str, rdtype: str) -> dns.resolver.Answer | None:
        """The answer for exactly this name (a CNAME is not followed into other data); None if there is none."""
        try:
            answer = self._resolver.resolve(name + ".", rdtype, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return None
        except (dns.exception.DNSException, OSError) as error:
            raise Unavailable(
                f"{self._shown} gave no answer for {name} {rdtype} ({type(error).__name__}).",
                remedy="Check that the resolver runs and reaches the zone's name servers.",
            ) from error
        return answer if answer.canonical_name == answer.qname else None
