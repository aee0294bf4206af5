"""Follows the public addresses of nodes: each is asked over its line, the sources are judged, a change is carried out.

What the sources say is kept as sightings; ``votes`` judges them, ``moving`` does what a change needs. One work item per
node, kind "Addresses".
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.node import far
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.monitoring import incidents, moving, votes
from controlplane.monitoring.models import AddressSighting, AddressWatch
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.errors import InvalidInput, RoostError
from tenants import audit
from tenants.principal import Principal

__all__ = ["interface_addresses", "reconcile", "set_watch", "watch_of"]

log = logging.getLogger(__name__)

KIND = "Addresses"
FAMILIES = (4, 6)
INTERFACE = "interface"
ASK_S = 8.0
#: The sources outside are heard so often, even if the machine has all of its addresses still.
ALL_S = 600.0
#: A machine that lost an address, and nobody agrees on its new one yet: the next look, later each time.
SOON_S = 1.0
AWAY_S = 15.0
NOT_OURS_S = 3600.0


@dataclass(frozen=True, slots=True)
class Told:
    """What one look brought: ``seen`` by family. ``at``: when it was asked."""

    seen: Mapping[int, votes.Seen]
    at: datetime.datetime


def watch_of(node: Node) -> AddressWatch:
    """The node's row; made if there is none."""
    return AddressWatch.objects.get_or_create(node=node)[0]


@transaction.atomic
def interface_addresses(node: Node | str, found: Mapping[int, Sequence[str]]) -> bool:
    """The node's interfaces have these addresses now, as it said by itself; all of them, private ones too.

    True if that is news: the node is looked at at once then. Safe to call again with the same. Keys: 4 and 6.
    """
    row = node if isinstance(node, Node) else Node.objects.filter(name=node).first()
    if row is None:
        return False
    public = {family: _public(found.get(family, ())) for family in FAMILIES}
    if not _note(row, {(INTERFACE, family): (addresses, "") for family, addresses in public.items()}):
        return False
    if _is_missing(moving.current_of(row, watch_of(row)), public):
        AddressWatch.objects.filter(node=row, candidate_at=None).update(candidate_at=timezone.now())
    watch.touch(KIND, row.name)
    return True


@transaction.atomic
def set_watch(
    *, node: Node, principal: Principal, follows: bool | None = None, pinned: Sequence[str] | None = None
) -> AddressWatch:
    """Switch following on or off, and pin addresses: a family with pinned ones has those, whatever the sources say."""
    row = AddressWatch.objects.select_for_update().get(pk=watch_of(node).pk)
    if follows is not None:
        row.follows = follows
    if pinned is not None:
        row.pinned = _by_family(pinned)
    row.looked_at = None
    row.save(update_fields=["follows", "pinned", "looked_at"])
    audit.record(
        principal=principal,
        action="node.watch-addresses",
        kind="Node",
        object_id=node.name,
        summary=f"{node.name}: addresses are {'followed' if row.follows else 'not followed'}",
        data={"follows": row.follows, "pinned": row.pinned},
    )
    watch.touch(KIND, node.name)
    return row


