"""A scratch looked at as its members' clients see it: a few of them log in and read what is theirs.

What the engine's control channel tells was compared with the oracle before; here it is compared with what comes over
XMPP. The accounts of a scratch get passwords of their own for it, since nobody knows the members'.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from controlplane.backups.doors import door
from controlplane.backups.sites import Site
from controlplane.drivers.engine.base import EngineControl
from controlplane.portable import facts
from controlplane.portable.facts import Fact
from controlplane.probes.client import ProbeClient, StanzaError, q
from controlplane.probes.lookup import Endpoint, Lookup
from controlplane.values.errors import RoostError
from controlplane.values.names import DomainName, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import SERVICE_OFFSETS, Components

ACCOUNTS, ROOMS, MESSAGES, NODES = 3, 3, 50, 20
TIMEOUT_S = 30.0
_ROSTER, _BLOCKING, _MAM = "jabber:iq:roster", "urn:xmpp:blocking", "urn:xmpp:mam:2"
_PUBSUB, _ITEMS, _ADMIN = (
    "http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/disco#items",
    "http://jabber.org/protocol/muc#admin",
)  # fmt: skip
_LISTS = ("owner", "admin", "member", "outcast")


@dataclass(slots=True)
class Sampled:
    """How many pieces were read by clients, by kind; what was not as the engine told; who could not be looked at."""

    checked: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def compare(self, what: str, told: Iterable[str], seen: Iterable[str]) -> None:
        """Multisets of pieces."""
        left, right = Counter(told), Counter(seen)
        self.checked[what] += sum(left.values())
        missing, more = sum((left - right).values()), sum((right - left).values())
        if missing:
            self.differences.append(f"{what}: a client does not see {missing} of {sum(left.values())}")
        if more:
            self.differences.append(f"{what}: a client sees {more} that the engine does not tell of")


class _Way(Lookup):
    """Leads every client to the door, whatever DNS has."""

    def __init__(self, domain: DomainName, address: str, port: int) -> None:
        super().__init__("127.0.0.1", timeout_s=1.0)
        self._endpoint = Endpoint("xmpps-client", domain.ascii, address, port)

    async def endpoints(self, domain: str, services: Sequence[str]) -> tuple[Endpoint, ...]:  # noqa: ARG002
        return (self._endpoint,)


def look(site: Site, domain: DomainName, *, roots: str | None, chance: random.Random | None = None) -> Sampled:
    """Log in to the scratch as a few of its members and compare. Changes their passwords; never for a living engine."""
    return asyncio.run(_look(site, domain, roots, chance or random.Random()))


async def _look(site: Site, domain: DomainName, roots: str | None, chance: random.Random) -> Sampled:
    control: EngineControl = site.control  # type: ignore[assignment]  # a scratch's is a whole one
    found = Sampled()
    names = await asyncio.to_thread(lambda: [a.local for a in control.list_accounts() if a.enabled])
    rooms = await asyncio.to_thread(control.export_rooms)
    members = chance.sample(names, min(ACCOUNTS, len(names)))
    owned = await asyncio.to_thread(_owned, control, chance.sample(rooms, min(10 * ROOMS, len(rooms))), names, domain)
    async with door(site, site.base_port + SERVICE_OFFSETS["c2s_tls"]) as (address, port):
        way = _Way(domain, address, port)
        for local in members:
            await _as_member(control, found, local, domain, way, roots)
        for room, owner in owned[:ROOMS]:
            await _as_owner(control, found, room, owner, domain, way, roots)
    return found


def _owned(
    control: EngineControl, rooms: list[str], names: list[Localpart], domain: DomainName
) -> list[tuple[Localpart, Localpart]]:
    """Rooms with a local owner, who may see the whole member list."""
    local = {f"{name.text}@{domain.ascii}": name for name in names}
    found = []
    for name in rooms:
        room = control.get_room(Localpart(name))
        owners = [] if room is None else [j for j, a in room.affiliations.items() if a == "owner" and j in local]
        if owners:
            found.append((Localpart(name), local[owners[0]]))
    return found


async def _client(
    control: EngineControl, local: Localpart, domain: DomainName, way: Lookup, roots: str | None
) -> ProbeClient:
    password = Secret(secrets.token_urlsafe(24))
    await asyncio.to_thread(control.set_password, local, password)
    return ProbeClient(
        f"{local.text}@{domain.ascii}", password, trust_roots=roots, services=("xmpps-client",), timeout_s=TIMEOUT_S,
        lookup=way,
    )  # fmt: skip


async def _as_member(
    control: EngineControl, found: Sampled, local: Localpart, domain: DomainName, way: Lookup, roots: str | None
) -> None:
    told = list(facts.of_user(await asyncio.to_thread(control.export_user, local)))
    page, _ = await asyncio.to_thread(lambda: control.export_archive(owner=local, limit=MESSAGES))
    name = local.text
    try:
        async with await _client(control, local, domain, way, roots) as client:
            found.checked["login"] += 1
            found.compare(f"contacts of {name}", _pieces(told, "contact"), await _contacts(client, name))
            found.compare(f"blocked by {name}", _whats(told, "block"), await _blocked(client))
            seen = [piece async for piece in _items(client, name, told)]
            nodes = {node for node, _ in seen}
            wanted = [f for f in told if f.kind == "PEP item" and f.what.partition(" ")[0] in nodes]
            found.compare(f"PEP items of {name}", _pieces(wanted, "PEP item"), [piece for _, piece in seen])
            found.compare(f"messages of {name}", map(_message, page), await _messages(client, len(page)))
    except RoostError as error:
        found.differences.append(f"{name} as a client: {error.message}")


async def _as_owner(
    control: EngineControl,
    found: Sampled,
    room: Localpart,
    owner: Localpart,
    domain: DomainName,
    way: Lookup,
    roots: str | None,
) -> None:
    present = await asyncio.to_thread(control.get_room, room)
    assert present is not None
    told = [f"{jid} {affiliation}" for jid, affiliation in present.affiliations.items()]
    address = f"{room.text}@{Components.below(domain).muc.ascii}"
    seen = []
    try:
        async with await _client(control, owner, domain, way, roots) as client:
            for affiliation in _LISTS:
                wanted = ET.Element(q("item", _ADMIN), {"affiliation": affiliation})
                query = ET.Element(q("query", _ADMIN))
                query.append(wanted)
                answer = await client.iq("get", address, query)
                seen += [f"{i.get('jid')} {affiliation}" for i in answer.iter(q("item", _ADMIN))]
        found.compare(f"member list of {room.text}", told, seen)
    except RoostError as error:
        found.differences.append(f"member list of {room.text} as a client: {error.message}")


async def _contacts(client: ProbeClient, name: str) -> list[str]:
    answer = await client.iq("get", "", ET.Element(q("query", _ROSTER)))
    return [_piece(facts.of_contact(name, item)) for item in answer.iter(q("item", _ROSTER))]


async def _blocked(client: ProbeClient) -> list[str]:
    answer = await client.iq("get", "", ET.Element(q("blocklist", _BLOCKING)))
    return [item.get("jid", "") for item in answer.iter(q("item", _BLOCKING))]


async def _items(client: ProbeClient, name: str, told: list[Fact]) -> Any:
    """(node, piece) of the nodes that the engine tells of: OMEMO's devices and bundles, bookmarks, avatars."""
    nodes = sorted({fact.what.partition(" ")[0] for fact in told if fact.kind == "PEP item"})[:NODES]
    for node in nodes:
        pubsub = ET.Element(q("pubsub", _PUBSUB))
        ET.SubElement(pubsub, q("items", _PUBSUB), {"node": node})
        try:
            answer = await client.iq("get", client.bare_jid, pubsub)
        except StanzaError:
            continue
        for item in answer.iter(q("item", _PUBSUB)):
            yield node, _piece(facts.of_pep_item(name, node, item))


