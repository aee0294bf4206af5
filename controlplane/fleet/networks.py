"""Which networks two nodes may not both have: shared edges could not tell their instances apart."""

from __future__ import annotations

import ipaddress

from django.db import connection

from controlplane.fleet.models import Node
from controlplane.values.errors import InvalidInput

#: Of the advisory lock that lets one node after the other be checked and written.
_LOCK = 7077_0001


def check_networks(node: Node) -> None:
    """``InvalidInput`` if another node has this private address, or instance addresses of this network.

    This machine itself, retired nodes and loopback networks are left out: nobody else reaches those. Call it in the
    transaction that writes the node.
    """
    if node.connection == "local" or node.standing == Node.RETIRED:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    network = ipaddress.ip_network(node.instance_network)
    others = Node.objects.exclude(name=node.name).exclude(connection="local").exclude(standing=Node.RETIRED)
    for other in others.only("name", "private_address", "instance_network", "carries_instances"):
        if node.private_address and other.private_address == node.private_address:
            raise InvalidInput(
                "private_address",
                f"{other.name} has the private address {node.private_address}.",
                remedy="Give each node an address of its own.",
            )
        if node.carries_instances and other.carries_instances and _overlap(network, other.instance_network):
            raise InvalidInput(
                "instance_network",
                f"{network} overlaps with {other.instance_network} of {other.name}.",
                remedy="Give each node a network of its own, or its private address alone.",
            )


def _overlap(network: ipaddress.IPv4Network | ipaddress.IPv6Network, text: str) -> bool:
    other = ipaddress.ip_network(text)
    if network.is_loopback or other.is_loopback or network.version != other.version:
        return False
    return network.overlaps(other)
