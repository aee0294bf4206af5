"""What Roost needs of a DNS server or provider (``docs/contracts/dns.md``).

A driver reads and writes record sets; whose they are is the ``zones`` room's business. Errors:
``Unavailable`` (no answer, time-out, rate limit), ``Rejected`` (credentials, unknown zone, bad record),
``Conflict`` (a ``create`` found other data).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controlplane.values.names import DomainName
from controlplane.values.records import Change, RecordSet


class DnsDriver(Protocol):
    """One way to write a zone. ``name`` is the word in settings; ``can_write`` is False for ``manual``.

    ``exact_ttl``: what ``read`` tells of a TTL is what ``apply`` wrote, so a difference is drift. False where
    the provider has its own minimum or a resolver counts down.
    """

    name: str
    can_write: bool
    exact_ttl: bool

    def zone_exists(self, zone: DomainName) -> bool: ...

    def create_zone(self, zone: DomainName, nameservers: Sequence[str]) -> bool:
        """Make it where the server allows that (False: it was there). Else ``Rejected`` with the remedy."""

    def read(
        self, zone: DomainName, keys: Sequence[tuple[str, str]], *, unserved: bool = False
    ) -> dict[tuple[str, str], RecordSet]:
        """The record sets of these (name, type) keys that exist, as the server itself holds them.

        Rdata is in the spelling of ``values.rdata``. What a wildcard makes up does not count as existing.
        ``unserved``: those too that the server holds and does not serve (PowerDNS' disabled records), which may
        cost a look at the whole zone; for whoever is about to create a record and must overwrite nobody's.
        """

    def apply(self, zone: DomainName, changes: Sequence[Change]) -> None:
        """All changes in one request where the protocol has it, deletions first. Safe to run twice."""
