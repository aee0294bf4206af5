"""What other rooms ask of DNS: say which record sets an instance needs, have them published, look how far it is.

Only intent is written here; the zone's own pass (``reconciler``) writes zones, ``customer`` looks into others'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from controlplane import wiring
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, hold
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


def need_of(instance: Instance) -> Need:
    """The instance's row and the settings as the plan wants them."""
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
        edge_addresses=wiring.edge_addresses(),
        turn=turn,
        caa_issuer=conf["CAA_ISSUER"],
        delegate_acme=conf["ACME_CHALLENGE"] == "dns-01",
        proof_token=instance.domain.proof_token,
        proven=instance.domain.proven_at is not None,
    )


def records_for(instance: Instance) -> tuple[Wanted, ...]:
    """Every record set that this instance needs, ours and the customer's."""
    return plan.wanted_records(need_of(instance))


def challenge_targets(instance: Instance) -> dict[str, list[str]]:
    """Certificate name -> [zone, record name] where the answers to DNS-01 challenges go."""
    return plan.challenge_targets(need_of(instance))


def proof_instructions(domain: Domain) -> dict[str, Any]:
    """What a person publishes to prove control of a domain: ``name``, ``type``, ``value``."""
    return {"name": plan.proof_name(DomainName(domain.name)), "type": "TXT", "value": domain.proof_token}


def ensure_zone(name: DomainName) -> Zone:
    """The zone's row; a new one is looked at by its pass, which makes the zone where the driver can."""
    with transaction.atomic():
        zone, made = Zone.objects.get_or_create(name=name.ascii)
        if made:
            watch.touch("Zone", zone.name)
    return zone


def sync_records(*, instance: Instance, wanted: Sequence[Wanted], lease: Lease) -> bool:
    """Write which record sets the instance should have, in one transaction under the lease; True if that differs.

    Zones that have to change are touched. Raises ``LeaseLost``, and ``Conflict`` if another instance has a name.
    """
    # A look without the lease first: in most passes nothing differs, and nothing is locked.
    known = {(row.zone_id is not None, *row.key): row for row in instance.dns_records.all()}
    zones = {name: ensure_zone(name) for name in {w.zone for w in wanted if w.zone is not None}}
    by_key = {(w.zone is not None, *w.record_set.key): w for w in wanted}
    stale = [key for key, row in known.items() if row.wanted and key not in by_key]
    fresh = [w for key, w in by_key.items() if not _is_as_wanted(known.get(key), w)]
    if not stale and not fresh:
        return False
    with transaction.atomic():
        hold(lease)
        rows = {(r.zone_id is not None, *r.key): r for r in instance.dns_records.select_for_update()}
        new = []
        for want in fresh:
            row = rows.get((want.zone is not None, *want.record_set.key))
            if row is None:
                zone = zones[want.zone] if want.zone is not None else None
                new.append(_filled(DnsRecord(instance=instance, zone=zone, publisher=want.publisher), want))
            else:
                _change(row, want)
        _create(new)
        _unwant([rows[key] for key in stale if key in rows])
        for name in sorted({w.zone.ascii for w in fresh if w.zone} | {_zone_of(known[key]) for key in stale} - {""}):
            watch.touch("Zone", name)
    return True


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


def _create(rows: Sequence[DnsRecord]) -> None:
    """Insert them all. Raises ``Conflict`` if another instance has one of the names, or had it just now."""
    names = [row.name for row in rows if row.zone_id is not None]
    zones = {row.zone_id for row in rows}
    taken = {(r.zone_id, *r.key): r for r in DnsRecord.objects.filter(zone__in=zones, name__in=names)}
    for row in rows:
        holder = taken.get((row.zone_id, *row.key)) if row.zone_id is not None else None
        if holder is not None:
            raise Conflict(
                f"{row.name} {row.type} belongs to another instance ({holder.instance.key}).",
                remedy="It is free when that instance is gone.",
            )
    DnsRecord.objects.bulk_create(rows)


def _unwant(rows: Sequence[DnsRecord]) -> None:
    """The customer's rows go at once, for nothing of them is ours; the others when they are gone from the server."""
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
        with transaction.atomic():
            hold(lease)
            _unwant(list(instance.dns_records.select_for_update().filter(pk__in=[r.pk for r in due])))
            for name in sorted({_zone_of(row) for row in due} - {""}):
                watch.touch("Zone", name)
    return not instance.dns_records.exists()


def still_there(instance: Instance) -> str:
    """Why records that are to go are not gone, as the last pass saw it; empty if it did not say."""
    leaving = instance.dns_records.filter(wanted=False).exclude(problem="")
    return leaving.values_list("problem", flat=True).first() or ""


def check_customer_records(instance: Instance) -> None:
    """Look through the resolver at what the customer publishes, and note it. Raises ``Unavailable``."""
    customer.check(instance)


def recheck_zone(name: DomainName) -> None:
    """Have the zone's next passes compare every record, not only those that are unsettled."""
    with transaction.atomic():
        Zone.objects.filter(name=name.ascii).update(checked_at=None, resync_from=None)
        watch.touch("Zone", name.ascii)


def summary(instance: Instance) -> Summary:
    """How far the instance's records are, from the rows as the last passes left them."""
    wanted = instance.dns_records.filter(wanted=True)
    rows = list(wanted.filter(Q(published=False) | Q(conflict=True)))
    ours = [row for row in rows if row.publisher == plan.OURS]
    # An optional record may be missing; one that is there and wrong does harm (CAA without our CA).
    missing = [row for row in rows if row.publisher == plan.CUSTOMER and not row.optional]
    harmful = [row for row in rows if row.publisher == plan.CUSTOMER and row.optional and row.conflict]
    return Summary(
        all_published=wanted.exists() and not ours and not missing and not harmful,
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
