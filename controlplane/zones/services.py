"""What other rooms ask of DNS: say which record sets an instance needs, have them published, look how far it is.

Only intent is written here; the zone's own pass (``reconciler``) writes zones, ``customer`` looks into others'.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F

from controlplane import wiring
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, holding
from controlplane.values.errors import Conflict
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from controlplane.zones import customer, plan
from controlplane.zones.models import DnsRecord, Zone
from controlplane.zones.plan import Need, TurnService, Wanted
from tenants.models import Domain, Instance


class Summary(NamedTuple):
    """How far an instance's records are. ``all_published``: each that is not optional, the customer's too.

    ``conflicts``: records in the way that Roost did not make; ``problems``: sentences on what hinders ours;
    ``missing_customer``: what is missing in the customer's zone, as lines to publish, with what is wrong.
    """

    all_published: bool
    conflicts: list[str]
    problems: list[str]
    missing_customer: list[str]


def need_of(instance: Instance, edge_addresses: Sequence[str] = ()) -> Need:
    """The instance's row and the settings as the plan wants them. ``edge_addresses``: where the world finds it."""
    conf, domain = settings.ROOST, DomainName(instance.domain.name)
    turn = None
    if conf["TURN_HOST"]:
        host = DomainName.parse(conf["TURN_HOST"], field="ROOST_TURN_HOST")
        turn = TurnService(host, conf["TURN_PORT"], conf["TURN_TLS_PORT"] or None)
    return Need(
        key=instance.key,
        domain=domain,
        components=Components.below(domain),
        mode=instance.domain.mode,
        zone=wiring.provider_zone(),
        ttl_s=conf["RECORD_TTL_S"],
        edge_addresses=tuple(edge_addresses),
        turn=turn,
        caa_issuer=conf["CAA_ISSUER"],
        delegate_acme=conf["ACME_CHALLENGE"] == "dns-01",
        proof_token=instance.domain.proof_token,
        proven=instance.domain.proven_at is not None,
    )


def records_for(instance: Instance, edge_addresses: Sequence[str]) -> tuple[Wanted, ...]:
    """Every record set that the instance needs, and who publishes each."""
    return plan.wanted_records(need_of(instance, edge_addresses))


def challenge_targets(instance: Instance) -> dict[str, list[str]]:
    """Certificate name -> [zone, record name] where the answers to DNS-01 challenges go."""
    return plan.challenge_targets(need_of(instance))


def proof_instructions(domain: Domain) -> dict[str, Any]:
    """What a person publishes to prove control of a domain: ``name``, ``type``, ``value``."""
    return {"name": plan.proof_name(DomainName(domain.name)), "type": "TXT", "value": domain.proof_token}


def ensure_zone(name: DomainName) -> Zone:
    """The zone's row; a new one is looked at by its pass, which makes the zone where the driver can."""
    present = Zone.objects.filter(name=name.ascii).first()
    if present is not None:
        return present
    with transaction.atomic():
        zone, made = Zone.objects.get_or_create(name=name.ascii)
        if made:
            watch.touch("Zone", zone.name)
    return zone


def sync_records(*, instance: Instance, wanted: Sequence[Wanted], lease: Lease | None) -> bool:
    """Write which record sets the instance should have, in one transaction under the lease; True if that differs.

    Without a lease it is somebody who changed what all instances of an edge have, at once; their own passes compare.
    Zones that have to change are touched. Raises ``LeaseLost``, and ``Conflict`` if another instance has a name.
    """
    # A look without the lease first: in most passes nothing differs, and nothing is locked.
    return want_records(instance=instance, wanted=wanted, lease=lease).differed


class Records(NamedTuple):
    """An instance's record sets as they are wanted now, and whether that was any different before."""

    rows: list[DnsRecord]
    differed: bool


