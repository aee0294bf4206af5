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


class EdgeDriver(Protocol):
    """Changes take effect for the next connection and survive the edge's restart. Errors: ``Unavailable``."""

    name: str

    def routes(self) -> Mapping[str, Backend]:
        """Host (A-label) -> backend, as the edge routes now: all tenants', for whole comparisons."""

    def lookup(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        """Of these hosts alone host -> backend, and the address of this proxy65 port (None: not routed).

        Every instance's pass asks this, so the cost must not grow with the number of tenants.
        """

    def set_routes(self, hosts: Sequence[DomainName], backend: Backend) -> bool:
        """True if anything changed."""

    def delete_routes(self, hosts: Sequence[DomainName]) -> bool: ...

    def tcp_ports(self) -> Mapping[int, str]:
        """Public proxy65 port -> address (the port on the backend is the same)."""

    def set_tcp_port(self, port: int, address: str) -> bool: ...

    def delete_tcp_port(self, port: int) -> bool: ...
