"""The clock of an instance's backups: begins what is due, and says whether what is there is as fresh as it should be.

A pass compares the time with the last success, so a run that was missed is noticed although nothing ran. It works on
the queue of the reconcilers and not on that of the backups: it goes on when those are stuck.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass, field

from django.db import transaction
from django.utils import timezone

from controlplane.backups import drills, repositories, requests
from controlplane.backups.models import Backup, Repository
from controlplane.backups.policy import Rules, rules_of
from controlplane.reconcile import conditions, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition, WorkItem
from controlplane.reconcile.step import Finding
from controlplane.reconcile.watch import Next
from tenants import audit
from tenants.models import Instance
from tenants.principal import SYSTEM

log = logging.getLogger(__name__)

RESYNC_S = 900.0
#: A backup is late if it is not there so long after it should have begun.
GRACE = {Backup.FULL: datetime.timedelta(hours=2), Backup.MEMBERS: datetime.timedelta(minutes=30)}
#: So many failed attempts in a row are told.
TOLD_AFTER = 3
CONDITION = {Backup.FULL: "BackedUp", Backup.MEMBERS: "MembersSaved"}
#: The order in which people see them.
ORDER = ("BackedUp", "MembersSaved", "RepositorySound", "BackupProven")
_WORD = {Backup.FULL: "backup", Backup.MEMBERS: "backup of members and rooms"}


@dataclass(slots=True)
class Seen:
    """What there is of one kind. ``covered``: all until then is in a backup that is there."""

    kind: str
    covered: datetime.datetime | None = None
    open: Backup | None = None
    newest: Backup | None = None
    slots: set[datetime.datetime] = field(default_factory=set)


def reconcile(lease: Lease) -> Next | None:
    """One look at the clock. None: the instance is gone, and its repository is on its way out."""
    instance = Instance.objects.whole().filter(key=lease.object_id).first()
    if instance is None:
        _end(lease)
        return None
    return look(instance, lease, timezone.now())


def look(instance: Instance, lease: Lease, now: datetime.datetime) -> Next:
    """Begin what is due at ``now``, and write what is so."""
    rules = rules_of(instance)
    try:
        repository = repositories.ensure(instance)
    except repositories.NoPlace as error:
        finding = Finding("BackedUp", "False", "NoPlace", error.message, error.remedy, stalled=True)
        conditions.write(
            lease, [finding], generation=instance.generation, scope=instance.organisation.slug, order=ORDER
        )
        return Next(RESYNC_S)
    if repository.expire_days != rules.expire_days:
        Repository.objects.filter(pk=repository.pk).update(expire_days=rules.expire_days)
    runs = _runs(instance)
    findings = []
    for kind in (Backup.FULL, Backup.MEMBERS):
        seen = see(repository, kind)
        if runs and rules.paused_at is None:
            _begin(instance, repository, rules, seen, lease, now)
        findings.append(assess(instance, rules, seen, now, runs=runs))
    findings.append(_sound(repository))
    findings.append(drills.tend(instance, repository, rules, lease, now))
    conditions.write(lease, findings, generation=instance.generation, scope=instance.organisation.slug, order=ORDER)
    return Next(_next_s(instance, rules, now))


def see(repository: Repository, kind: str) -> Seen:
    """What there is. A full backup covers what one of members would."""
    seen = Seen(kind)
    rows = repository.backups.filter(kind=kind)
    covering = repository.backups.filter(state=Backup.DONE) if kind == Backup.MEMBERS else rows.filter(state="done")
    newest = covering.exclude(moment=None).order_by("-moment").first()
    seen.covered = newest.moment if newest is not None else None
    seen.open = rows.filter(state__in=Backup.OPEN).order_by("created_at").first()
    seen.newest = rows.exclude(state__in=Backup.OPEN).order_by("-created_at", "-id").first()
    recent = rows.exclude(due_for=None).order_by("-due_for").values_list("due_for", flat=True)[:3]
    seen.slots = {slot for slot in recent if slot is not None}
    return seen


def due(instance: Instance, rules: Rules, seen: Seen, now: datetime.datetime) -> tuple[bool, datetime.datetime | None]:
    """Whether one has to be begun now, and for which time of the schedule (None: the very first)."""
    if not rules.cron(seen.kind):
        return False, None
    if seen.kind == Backup.FULL and seen.newest is None and seen.open is None:
        return True, None
    slot = rules.last(seen.kind, now - rules.jitter(instance.key, seen.kind))
    if slot is None or slot < instance.created_at or slot in seen.slots:
        return False, slot
    return seen.covered is None or seen.covered < slot, slot


def _begin(
    instance: Instance, repository: Repository, rules: Rules, seen: Seen, lease: Lease, now: datetime.datetime
) -> None:
    wanted, slot = due(instance, rules, seen, now)
    if not wanted or (seen.kind == Backup.MEMBERS and seen.covered is None):
        return
    running = seen.open
    if running is not None and (running.state == Backup.RUNNING or running.due_for is None or not running.attempts):
        return  # what is under way, or waits for its turn, will cover this time too
    with transaction.atomic():
        leases.hold(lease)
        if running is not None and not requests.give_up(running, "Its time is over, and the next one is due."):
            return
        made = Backup.objects.create(
            repository=repository, kind=seen.kind, trigger=Backup.SCHEDULE, due_for=slot, requested_by="roost"
        )
        watch.touch("Backup", made.key)
        if slot is not None and now > slot + rules.jitter(instance.key, seen.kind) + GRACE[seen.kind]:
            history.record(
                "Instance",
                instance.key,
                "BackupMissed",
                scope=instance.organisation.slug,
                reason=seen.kind,
                message=f"The {_WORD[seen.kind]} of {slot:%Y-%m-%d %H:%M} UTC was missed; it is made now.",
            )
    seen.open = made


def assess(instance: Instance, rules: Rules, seen: Seen, now: datetime.datetime, *, runs: bool = True) -> Finding:
    """The condition of one kind at ``now``. Pure, so that whoever shows it may ask at any moment."""
    name, word = CONDITION[seen.kind], _WORD[seen.kind]
    last = f"The last {word} has all until {seen.covered:%Y-%m-%d %H:%M:%S} UTC." if seen.covered else ""
    if rules.paused_at is not None:
        why = f": {rules.paused_reason}" if rules.paused_reason else "."
        message = f"Backups are paused since {rules.paused_at:%Y-%m-%d %H:%M} UTC{why} {last}".strip()
        return Finding(name, "Unknown", "Paused", message, "Resume them.")
    if not rules.cron(seen.kind):
        return Finding(name, "Unknown", "Off", f"The schedule has no {word}. {last}".strip())
    trouble = _trouble(seen)
    if trouble is not None:
        message = f"The {word} fails ({trouble.attempts} attempts): {trouble.error} {last}".strip()
        return Finding(name, "False", "Failing", message, trouble.remedy)
    grace = rules.jitter(instance.key, seen.kind) + GRACE[seen.kind]
    if seen.covered is None:
        if now < instance.created_at + grace:
            return Finding(name, "Unknown", "Waiting", f"The first {word} is on its way.")
        return Finding(name, "False", "Never", f"There is no {word} yet.", _remedy(runs))
    slot = rules.last(seen.kind, now - grace)
    if slot is not None and seen.covered < slot and slot >= instance.created_at:
        if not runs:
            return Finding(name, "Unknown", "NotRunning", f"Its server does not run: nothing is added. {last}")
        message = f"The {word} of {slot:%Y-%m-%d %H:%M} UTC is missing. {last}"
        return Finding(name, "False", "Late", message, _remedy(runs))
    return Finding(name, "True", "Fresh", last)


def _trouble(seen: Seen) -> Backup | None:
    """The backup that fails, if none was made since."""
    if seen.open is not None and seen.open.attempts >= TOLD_AFTER:
        return seen.open
    if seen.newest is not None and seen.newest.state == Backup.FAILED:
        began = seen.newest.finished_at or seen.newest.created_at
        if seen.covered is None or began > seen.covered:
            return seen.newest
    return None


def _remedy(runs: bool) -> str:
    if not runs:
        return "It is made as soon as its server runs."
    return "It is made as soon as a worker of the queue «backup» has time: see that one runs."


def _sound(repository: Repository) -> Finding:
    if repository.check_errors:
        message = f"The check found {len(repository.check_errors)} errors: {repository.check_errors[0]}"
        remedy = "Look at the storage, and take a new backup to another place: docs/backups.md."
        return Finding("RepositorySound", "False", "Damaged", message[:1000], remedy, stalled=True)
    if repository.checked_at is None:
        return Finding("RepositorySound", "Unknown", "NotChecked", "It was not checked yet.")
    return Finding("RepositorySound", "True", "Sound", "The last check found nothing.")


def _runs(instance: Instance) -> bool:
    """Its server can be asked, as its own pass found."""
    there = Condition.objects.filter(kind="Instance", object_id=instance.key, type="ServerRunning", status="True")
    return instance.should_run and there.exists()


def _next_s(instance: Instance, rules: Rules, now: datetime.datetime) -> float:
    """Until something of it changes by time alone."""
    soonest = RESYNC_S
    for kind in (Backup.FULL, Backup.MEMBERS):
        jitter = rules.jitter(instance.key, kind)
        for later in (jitter, jitter + GRACE[kind]):
            at = rules.next_after(kind, now - later)
            if at is not None:
                soonest = min(soonest, (at + later - now).total_seconds())
    return max(1.0, soonest + 0.5)


def _end(lease: Lease) -> None:
    """The instance is gone: its repository is kept until it expires."""
    now = timezone.now()
    with transaction.atomic():
        leases.hold(lease)
        for row in Repository.objects.select_for_update().filter(instance_key=lease.object_id, terminated_at=None):
            row.terminated_at = now
            row.expires_at = now + datetime.timedelta(days=row.expire_days)
            row.save(update_fields=["terminated_at", "expires_at"])
            for backup in row.backups.filter(state__in=Backup.OPEN):
                requests.give_up(backup, "Its instance is gone.")
            watch.touch("Repository", row.key)
            summary = f"Backups of {row.domain} are kept until {row.expires_at:%Y-%m-%d %H:%M} UTC, and removed then"
            audit.record(
                principal=SYSTEM,
                action="backup_repository.keep",
                kind="BackupRepository",
                object_id=row.key,
                organisation=row.organisation_slug,
                summary=summary,
                data={"expires_at": row.expires_at.isoformat()},
            )
        leases.forget(lease.kind, lease.object_id)
        watch.changed(lease.kind, lease.object_id)


def adopt() -> int:
    """Give every instance that has none yet its clock; how many. Housekeeping asks, so none is ever left out."""
    known = WorkItem.objects.filter(kind="Backups").values("object_id")
    keys = list(Instance.objects.exclude(key__in=known).order_by("key").values_list("key", flat=True)[:10_000])
    with transaction.atomic():
        watch.touch_all("Backups", keys, spread_s=60)
    return len(keys)
