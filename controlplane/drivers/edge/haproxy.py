"""The routing table of an edge's HAProxy, on this machine or over a line to another.

It checks what goes in and words what comes back; what touches the machine is ``agent``, which runs there. Choosing
what to route is left to ``fleet``.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from controlplane.drivers.edge import agent
from controlplane.drivers.edge.agent import BACKENDS_MAP, MAPS, PROXY65_MAP
from controlplane.drivers.edge.base import Backend, EdgeHealth, Seen, Synced
from controlplane.drivers.node.base import Line
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName

#: For a question, and for a whole table of thousands of names.
ASK_S, SYNC_S = 20.0, 60.0
_HOST = re.compile(r"^[a-z0-9.-]{1,253}\Z")


@functools.cache
def _source() -> str:
    return resources.files("controlplane.drivers.edge").joinpath("agent.py").read_text()


class HaproxyEdge:
    """One HAProxy. ``socket_path``: its stats socket (level admin); ``map_dir``: its maps; both paths on its machine.

    ``line``: to that machine; None: it is this one.
    """

    name = "haproxy"

    def __init__(self, socket_path: Path, map_dir: Path, line: Line | None = None) -> None:
        self._socket, self._map_dir, self._line = str(socket_path), str(map_dir), line

    def routes(self) -> Mapping[str, Backend]:
        return {host: _backend(at) for host, at in _agreed(self.table(), BACKENDS_MAP).items()}

    def tcp_ports(self) -> Mapping[int, str]:
        return {int(port): at for port, at in _agreed(self.table(), PROXY65_MAP).items()}

    def lookup(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        return _found(self._ask("lookup", keys=_keys(hosts, port)), port)

    def leads(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        """Over a line HAProxy is asked by its forwarded socket: some milliseconds, and no process over there."""
        if self._line is None:
            return self.lookup(hosts, port)
        keys = _keys(hosts, port)
        near = str(self._line.socket(self._socket))
        try:
            return _found(_answer(agent.main(self._argument("lookup", socket=near, keys=keys, stored=False))), port)
        except Unavailable:
            # HAProxy was started anew, or the line broke meanwhile: a question of its own opens it again.
            return self.lookup(hosts, port)

    def set_routes(self, hosts: Sequence[DomainName], backend: Backend) -> bool:
        at = _at(backend)
        return self._change({BACKENDS_MAP: {_host(h): at for h in hosts}})

    def delete_routes(self, hosts: Sequence[DomainName]) -> bool:
        return self._change({BACKENDS_MAP: {_host(h): None for h in hosts}})

    def set_tcp_port(self, port: int, address: str) -> bool:
        return self._change({PROXY65_MAP: {_port(port): str(ipaddress.ip_address(address))}})

    def delete_tcp_port(self, port: int) -> bool:
        return self._change({PROXY65_MAP: {_port(port): None}})

    def publish(self, hosts: Sequence[DomainName], backend: Backend, port: int) -> bool:
        at = _at(backend)
        address = at.partition("/")[0]
        return self._change({BACKENDS_MAP: {_host(h): at for h in hosts}, PROXY65_MAP: {_port(port): address}})

    def withdraw(self, hosts: Sequence[DomainName], port: int) -> bool:
        return self._change({BACKENDS_MAP: {_host(h): None for h in hosts}, PROXY65_MAP: {_port(port): None}})

    def health(self) -> EdgeHealth:
        return EdgeHealth(**self._ask("health"))

    def digest(self, routes: Mapping[str, Backend], ports: Mapping[int, str]) -> str:
        return agent.digest(_tables(routes, ports))

    def table(self) -> Seen:
        found = self._ask("tables", timeout_s=SYNC_S)
        return {name: {key: (pair[0], pair[1]) for key, pair in found[name].items()} for name in MAPS}

    def sync(self, seen: Seen, routes: Mapping[str, Backend], ports: Mapping[int, str]) -> Synced:
        tables = _tables(routes, ports)
        wanted: dict[str, dict[str, str | None]] = {name: {} for name in MAPS}
        added = changed = removed = 0
        for name in MAPS:
            for key in {**seen[name], **tables[name]}:
                value, pair = tables[name].get(key), seen[name].get(key, (None, None))
                if pair == (value, value):
                    continue
                wanted[name][key] = value
                removed += value is None
                added += value is not None and pair == (None, None)
                changed += value is not None and pair != (None, None)
        if added or changed or removed:
            before = {name: {key: seen[name].get(key, (None, None)) for key in wanted[name]} for name in MAPS}
            self._ask("change", timeout_s=SYNC_S, wanted=wanted, seen=before)
        return Synced(added, changed, removed)

    def _change(self, wanted: Mapping[str, Mapping[str, str | None]]) -> bool:
        """Bring these keys of these maps to these values (None: not there). True if anything changed."""
        return bool(self._ask("change", wanted=wanted))

    def _argument(self, do: str, **more: Any) -> dict[str, Any]:
        return {"do": do, "socket": self._socket, "dir": self._map_dir, "shown": self._socket, **more}

    def _ask(self, do: str, *, timeout_s: float = ASK_S, **more: Any) -> Any:
        argument = self._argument(do, **more)
        if self._line is None:
            return _answer(agent.main(argument))
        return _answer(self._line.ask(_source(), argument, timeout_s=timeout_s))


def _answer(said: Mapping[str, Any]) -> Any:
    if said.get("error") == "unavailable":
        raise Unavailable(said["message"], remedy=said["remedy"])
    if said.get("error"):
        raise Rejected(said["message"], remedy=said["remedy"])
    return said["answer"]


def _keys(hosts: Sequence[DomainName], port: int) -> dict[str, list[str]]:
    return {BACKENDS_MAP: [_host(h) for h in hosts], PROXY65_MAP: [_port(port)]}


def _found(tables: Mapping[str, Mapping[str, str]], port: int) -> tuple[dict[str, Backend], str | None]:
    return {host: _backend(at) for host, at in tables[BACKENDS_MAP].items()}, tables[PROXY65_MAP].get(_port(port))


def _tables(routes: Mapping[str, Backend], ports: Mapping[int, str]) -> dict[str, dict[str, str]]:
    return {
        BACKENDS_MAP: {_host(DomainName(host)): _at(backend) for host, backend in routes.items()},
        PROXY65_MAP: {_port(port): str(ipaddress.ip_address(address)) for port, address in ports.items()},
    }


def _agreed(seen: Seen, name: str) -> dict[str, str]:
    return {key: running for key, (running, stored) in seen[name].items() if running is not None and running == stored}


def _host(name: DomainName) -> str:
    if not _HOST.match(name.ascii):
        raise Rejected(f"{name.ascii!r} is no host name.")
    return name.ascii


def _port(port: int) -> str:
    if not 0 < int(port) < 65536:
        raise Rejected(f"{port} is no port.")
    return str(int(port))


def _at(backend: Backend) -> str:
    """A map's value: only addresses and ports that HAProxy and ``_backend`` read as they were meant."""
    address = ipaddress.ip_address(backend.address)
    if not 0 < backend.base_port < 65536 - 10:
        raise Rejected(f"{backend.base_port} is no base port.")
    if address.is_unspecified or address.is_multicast:
        raise Rejected(f"Nothing can be forwarded to {address}.")
    return f"{address}/{backend.base_port}"


def _backend(at: str) -> Backend:
    address, _, port = at.partition("/")
    return Backend(address, int(port))
