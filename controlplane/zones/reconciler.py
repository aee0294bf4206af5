"""A zone's pass: brings the record sets of all instances to the server in one request, and looks if they are there.

Reads what the server holds, decides (``decide``), notes what is about to be created, applies, asks every
authoritative server, and only then writes what is published. Instances whose records changed are woken.
Settled records are compared again once in a while, a slice in each pass and after the unsettled ones.
"""

from __future__ import annotations

import datetime
import logging
import random
from collections.abc import Sequence

from django.conf import settings
from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.dns.base import DnsDriver
from controlplane.probes import recordsets
from controlplane.reconcile import conditions, faults, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.step import Finding, backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import Conflict, Rejected, RoostError, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.records import RecordSet
from controlplane.zones import writing
from controlplane.zones.decide import Verdict, decide, keys_to_read
from controlplane.zones.models import DnsRecord, Zone

log = logging.getLogger(__name__)

#: Published by hand, or refused: people mend things without telling us.
RECHECK_S = 60.0
#: Not at all servers yet: secondaries take moments.
PROPAGATION_S = 0.5
#: After so many questions (about 1 s) the lease is renewed, so that any number is looked at in one pass.
QUESTIONS = 1000
#: So many settled records are compared in a pass (about 2 s for each server): new ones wait no longer than that.
SLICE = 2000
#: The pause before the next slice.
SLICE_S = 1.0

UNSETTLED = Q(wanted=False) | Q(published=False)


def reconcile(lease: Lease) -> Next | None:
    """One pass over the zone named by the lease. None: nobody wants the zone any more."""
    zone = Zone.objects.filter(name=lease.object_id).first()
    if zone is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    if zone.resync_from is None and _resync_due(zone):
        zone.resync_from = _begin_resync(zone, lease)
    rows: list[DnsRecord] = []
    try:
        rows = list(_records(zone).filter(UNSETTLED))
        verdicts = _work(zone, rows, lease)
        _store(verdicts, lease)
        if zone.resync_from is not None:  # what is new is published by now
            rows = list(_remaining(zone, zone.resync_from)[:SLICE])
            compared = _work(zone, rows, lease, make=False)
            _store(compared, lease)
            verdicts += compared
    except RoostError as error:
        return _failed(rows, lease, error)
    more = zone.resync_from is not None and not _end_resync(zone, zone.resync_from, lease)
    return _finish(zone, lease, late=any(verdict.late for verdict in verdicts), more=more)


def _records(zone: Zone) -> QuerySet[DnsRecord]:
    return DnsRecord.objects.filter(zone=zone).select_related("instance")


def _resync_due(zone: Zone) -> bool:
    oldest = timezone.now() - datetime.timedelta(seconds=settings.ROOST["RESYNC_S"] * 0.9)
    return zone.checked_at is None or zone.checked_at < oldest


def _begin_resync(zone: Zone, lease: Lease) -> datetime.datetime:
    now = timezone.now()
    with holding(lease):
        Zone.objects.filter(pk=zone.pk).update(resync_from=now)
    return now


def _remaining(zone: Zone, since: datetime.datetime) -> QuerySet[DnsRecord]:
    """Settled records that this comparison of all has not reached; those longest unseen first."""
    settled = _records(zone).exclude(UNSETTLED).filter(Q(checked_at__isnull=True) | Q(checked_at__lt=since))
    return settled.order_by(F("checked_at").asc(nulls_first=True), "pk")


def _end_resync(zone: Zone, since: datetime.datetime, lease: Lease) -> bool:
    """True if nothing is left to compare; that is noted unless somebody asked for another round meanwhile."""
    if _remaining(zone, since).exists():
        return False
    with holding(lease):
        Zone.objects.filter(pk=zone.pk, resync_from=since).update(checked_at=since, resync_from=None)
    return True


def _work(zone: Zone, rows: Sequence[DnsRecord], lease: Lease, *, make: bool = True) -> list[Verdict]:
    """Bring these records about; the zone itself too (``make``) if it was never compared."""
    name, driver = DomainName(zone.name), wiring.dns_driver()
    if make and zone.checked_at is None and driver.can_write and not driver.zone_exists(name):
        driver.create_zone(name, settings.ROOST["DNS_NAMESERVERS"])
    if not rows:
        return []
    # Others' disabled records matter where we make something, our own where we remove it: only there it is worth it.
    held = driver.read(name, keys_to_read(rows), unserved=any(row.created_by_us != row.wanted for row in rows))
    verdicts = decide(rows, held, zone=zone.name, exact_ttl=driver.exact_ttl)
    if not driver.can_write:
        return [_by_hand(verdict) for verdict in verdicts]
    due = [verdict for verdict in verdicts if verdict.change is not None]
    if due:
        _note_attempts(due, lease)
        faults.point("before-zone-apply")
        _apply(driver, name, due)
        faults.point("after-zone-apply")
        log.info("%s: %d record sets written", zone.name, sum(v.change is not None for v in due))
    _look(name, [verdict for verdict in verdicts if verdict.wants_look], lease)
    return verdicts


def _by_hand(verdict: Verdict) -> Verdict:
    """Nobody but a person writes this zone: say what is missing; what is not wanted any more is theirs to remove."""
    row = verdict.row
    there = frozenset(verdict.seen)
    if not row.wanted:
        return Verdict(row, gone=True, seen=verdict.seen)
    if there == frozenset(row.rdatas):
        return Verdict(row, seen=verdict.seen)
    lines = ", ".join(f"{row.name}. {row.type} {rdata}" for rdata in row.rdatas)
    return Verdict(row, problem=f"Publish {lines}.", seen=verdict.seen)