def _by_family(addresses: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidInput("pinned", f"{error}.") from None
        found.setdefault(str(address.version), []).append(str(address))
    return {family: list(dict.fromkeys(some)) for family, some in found.items()}


def reconcile(lease: Lease) -> Next | None:
    """One pass: look, judge, begin what a change needs, or go on with what was begun."""
    node = Node.objects.filter(name=lease.object_id).first()
    if node is None:
        moving.give_up(lease.object_id)
        leases.forget(lease.kind, lease.object_id)
        return None
    if node.connection == "local" or node.standing == Node.RETIRED:
        moving.give_up(node.name)
        return Next(NOT_OURS_S)
    watched = watch_of(node)
    again_s: float = settings.ROOST["ADDRESS_S"] * random.uniform(0.8, 1.2)
    if _is_due(node, watched):
        try:
            told = _look(node, watched)
        except RoostError as error:
            _say(watched, lease, error.message)
            return moving.go_on(node, lease) or Next(AWAY_S)
        again_s = min(again_s, _judge(node, watched, told, lease))
    return moving.go_on(node, lease) or Next(again_s)


def _is_due(node: Node, watched: AddressWatch) -> bool:
    """While a change is being carried out, passes come every moment; the node is not asked in each."""
    if incidents.open_for(moving.subject_of(node.name)) is None:
        return True
    if watched.looked_at is None or watched.candidate_at is not None or watched.candidate:
        return True
    newest = AddressSighting.objects.filter(node=watched.node_id, source=INTERFACE, at__gt=watched.looked_at)
    age_s = (timezone.now() - watched.looked_at).total_seconds()
    return age_s >= settings.ROOST["ADDRESS_S"] * 0.7 or newest.exists()


def _look(node: Node, watched: AddressWatch) -> Told:
    """Ask the node for its interfaces and, if it matters, for what the world sees. Raises what its line raises."""
    at = timezone.now()
    current = moving.current_of(node, watched)
    line = wiring.line(target_of(node))
    told = line.ask(far.source("address"), _question(node, current), timeout_s=ASK_S)
    interface = {family: _public(told["interfaces"].get(str(family), ())) for family in FAMILIES}
    outside: dict[int, dict[str, str]] = {family: {} for family in FAMILIES}
    said: dict[tuple[str, int], tuple[list[str], str]] = {
        (INTERFACE, family): (addresses, "") for family, addresses in interface.items()
    }
    for one in told["sources"]:
        address = str(one.get("address", ""))
        said[one["source"], one["family"]] = ([address] if address else [], str(one.get("error", "")))
        if _public([address]):
            outside[one["family"]][one["source"]] = address
    with transaction.atomic():
        _note(node, said)
    configured = len(_stun()) + len(settings.ROOST["ECHO_URLS"])
    seen = {family: votes.Seen(tuple(interface[family]), outside[family], configured=configured) for family in FAMILIES}
    return Told(seen, at)


def _question(node: Node, current: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """The machine leaves the sources outside alone if it has all of ``unless``, but for now and then."""
    heard = AddressSighting.objects.filter(node=node).exclude(source=INTERFACE).order_by("at").first()
    stale = heard is None or (timezone.now() - heard.at).total_seconds() > ALL_S
    known = [address for family in FAMILIES for address in current[family]]
    return {
        "stun": _stun(),
        "echo": settings.ROOST["ECHO_URLS"],
        "timeout_s": 2.5,
        "unless": [] if stale else known,
    }


def _stun() -> list[str]:
    """The servers to ask; by default the TURN service, which every TURN server is as well (RFC 8656 §1)."""
    conf = settings.ROOST
    if conf["STUN_SERVERS"]:
        return list(conf["STUN_SERVERS"])
    return [f"{conf['TURN_HOST']}:{conf['TURN_PORT']}"] if conf["TURN_HOST"] else []


def _configured(family: int) -> int:
    """How many sources outside can answer over this family: a server that is an address has one only."""
    hosts = [where.rpartition(":")[0].strip("[]") or where for where in _stun()]
    hosts += [urlsplit(url).hostname or "" for url in settings.ROOST["ECHO_URLS"]]
    return sum(_version(host) in (None, family) for host in hosts)


def _version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _judge(node: Node, watched: AddressWatch, told: Told, lease: Lease) -> float:
    """Decide for both families; if they differ, begin. How soon to look again, in seconds."""
    current = moving.current_of(node, watched)
    wanted: dict[int, list[str]] = {}
    candidate: dict[str, Any] = {}
    said, again_s, lost = [], NOT_OURS_S, False
    held = _held(node)
    for family in FAMILIES:
        pinned = watched.pinned.get(str(family))
        before = watched.candidate.get(str(family))
        verdict = _verdict(current, told, family, before, held=held[family])
        said.append(f"IPv{family}: {'pinned.' if pinned else verdict.why}")
        wanted[family] = list(current[family])
        lost = lost or (held[family] and bool(current[family]) and not (verdict.settled or pinned))
        if pinned:
            wanted[family] = list(pinned)
        elif not watched.follows:
            continue
        elif verdict.addresses is not None:
            wanted[family] = list(verdict.addresses)
        elif verdict.candidate is not None:
            same = before and before["addresses"] == list(verdict.candidate)
            at = before["at"] if same else told.at.timestamp()
            candidate[str(family)] = {"addresses": list(verdict.candidate), "at": at}
            again_s = min(again_s, verdict.again_s or again_s)
    sign = watched.candidate_at
    if sign is None and (candidate or lost):
        sign = told.at
    if lost:  # the sources may not be reached yet either: a machine that moves has no routes for a moment
        age_s = (told.at - (sign or told.at)).total_seconds()
        again_s = min(again_s, max(SOON_S, age_s / 2))
    differs = wanted != {family: list(current[family]) for family in FAMILIES}
    if not watched.follows:
        said.append("Changes are not followed: that is switched off.")
    fields = {
        "candidate": candidate,
        "candidate_at": sign if (candidate or lost) and not differs else None,
        "looked_at": timezone.now(),
        "message": " ".join(said),
    }
    if differs:
        first = told.at if sign is None else sign
        moving.begin(node, watched, lease, wanted=wanted, sign=first, why=" ".join(said), fields=fields)
    else:
        _write(watched, lease, fields)
    return again_s


def _verdict(
    current: Mapping[int, Sequence[str]], told: Told, family: int, before: Mapping[str, Any] | None, *, held: bool
) -> votes.Verdict:
    other = 10 - family
    return votes.judge(
        current[family],
        told.seen[family],
        candidate=before["addresses"] if before else None,
        candidate_age_s=told.at.timestamp() - before["at"] if before else 0.0,
        # A machine of which no public address is certain is cut off, and keeps what it had.
        withdraw=held and bool(current[other]) and votes.judge(current[other], told.seen[other]).settled,
    )


def _held(node: Node) -> dict[int, bool]:
    """Whether the machine itself had addresses of the family once, so that no translator has them."""
    known = AddressSighting.objects.filter(node=node, source=INTERFACE)
    return {family: any(row.family == family and row.held for row in known) for family in FAMILIES}


def _say(watched: AddressWatch, lease: Lease, message: str) -> None:
    if watched.message != message:
        _write(watched, lease, {"message": message})


def _write(watched: AddressWatch, lease: Lease, fields: Mapping[str, Any]) -> None:
    with transaction.atomic():
        leases.hold(lease)
        AddressWatch.objects.filter(pk=watched.pk).update(**fields)
    for name, value in fields.items():
        setattr(watched, name, value)


def _note(node: Node, said: Mapping[tuple[str, int], tuple[Sequence[str], str]]) -> bool:
    """Keep what the sources said, (source, family) -> (addresses, error); True if any said something new."""
    now = timezone.now()
    known = {(row.source, row.family): row for row in AddressSighting.objects.filter(node=node)}
    rows, news = [], False
    for (source, family), (addresses, error) in said.items():
        row = known.get((source, family)) or AddressSighting(node=node, source=source[:200], family=family)
        news = news or row.pk is None or sorted(row.addresses) != sorted(addresses)
        row.addresses, row.error, row.at = list(addresses), error, now
        row.held = row.held or bool(addresses)
        rows.append(row)
    AddressSighting.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["node", "source", "family"],
        update_fields=["addresses", "error", "at", "held"],
    )
    return news


def _is_missing(current: Mapping[int, Sequence[str]], interface: Mapping[int, Sequence[str]]) -> bool:
    return any(not set(current[family]) <= set(interface[family]) for family in FAMILIES)


def _public(addresses: Sequence[str]) -> list[str]:
    """Those that the world can reach: of the global unicast space, or of ROOST_PUBLIC_NETWORKS."""
    found = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        listed = any(address in network for network in _networks())
        if listed or (address.is_global and not address.is_multicast):
            found.append(str(address))
    return list(dict.fromkeys(found))


def _networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in settings.ROOST["PUBLIC_NETWORKS"]]
