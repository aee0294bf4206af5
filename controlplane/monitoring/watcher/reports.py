"""What a node's news ask for: a suspect connection becomes a suspect link, addresses become a sighting.

A node is believed about its own tenants only. Every function may raise a database error: whoever calls tries again.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import Any

from controlplane.drivers.node.base import NodeTarget
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.monitoring.models import S2sLink
from controlplane.provisioning.subject import USER_PREFIX
from controlplane.values.errors import RoostError
from tenants.models import Instance

log = logging.getLogger(__name__)

#: What each of the kernel's timers (``far.sockets``) is about.
TIMERS = {
    "retransmit": "sent {count} times more without an answer, {queued} bytes wait",
    "keepalive": "{count} keep-alives without an answer",
    "probe": "asked {count} times whether there is room for {queued} bytes, without an answer",
}


def targets() -> dict[str, NodeTarget]:
    """All nodes in use, as their lines want them. One whose key is sealed off is left to its own pass."""
    found = {}
    for node in Node.objects.exclude(standing=Node.RETIRED):
        try:
            found[node.name] = target_of(node)
        except RoostError as error:
            log.warning("%s is not watched: %s", node.name, error.message)
    return found


def suspect(node: str, news: dict[str, Any]) -> list[str]:
    """Hand the links that go through this connection to their passes; the remote domains of those.

    Several may: a server with many domains has one address for all. A connection of an engine that is no link (a
    push gateway) leads to none.
    """
    from controlplane.monitoring import links

    instance = _instance(node, str(news.get("user", "")))
    address, port = _end(news.get("remote"))
    if instance is None or not address:
        return []
    remotes = _leading_to(address, S2sLink.objects.filter(instance=instance))
    if not remotes:
        # Younger than what was written down last: the engine is asked.
        remotes = _leading_to(address, links.collect(instance))
    message = describe(node, news, address, port)
    for remote in remotes:
        links.suspect(instance, remote, by="watcher", message=message)
    return remotes


def describe(node: str, news: dict[str, Any], address: str, port: int) -> str:
    """What the kernel of this node sees, as a sentence."""
    said = TIMERS.get(str(news.get("timer")), "nothing moves, {queued} bytes wait")
    what = said.format(count=_number(news.get("count")), queued=_number(news.get("queued")))
    return f"The kernel of {node} sees a dead connection to {address} port {port}: {what}."


def addresses(node: str, found: dict[int, list[str]]) -> None:
    """The addresses of the node's interfaces, by family, as they are now."""
    from controlplane.monitoring import addresses as sightings

    row = Node.objects.filter(name=node).exclude(standing=Node.RETIRED).first()
    if row is not None:
        sightings.interface_addresses(row, found)


def plain_addresses(news: dict[str, Any]) -> dict[int, list[str]]:
    """The addresses in a node's line, in their one way of being written; what is none is left out."""
    return {family: [text for text in map(_plain, _listed(news.get(str(family)))) if text] for family in (4, 6)}


def _instance(node: str, user: str) -> Instance | None:
    if not user.startswith(USER_PREFIX):
        return None
    rows = Instance.objects.select_related("domain", "organisation")
    return rows.filter(key=user.removeprefix(USER_PREFIX), placement__node__name=node).first()


def _leading_to(address: str, known: Iterable[S2sLink]) -> list[str]:
    return sorted({row.remote for row in known if address in _addresses_of(row)})


def _addresses_of(link: S2sLink) -> set[str]:
    """Where the link's outgoing streams lead, as its engine said last."""
    streams = [one for one in link.streams if one.get("direction") == "out"]
    return {_plain(one.get("address")) for one in [*streams, link.directions.get("out", {})]}


def _end(told: Any) -> tuple[str, int]:
    """Address and port of an end that a node named; an empty address if it makes no sense."""
    if not isinstance(told, list) or len(told) != 2:
        return "", 0
    return _plain(told[0]), _number(told[1])


def _plain(text: Any) -> str:
    try:
        address = ipaddress.ip_address(str(text or "").partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _number(told: Any) -> int:
    return told if isinstance(told, int) else 0


def _listed(told: Any) -> list[Any]:
    return told[:64] if isinstance(told, list) else []
