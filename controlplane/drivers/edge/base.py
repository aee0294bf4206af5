"""What Roost needs of the edge: a table of host name -> backend, changed while connections run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.values.names import DomainName


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the connections of a host go: ``base_port`` + ``values.spec.SERVICE_OFFSETS``."""

    address: str
    base_port: int


#: All of an edge's maps: map -> key -> (what HAProxy has, what its next start would have).
Seen = Mapping[str, Mapping[str, tuple[str | None, str | None]]]


@dataclass(frozen=True, slots=True)
class EdgeHealth:
    """What an edge tells of itself. ``digest``: of its whole table; empty where a restart would change it."""

    version: str
    uptime_s: int
    connections: int
    hosts: int
    ports: int
    digest: str


@dataclass(frozen=True, slots=True)
class Synced:
    """How many entries of an edge's table were not as wanted."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


class EdgeDriver(Protocol):
    """Changes take effect for the next connection and survive the edge's restart.

    Errors: ``Unavailable`` (it or its line), ``Rejected`` (no HAProxy of ours), and those of ``node.base.Line``.
    """

    name: str

    def routes(self) -> Mapping[str, Backend]:
        """Host (A-label) -> backend, as the edge routes now: all tenants', for whole comparisons."""

    def lookup(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        """Of these hosts alone host -> backend, and the address of this proxy65 port (None: not routed).

        The cost does not grow with the number of tenants.
        """

    def leads(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        """The same of the running edge, as cheaply as it can be had: every instance's pass asks this.

        Whether it would survive a restart may be left to ``health``, which an edge's own pass asks.
        """

    def set_routes(self, hosts: Sequence[DomainName], backend: Backend) -> bool:
        """True if anything changed."""

    def delete_routes(self, hosts: Sequence[DomainName]) -> bool: ...

    def tcp_ports(self) -> Mapping[int, str]:
        """Public proxy65 port -> address (the port on the backend is the same)."""

    def set_tcp_port(self, port: int, address: str) -> bool: ...

    def delete_tcp_port(self, port: int) -> bool: ...

    def publish(self, hosts: Sequence[DomainName], backend: Backend, port: int) -> bool:
        """``set_routes`` and ``set_tcp_port`` of one instance, in one question. True if anything changed."""

    def withdraw(self, hosts: Sequence[DomainName], port: int) -> bool: ...

    def health(self) -> EdgeHealth: ...

    def digest(self, routes: Mapping[str, Backend], ports: Mapping[int, str]) -> str:
        """What ``health`` tells of an edge that has exactly this."""

    def table(self) -> Seen:
        """All that is there, for ``sync``."""

    def sync(self, seen: Seen, routes: Mapping[str, Backend], ports: Mapping[int, str]) -> Synced:
        """Bring the whole table to exactly this: add, change, and remove what nobody wants.

        What somebody changed since ``seen`` was read is left as it is; the next comparison finds it if it is wrong.
        """