def _note_attempts(due: Sequence[Verdict], lease: Lease) -> None:
    """Intent before the outside: after a crash the next pass knows its own work by this."""
    with holding(lease):
        writing.note_attempts(due)


def _apply(driver: DnsDriver, zone: DomainName, due: Sequence[Verdict]) -> None:
    """All in one request; if the server refuses it, in halves, until those that it refuses are found."""
    try:
        driver.apply(zone, [verdict.change for verdict in due if verdict.change is not None])
    except (Rejected, Conflict) as error:
        if len(due) > 1:
            middle = len(due) // 2  # deletions are in front, so they still come first
            _apply(driver, zone, due[:middle])
            _apply(driver, zone, due[middle:])
            return
        due[0].conflict = isinstance(error, Conflict)
        due[0].problem = str(error)
        due[0].change = None
        return
    for verdict in due:
        verdict.owned = True


def _look(zone: DomainName, verdicts: Sequence[Verdict], lease: Lease) -> None:
    """Ask every authoritative server; what one lacks, or still has, becomes the record's problem."""
    if not verdicts:
        return
    servers = wiring.authoritative_servers() or recordsets.nameservers(zone.ascii, wiring.resolver())
    for start in range(0, len(verdicts), QUESTIONS):
        part = verdicts[start : start + QUESTIONS]
        for server in servers:
            seen = recordsets.at_server(server, [verdict.row.key for verdict in part])
            for verdict in part:
                _compare(verdict, seen.get(verdict.row.key), f"{server[0]}:{server[1]}")
        leases.renew(lease)  # if it is lost, the write at the end finds out
    for verdict in verdicts:
        verdict.gone = verdict.gone or (not verdict.row.wanted and not verdict.problem)


def _compare(verdict: Verdict, there: RecordSet | None, server: str) -> None:
    """Note what one server has of one record."""
    row = verdict.row
    if row.wanted:
        verdict.seen = sorted(there.rdatas) if there is not None else []
        verdict.late = verdict.late or not row.record_set().same_data(there)
        problem = "is not yet"
    else:
        # What we deleted has to be gone; other data there is a wildcard's, or came from somebody else.
        old = (frozenset(row.rdatas), frozenset(row.seen), frozenset(verdict.seen))
        verdict.late = verdict.late or (verdict.owned and there is not None and there.rdatas in old)
        problem = "is still"
    if verdict.late and not verdict.problem:
        verdict.problem = f"{row.name} {row.type} {problem} at {server}."


def _store(verdicts: Sequence[Verdict], lease: Lease) -> None:
    """Write what was found, each row only if it is still the revision that was looked at."""
    if not verdicts:
        return
    with holding(lease):
        watch.touch_now("Instance", writing.store(verdicts, timezone.now()))


def _failed(rows: Sequence[DnsRecord], lease: Lease, error: RoostError) -> Next:
    """The server does not answer or refuses all: the condition and each unsettled record say why."""
    message = str(error)
    told = [row for row in rows if not row.published and row.problem != message]
    if told:
        with holding(lease):
            by_revision: dict[int, list[int]] = {}
            for row in told:
                by_revision.setdefault(row.revision, []).append(row.pk)
            for revision, some in by_revision.items():
                DnsRecord.objects.filter(pk__in=some, revision=revision).update(problem=message, conflict=False)
            watch.touch_now("Instance", {row.instance.key for row in told})
    waits = isinstance(error, Unavailable)
    reason = "Unavailable" if waits else type(error).__name__
    finding = Finding("Published", "False", reason, error.message, error.remedy, stalled=not waits)
    conditions.write(lease, [finding], generation=0)
    retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else RECHECK_S
    return Next(backoff_s(lease.attempts) if retry_after_s is None else retry_after_s, failed=True)


def _finish(zone: Zone, lease: Lease, *, late: bool, more: bool) -> Next:
    """The zone's condition over all of its records, and when to look again. ``more``: settled ones are to come."""
    counts = zone.records.aggregate(
        total=Count("pk"),
        conflicts=Count("pk", filter=UNSETTLED & Q(conflict=True)),
        waiting=Count("pk", filter=UNSETTLED & Q(conflict=False)),
    )
    total, conflicts, waiting = counts["total"], counts["conflicts"], counts["waiting"]
    if waiting:
        open_rows = zone.records.filter(UNSETTLED, conflict=False)
        text = open_rows.exclude(problem="").values_list("problem", flat=True).first()
        finding = Finding(
            "Published", "False", "Publishing", f"{waiting} of {total} record sets are open. {text or ''}"
        )
        after_s = max(PROPAGATION_S, min(backoff_s(lease.attempts), RECHECK_S)) if late else RECHECK_S
        conditions.write(lease, [finding], generation=0)
        return Next(SLICE_S) if more else Next(after_s, failed=True)
    after_s = settings.ROOST["RESYNC_S"] * (0.9 + random.random() / 5)
    if conflicts:
        message = f"{conflicts} of {total} record sets are taken by records that Roost did not make."
        remedy = "Remove those records from the zone, or rename the instance; see the instances' DNS status."
        finding = Finding("Published", "False", "Conflict", message, remedy, stalled=True)
        after_s = min(after_s, RECHECK_S)
    else:
        finding = Finding("Published", "True", "Published", f"{total} record sets are at every authoritative server.")
    conditions.write(lease, [finding], generation=0)
    return Next(SLICE_S if more else after_s)