def want_records(*, instance: Instance, wanted: Sequence[Wanted], lease: Lease | None) -> Records:
    """``sync_records``, and the rows that there are then."""
    # A look without the lease first: in most passes nothing differs, and nothing is locked.
    rows = records_of(instance)
    known = {(row.zone_id is not None, *row.key): row for row in rows}
    by_key = {(w.zone is not None, *w.record_set.key): w for w in wanted}
    stale = [key for key, row in known.items() if row.wanted and key not in by_key]
    fresh = [w for key, w in by_key.items() if not _is_as_wanted(known.get(key), w)]
    if not stale and not fresh:
        return Records(rows, False)
    zones = {name: ensure_zone(name) for name in {w.zone for w in fresh if w.zone is not None}}
    scope: AbstractContextManager[None] = transaction.atomic() if lease is None else holding(lease)
    new: list[DnsRecord] = []
    try:
        with scope:
            locked = list(instance.dns_records.select_for_update()) if rows else []
            present = {(row.zone_id is not None, *row.key): row for row in locked}
            for want in fresh:
                row = present.get((want.zone is not None, *want.record_set.key))
                if row is None:
                    zone = zones[want.zone] if want.zone is not None else None
                    new.append(_filled(DnsRecord(instance=instance, zone=zone, publisher=want.publisher), want))
                else:
                    _change(row, want)
            DnsRecord.objects.bulk_create(new)
            leaving = [present[key] for key in stale if key in present]
            _unwant(leaving)
            touched = {w.zone.ascii for w in fresh if w.zone} | {_zone_of(known[key]) for key in stale} - {""}
            for name in sorted(touched):
                watch.touch("Zone", name)
    except IntegrityError as error:
        raise _taken(instance, new) or error from None
    gone = {row.pk for row in leaving}
    return Records(sorted((row for row in [*locked, *new] if row.pk not in gone), key=lambda row: row.key), True)


def records_of(instance: Instance) -> list[DnsRecord]:
    """All of the instance's record sets, with their zones."""
    return list(instance.dns_records.select_related("zone"))


def readdress(addresses: Mapping[int, Sequence[str]]) -> tuple[int, set[int]]:
    """These instances (number -> addresses) are found elsewhere: their A and AAAA record sets say so, all in one go.

    In the caller's transaction; their zones are touched. Answers how many instances differ, and those that it left to
    ``sync_records``, since they need record sets of a family that they had none of, or the other way round.
    """
    rows: dict[int, list[DnsRecord]] = {}
    ours = DnsRecord.objects.filter(instance__in=addresses, wanted=True, type__in=("A", "AAAA"), zone__isnull=False)
    for row in ours.select_related("zone").select_for_update(of=("self",)).order_by("pk"):
        rows.setdefault(row.instance_id, []).append(row)
    changed: list[DnsRecord] = []
    others: set[int] = set()
    alike: dict[tuple[str, ...], list[int]] = {}
    for pk, mine in rows.items():
        by_type = _by_type(addresses[pk])
        if {row.type for row in mine} != by_type.keys():
            others.add(pk)
            continue
        for row in mine:
            if sorted(row.rdatas) != by_type[row.type]:
                alike.setdefault(tuple(by_type[row.type]), []).append(row.pk)
                changed.append(row)
    unsettled = {"revision": F("revision") + 1, "published": False, "conflict": False, "problem": ""}
    for rdatas, pks in alike.items():
        DnsRecord.objects.filter(pk__in=pks).update(rdatas=list(rdatas), **unsettled)
    for name in sorted({_zone_of(row) for row in changed}):
        watch.touch("Zone", name)
    return len({row.instance_id for row in changed}), others


