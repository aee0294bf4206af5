"""When backups are proven, and whether they are: each instance's newest is restored aside and compared, now and then.

The proof itself is ``drilling``'s. What comes of it is the condition ``BackupProven``, and times on the repository.
"""

from __future__ import annotations

import datetime

from django.db import transaction
from django.utils import timezone

from controlplane.backups import schedule
from controlplane.backups.models import Backup, Drill, Repository
from controlplane.backups.policy import Rules
from controlplane.reconcile import history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import Finding
from tenants import audit
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import SYSTEM, Principal

KIND, CONDITION = "Drill", "BackupProven"
#: After one that failed or could not be carried out the next comes sooner than the schedule says.
AGAIN = datetime.timedelta(days=1)
#: A proof is old if the next is so much later than it should be.
GRACE = datetime.timedelta(days=2)


@transaction.atomic
def request_drill(
    *, instance: Instance, principal: Principal, backup: Backup | None = None, trigger: str = Backup.MANUAL
) -> Drill:
    """Have a backup (by default the newest full one) proven. One that waits or runs already is it.

    ``WrongState`` if there is no backup, or that one is not there.
    """
    repository = Repository.objects.select_for_update().filter(instance=instance).first()
    if repository is None:
        raise WrongState("There is no backup yet.", remedy="Wait for the first, or ask for one.")
    present = repository.drills.filter(state__in=Drill.OPEN).first()
    if present is not None:
        return present
    wanted = backup or newest(repository)
    if wanted is None or wanted.state != Backup.DONE or wanted.repository_id != repository.pk:
        raise WrongState("There is no such backup.", remedy="Choose one that is done.")
    made = Drill.objects.create(
        repository=repository, backup=wanted, trigger=trigger, requested_by=principal.name[:200]
    )
    watch.touch(KIND, made.key)
    if trigger == Backup.MANUAL:
        note(made, principal, "drill.request", f"A drill with the backup {wanted.key} asked for")
    return made


@transaction.atomic
def cancel_drill(*, drill: Drill, principal: Principal) -> Drill:
    """Call it off. ``WrongState`` if it is over."""
    row = Drill.objects.select_for_update(of=("self",)).select_related("repository").get(pk=drill.pk)
    if row.state not in Drill.OPEN:
        raise WrongState(f"The drill is over: {row.get_state_display()}.")
    if row.cancel_requested_at is None:
        row.cancel_requested_at = timezone.now()
        row.save(update_fields=["cancel_requested_at"])
        watch.touch(KIND, row.key)
        note(row, principal, "drill.cancel", "The drill was called off")
    return row


def newest(repository: Repository) -> Backup | None:
    rows = repository.backups.filter(kind=Backup.FULL, state=Backup.DONE).exclude(moment=None)
    return rows.order_by("-moment").first()


def tend(instance: Instance, repository: Repository, rules: Rules, lease: Lease, now: datetime.datetime) -> Finding:
    """Ask for a drill if one is due, and say whether the backups are proven. ``lease``: of the instance's backups."""
    last = repository.drills.exclude(state__in=[*Drill.OPEN, Drill.CANCELLED]).order_by("-finished_at").first()
    opened = repository.drills.filter(state__in=Drill.OPEN).first()
    present = newest(repository)
    if opened is None and present is not None and instance.should_run and _due(instance, rules, last, present, now):
        with transaction.atomic():
            leases.hold(lease)
            opened = request_drill(instance=instance, principal=SYSTEM, trigger=Backup.SCHEDULE)
    return assess(repository, rules, last, now)


def _due(instance: Instance, rules: Rules, last: Drill | None, present: Backup, now: datetime.datetime) -> bool:
    if not rules.drill_days or rules.paused_at is not None:
        return False
    every = datetime.timedelta(days=rules.drill_days)
    if last is None or last.finished_at is None:
        # The first one follows the first backup, each instance's at a time of its own.
        spread = schedule.jitter(instance.key, "drill", int(min(every, AGAIN).total_seconds()))
        return (present.finished_at or now) + spread <= now
    if last.state != Drill.PASSED:
        return last.finished_at + AGAIN <= now
    # A fortieth more or less, always the same for one instance, so that not all are due in the same night.
    spread = schedule.jitter(instance.key, "drill", int(every.total_seconds() / 20)) - every / 40
    return last.finished_at + every + spread <= now


def assess(repository: Repository, rules: Rules, last: Drill | None, now: datetime.datetime) -> Finding:
    """The condition at ``now``. Pure but for what it is given."""
    proven = f"Last proven {repository.proven_at:%Y-%m-%d %H:%M} UTC." if repository.proven_at else ""
    if last is not None and last.state == Drill.FAILED:
        first = "; ".join(last.result.get("differences", [])[:3])
        message = f"The drill of {last.finished_at:%Y-%m-%d %H:%M} UTC found that it is not as it was saved: {first}"
        return Finding(
            CONDITION,
            "False",
            "Failed",
            f"{message}. {proven}".strip()[:1000],
            "Look at the drill and at the repository, and take a new backup: docs/backups.md.",
            stalled=True,
        )
    if last is not None and last.state == Drill.BROKEN:
        message = f"The last drill could not be carried out: {last.error} {proven}".strip()
        return Finding(CONDITION, "False", "Broken", message[:1000], last.remedy)
    if repository.proven_at is None:
        if not rules.drill_days:
            return Finding(CONDITION, "Unknown", "Off", "The policy has no drills.")
        return Finding(CONDITION, "Unknown", "Never", "No backup was proven yet.")
    every = datetime.timedelta(days=rules.drill_days)
    if rules.drill_days and repository.proven_at + every + every / 20 + GRACE < now:
        return Finding(CONDITION, "False", "Due", f"A drill is overdue. {proven}", "See that a backup worker runs.")
    return Finding(CONDITION, "True", "Proven", f"{proven} {times(repository)}".strip())


def times(repository: Repository) -> str:
    """What was measured then, in words."""
    if repository.rpo_s is None or repository.rto_s is None:
        return ""
    return f"What was restored was {repository.rpo_s / 60:.0f} min old, and there again after {repository.rto_s:.0f} s."


def note(drill: Drill, principal: Principal, action: str, summary: str) -> None:
    """Audit, and the instance's history."""
    repository = drill.repository
    scope = repository.organisation_slug if repository.organisation_id else ""
    audit.record(
        principal=principal,
        action=action,
        kind="Drill",
        object_id=drill.key,
        organisation=scope,
        summary=f"{repository.domain}: {summary}"[:400],
    )
    history.record("Instance", repository.instance_key, "Drill", scope=scope, reason=drill.state, message=summary)
