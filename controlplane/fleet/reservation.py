"""Finds free addresses and ports. Who calls it holds the nodes' rows (``placing``), so that what is found stays free.

What follows the highest one in use is taken first, so the usual case costs one look at an index; gaps are filled when
the end is reached. An address that was given back is so not at once somebody else's. Scratches' are taken as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection

from controlplane.fleet.models import Node
from controlplane.values.errors import Rejected

#: Between the first ports of two instances that share an address; ``values.spec.SERVICE_OFFSETS`` fit in between.
PORT_STEP = 10
#: The kernel takes ports of connections to others from here on (``net.ipv4.ip_local_port_range``).
FIRST_EPHEMERAL = 32768

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an instance listens."""

    address: str
    base_port: int


def seats(node: Node) -> int:
    """How many instances the node has addresses or ports for."""
    network = ipaddress.ip_network(node.instance_network)
    if network.num_addresses == 1:
        start, end, low, high = _range(node)
        return sum(not (port + PORT_STEP > low and port <= high) for port in range(start, end, PORT_STEP))
    first, last = _bounds(network)
    return last - first + 1 - sum(first <= taken <= last for taken in _own(node, network))


def free_seat(node: Node, *, last_address: str | None) -> Seat | None:
    """An address of the node's network that no instance has; on its only address, a range of ports.

    ``last_address``: the highest that an instance, or a scratch, has there now.
    """
    network = ipaddress.ip_network(node.instance_network)
    if network.num_addresses == 1:
        port = _free_base_port(node)
        return None if port is None else Seat(str(network.network_address), port)
    address = _free_address(node, network, last_address)
    return None if address is None else Seat(address, node.base_port)


def _bounds(network: Network) -> tuple[int, int]:
    """First and last host (not the network's own nor the broadcast address; RFC 4291 §2.6.1), as numbers."""
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.num_addresses == 2:
        return first, last
    return first + 1, last - 1 if network.version == 4 else last


def _own(node: Node, network: Network) -> list[int]:
    """Addresses of the machine itself within the network, which are not the instances', as numbers."""
    found = set()
    for text in (node.private_address, node.address, *node.public_addresses):
        try:
            address = ipaddress.ip_address(text or "")
        except ValueError:
            continue  # it is reached by a name
        if address in network:
            found.add(int(address))
    return sorted(found)


_GAP = """
WITH taken AS (
    SELECT address FROM fleet_placement WHERE node_id = %(node)s
    UNION ALL SELECT address FROM fleet_scratch WHERE node_id = %(node)s
), found(at) AS (
    SELECT %(first)s::inet
    UNION SELECT address + 1 FROM taken WHERE address < %(last)s::inet
    UNION SELECT own + 1 FROM unnest(%(own)s::inet[]) AS own WHERE own < %(last)s::inet
)
SELECT host(at) FROM found
WHERE at BETWEEN %(first)s::inet AND %(last)s::inet AND at <> ALL(%(own)s::inet[])
  AND NOT EXISTS (SELECT 1 FROM taken WHERE address = at)
ORDER BY at LIMIT 1
"""


def _free_address(node: Node, network: Network, highest: str | None) -> str | None:
    own, (first, last) = _own(node, network), _bounds(network)

    def text(number: int) -> str:
        return str(network.network_address + (number - int(network.network_address)))

    if highest is not None:
        following = int(ipaddress.ip_address(highest)) + 1
        if first <= following <= last and following not in own:
            return text(following)
    given = {"node": node.pk, "first": text(first), "last": text(last), "own": [text(one) for one in own]}
    return _one(_GAP, given)


_PORTS = """
SELECT port FROM generate_series(%(start)s::int, %(end)s::int - 1, %(step)s::int) AS port
WHERE NOT (port + %(step)s > %(low)s AND port <= %(high)s)
  AND NOT EXISTS (SELECT 1 FROM fleet_placement WHERE node_id = %(node)s AND base_port = port)
  AND NOT EXISTS (SELECT 1 FROM fleet_scratch WHERE node_id = %(node)s AND base_port = port)
ORDER BY port LIMIT 1
"""


def _range(node: Node) -> tuple[int, int, int, int]:
    """First port, the end (not in it), and the ports between that proxies for files have, on the same address.

    From a base below the proxies' ports only up to them, as the node's firewall has it.
    """
    low, high = settings.ROOST["PROXY65_PORTS"]
    end = FIRST_EPHEMERAL if node.base_port < FIRST_EPHEMERAL else 65536
    if node.base_port < low:
        end = min(end, low)
    return node.base_port, end - PORT_STEP + 1, low, high


def _free_base_port(node: Node) -> int | None:
    start, end, low, high = _range(node)
    given = {"node": node.pk, "start": start, "end": end, "step": PORT_STEP, "low": low, "high": high}
    found = _one(_PORTS, given)
    return None if found is None else int(found)


_PROXY65 = """
SELECT port FROM generate_series(%(low)s::int, %(high)s::int) AS port
WHERE NOT EXISTS (SELECT 1 FROM fleet_placement WHERE proxy65_port = port) ORDER BY port LIMIT 1
"""


def free_proxy65_port(*, last: int | None) -> int:
    """A port that no instance of the fleet has, since any edge may lead to any. ``Rejected`` if all are taken.

    ``last``: the highest that one has now.
    """
    low, high = settings.ROOST["PROXY65_PORTS"]
    if last is not None and low <= last < high:
        return last + 1
    found = _one(_PROXY65, {"low": low, "high": high})
    if found is None:
        raise Rejected(f"All proxy65 ports {low}-{high} are taken.", remedy="Widen ROOST_PROXY65_PORTS and the edge's.")
    return int(found)


def _one(sql: str, given: Mapping[str, Any]) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(sql, given)
        row = cursor.fetchone()
    return None if row is None else str(row[0])