def _by_type(addresses: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in addresses:
        address = ipaddress.ip_address(text)
        found.setdefault("A" if address.version == 4 else "AAAA", []).append(str(address))
    return {type: sorted(some) for type, some in found.items()}


def _is_as_wanted(row: DnsRecord | None, want: Wanted) -> bool:
    if row is None or not row.wanted:
        return False
    same = (row.purpose, row.optional) == (want.purpose, want.optional)
    return same and row.record_set() == want.record_set


def _zone_of(row: DnsRecord) -> str:
    return row.zone.name if row.zone is not None else ""


def _filled(row: DnsRecord, want: Wanted) -> DnsRecord:
    made = want.record_set
    row.name, row.type, row.ttl_s, row.rdatas = made.name, made.type, made.ttl_s, sorted(made.rdatas)
    row.wanted, row.purpose, row.optional = True, want.purpose, want.optional
    return row


def _change(row: DnsRecord, want: Wanted) -> None:
    if not row.wanted or row.record_set() != want.record_set:
        row.revision += 1
        row.published, row.conflict, row.problem = False, False, ""
    _filled(row, want).save()


def _taken(instance: Instance, rows: Sequence[DnsRecord]) -> Conflict | None:
    """Why the database refused these new rows, if another instance has one of the names."""
    held = DnsRecord.objects.filter(zone__in={row.zone_id for row in rows}, name__in={row.name for row in rows})
    others = {(row.zone_id, *row.key): row for row in held.exclude(instance=instance).select_related("instance")}
    for row in rows:
        holder = others.get((row.zone_id, *row.key))
        if holder is not None:
            return Conflict(
                f"{row.name} {row.type} belongs to another instance ({holder.instance.key}).",
                remedy="It is free when that instance is gone.",
            )
    return None


def _unwant(rows: Sequence[DnsRecord]) -> None:
    """The customer's rows go at once, for nothing of them is ours; the others when they are gone from the server."""
    if not rows:
        return
    DnsRecord.objects.filter(pk__in=[r.pk for r in rows if r.zone_id is None]).delete()
    DnsRecord.objects.filter(pk__in=[r.pk for r in rows if r.zone_id is not None]).update(
        wanted=False, published=False, revision=F("revision") + 1
    )


def retire_records(*, instance: Instance, lease: Lease) -> bool:
    """Want none of the instance's record sets any more; True when all of them are gone. Safe to call again."""
    rows = list(instance.dns_records.select_related("zone"))
    if not rows:
        return True
    due = [row for row in rows if row.wanted]
    if due:
        with holding(lease):
            _unwant(list(instance.dns_records.select_for_update().filter(pk__in=[r.pk for r in due])))
            for name in sorted({_zone_of(row) for row in due} - {""}):
                watch.touch("Zone", name)
    return not instance.dns_records.exists()


def still_there(instance: Instance) -> str:
    """Why records that are to go are not gone, as the last pass saw it; empty if it did not say."""
    leaving = instance.dns_records.filter(wanted=False).exclude(problem="")
    return leaving.values_list("problem", flat=True).first() or ""


def check_customer_records(instance: Instance, edge_addresses: Sequence[str]) -> None:
    """Look through the resolver at what the customer publishes, and note it. Raises ``Unavailable``."""
    customer.check(instance, edge_addresses)


def recheck_zone(name: DomainName) -> None:
    """Have the zone's next passes compare every record, not only those that are unsettled."""
    with transaction.atomic():
        Zone.objects.filter(name=name.ascii).update(checked_at=None, resync_from=None)
        watch.touch("Zone", name.ascii)


def summary(instance: Instance, known: Sequence[DnsRecord] | None = None) -> Summary:
    """How far the instance's records are, from the rows as the last passes left them. ``known``: if they are read."""
    wanted = [row for row in (records_of(instance) if known is None else known) if row.wanted]
    rows = [row for row in wanted if not row.published or row.conflict]
    ours = [row for row in rows if row.publisher == plan.OURS]
    # An optional record may be missing; one that is there and wrong does harm (CAA without our CA).
    missing = [row for row in rows if row.publisher == plan.CUSTOMER and not row.optional]
    harmful = [row for row in rows if row.publisher == plan.CUSTOMER and row.optional and row.conflict]
    return Summary(
        all_published=bool(wanted) and not ours and not missing and not harmful,
        conflicts=[f"{row.name} {row.type}: {row.problem}" for row in ours if row.conflict],
        problems=list(dict.fromkeys(row.problem for row in ours if row.problem and not row.conflict)),
        missing_customer=[_to_publish(row) for row in [*missing, *harmful]],
    )


def _to_publish(row: DnsRecord) -> str:
    lines = ", ".join(f"{row.name}. {row.type} {rdata}" for rdata in row.rdatas)
    return f"{lines} ({row.problem})" if row.problem else lines


def status(instance: Instance) -> list[dict[str, Any]]:
    """Each record set for the API: what is wanted, who publishes it, what is there, and what is wrong."""
    return [
        {
            "name": row.name,
            "type": row.type,
            "ttl_s": row.ttl_s,
            "rdatas": row.rdatas,
            "publisher": row.publisher,
            "zone": _zone_of(row) or None,
            "purpose": row.purpose,
            "optional": row.optional,
            "wanted": row.wanted,
            "published": row.published,
            "seen": row.seen,
            "conflict": row.conflict,
            "problem": row.problem,
            "checked_at": row.checked_at,
        }
        for row in instance.dns_records.select_related("zone").order_by("publisher", "name", "type")
    ]
