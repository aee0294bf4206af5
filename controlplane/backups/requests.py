"""What people and programs may ask of backups: make one now, call one off, pin one. One transaction and audit each."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from controlplane.backups import repositories
from controlplane.backups.models import Backup, Repository
from controlplane.reconcile import history, watch
from controlplane.values.errors import InvalidInput
from tenants import audit
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import Principal

#: Of one instance, waiting or under way, asked for by people.
MAX_OPEN = 5


@transaction.atomic
def request_backup(
    *, instance: Instance, principal: Principal, kind: str = Backup.FULL, trigger: str = Backup.MANUAL
) -> Backup:
    """Have one made now. One of that kind and trigger that waits already is it.

    ``WrongState`` if the instance does not run, or too many wait. ``Rejected`` (``NoPlace``) if there is no place.
    """
    if kind not in dict(Backup.KINDS):
        raise InvalidInput("kind", "There is no such kind of backup.", remedy="Use full or members.")
    if not instance.should_run:
        raise WrongState(f"{instance.domain.name} does not run.", remedy="Resume it first; what was saved is kept.")
    repository = repositories.ensure(instance)
    Repository.objects.select_for_update().get(pk=repository.pk)
    open_ones = repository.backups.filter(state__in=Backup.OPEN)
    there = open_ones.filter(kind=kind, trigger=trigger, state=Backup.WAITING, attempts=0).first()
    if there is not None:
        return there
    if open_ones.count() >= MAX_OPEN:
        raise WrongState("Enough backups of this instance wait already.", remedy="Wait for one, or call one off.")
    made = Backup.objects.create(repository=repository, kind=kind, trigger=trigger, requested_by=principal.name[:200])
    watch.touch("Backup", made.key)
    note(made, principal, "backup.request", f"Backup ({kind}) asked for")
    return made


@transaction.atomic
def cancel_backup(*, backup: Backup, principal: Principal) -> Backup:
    """Call off one that waits or is being made; nothing of it stays. ``WrongState`` if it is over."""
    row = Backup.objects.select_for_update(of=("self",)).select_related("repository").get(pk=backup.pk)
    if row.state not in Backup.OPEN:
        raise WrongState(f"The backup is {row.get_state_display()}.")
    if row.cancel_requested_at is None:
        row.cancel_requested_at = timezone.now()
        row.save(update_fields=["cancel_requested_at"])
        watch.touch("Backup", row.key)
        note(row, principal, "backup.cancel", "Backup called off")
    return row


@transaction.atomic
def pin_backup(*, backup: Backup, principal: Principal, pinned: bool = True) -> Backup:
    """A pinned one is kept whatever the retention says. ``WrongState`` if it is not there."""
    row = Backup.objects.select_for_update(of=("self",)).select_related("repository").get(pk=backup.pk)
    if pinned and row.state != Backup.DONE:
        raise WrongState(f"The backup is {row.get_state_display()}.")
    if row.pinned != pinned:
        row.pinned = pinned
        row.save(update_fields=["pinned"])
        verb = "pin" if pinned else "unpin"
        note(row, principal, f"backup.{verb}", "Backup pinned" if pinned else "Backup no longer pinned")
    return row


def give_up(backup: Backup, why: str) -> bool:
    """Within a transaction: it will not be made any more. False if it is over, or being made, by now."""
    changed = Backup.objects.filter(pk=backup.pk, state=Backup.WAITING).update(
        state=Backup.FAILED,
        finished_at=timezone.now(),
        progress={},
        error=f"{why} {backup.error}".strip(),
    )
    return bool(changed)


def note(backup: Backup, principal: Principal, action: str, summary: str) -> None:
    """Audit, and the instance's history."""
    repository = backup.repository
    scope = repository.organisation_slug if repository.organisation_id else ""
    audit.record(
        principal=principal,
        action=action,
        kind="Backup",
        object_id=backup.key,
        organisation=scope,
        summary=f"{repository.domain}: {summary}",
        data={"kind": backup.kind, "trigger": backup.trigger},
    )
    history.record("Instance", repository.instance_key, "Backup", scope=scope, reason=backup.kind, message=summary)