async def _messages(client: ProbeClient, most: int) -> list[str]:
    """The oldest of the own archive (XEP-0313)."""
    if not most:
        return []
    query = ET.Element(q("query", _MAM), {"queryid": "drill"})
    page = ET.SubElement(query, "{http://jabber.org/protocol/rsm}set")
    ET.SubElement(page, "{http://jabber.org/protocol/rsm}max").text = str(most)
    await client.iq("set", "", query)
    found = []
    for _ in range(most):
        try:
            message = await client.wait_message(lambda m: m.find(q("result", _MAM)) is not None, timeout_s=3.0)
        except RoostError:
            break
        result = message.find(q("result", _MAM))
        assert result is not None
        found.append(_message(result))
    return found


def _message(result: str | ET.Element) -> str:
    """When it was, and what it says: identifiers are the archive's own."""
    element = ET.fromstring(result) if isinstance(result, str) else result  # noqa: S314  # an engine of ours made it
    forwarded = element.find("{urn:xmpp:forward:0}forwarded")
    delay = None if forwarded is None else forwarded.find("{urn:xmpp:delay}delay")
    body = "" if forwarded is None else forwarded.findtext(f"{q('message')}/{q('body')}") or ""
    return f"{facts.instant('' if delay is None else delay.get('stamp', '')) // 1_000_000} {body}"


def _piece(fact: Fact) -> str:
    return f"{fact.what} {fact.value}"


def _pieces(told: Iterable[Fact], kind: str) -> Iterator[str]:
    return (_piece(fact) for fact in told if fact.kind == kind)


def _whats(told: Iterable[Fact], kind: str) -> Iterator[str]:
    return (fact.what for fact in told if fact.kind == kind)
