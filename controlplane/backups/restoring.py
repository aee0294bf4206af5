"""What people and programs may ask of restores: have one previewed, confirm it, call it off.

One transaction and audit each; what is asked for is done by the restore's own pass (``restores``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from controlplane.backups import selection as selections
from controlplane.backups.models import Backup, Restore
from controlplane.fleet.models import Node, Placement
from controlplane.reconcile import history, watch
from controlplane.values.errors import InvalidInput
from tenants import audit
from tenants.errors import Missing, WrongState
from tenants.models import ENGINES, Instance
from tenants.principal import Principal

KIND = "Restore"
#: Of one instance, previewed or under way.
MAX_OPEN = 3
#: Beside what is brought back: where, and two things that somebody has to say explicitly: that what was not foreseen
#: may be lost, and that the present state is gone, so that it is neither compared nor saved.
WHERE = ("engine", "node", "keep_going", "unseen")


@transaction.atomic
def request_restore(
    *, instance: Instance, backup: Backup, mode: str, selection: Mapping[str, Any], principal: Principal
) -> Restore:
    """Have a restore into ``instance`` previewed. Nothing is changed before ``confirm_restore``.

    ``selection``: for parts, see ``selection``; for all, "engine" and "node" (the operator's alone) if they are to be
    others. ``InvalidInput`` for what does not fit, ``WrongState`` if the backup is not there or the server not running.
    """
    clean = _clean(mode, dict(selection), principal)
    _fits(instance, backup, mode, principal)
    if not instance.should_run:
        raise WrongState(f"{instance.domain.name} does not run.", remedy="Resume it first.")
    Instance.objects.select_for_update(of=("self",), no_key=True).get(pk=instance.pk)
    if Restore.objects.filter(instance=instance, state__in=Restore.OPEN).count() >= MAX_OPEN:
        raise WrongState("Enough restores of this instance wait already.", remedy="Confirm one, or call one off.")
    made = Restore.objects.create(
        repository=backup.repository,
        backup=backup,
        instance=instance,
        instance_key=instance.key,
        mode=mode,
        selection=clean,
        requested_by=principal.name[:200],
    )
    note(made, principal, "restore.request", f"A restore of the backup {backup.key} asked for")
    watch.touch(KIND, made.key)
    return made


def _clean(mode: str, given: dict[str, Any], principal: Principal) -> dict[str, Any]:
    if mode not in dict(Restore.MODES):
        raise InvalidInput("mode", "There is no such way to restore.", remedy="Use in_place, new_instance or part.")
    if mode == Restore.PART:
        return selections.as_json(selections.from_json(given, whole=False))
    clean: dict[str, Any] = {}
    for flag in ("keep_going", "unseen"):
        value = given.pop(flag, False)
        if not isinstance(value, bool):
            raise InvalidInput(f"selection.{flag}", "Say true or false.")
        clean |= {flag: True} if value else {}
    engine, node = given.pop("engine", None), given.pop("node", None)
    if given:
        raise InvalidInput(f"selection.{min(given)[:40]}", "A whole instance has no such choice.")
    if engine is not None:
        if engine not in dict(ENGINES):
            raise InvalidInput(
                "selection.engine", "There is no such engine.", remedy=f"Use {', '.join(dict(ENGINES))}."
            )
        clean["engine"] = engine
    if node is not None:
        # Which machines there are is the operator's business.
        if not principal.is_operator or not Node.objects.carrying().filter(name=str(node)[:50]).exists():
            raise InvalidInput("selection.node", "There is no such node.")
        clean["node"] = node
    return clean


def _fits(instance: Instance, backup: Backup, mode: str, principal: Principal) -> None:
    repository = backup.repository
    if backup.state != Backup.DONE:
        raise WrongState(f"The backup is {backup.get_state_display()}.", remedy="Choose one that is there.")
    if mode != Restore.PART and backup.kind != Backup.FULL:
        raise InvalidInput("backup", "That backup has no archives and files.", remedy="Choose a full one, or parts.")
    own = repository.instance_id == instance.pk
    if mode == Restore.IN_PLACE and not own:
        raise InvalidInput("backup", "That backup is another instance's.", remedy="Use the mode new_instance.")
    if mode == Restore.NEW_INSTANCE and own:
        raise InvalidInput("backup", "That backup is this instance's own.", remedy="Use the mode in_place.")
    if not own and repository.organisation_id != instance.organisation_id and not principal.is_operator:
        raise Missing("There is no such backup.")


@transaction.atomic
def confirm_restore(*, restore: Restore, principal: Principal) -> Restore:
    """Have it done as previewed. ``WrongState`` if it is not previewed, or another one is under way."""
    row = _held(restore)
    if row.state in (Restore.WAITING, Restore.RUNNING):
        return row
    if row.state != Restore.PREVIEWED:
        raise WrongState(f"The restore {row.get_state_display()}.", remedy="Ask for a preview, and confirm that.")
    row.state, row.confirmed_at = Restore.WAITING, timezone.now()
    try:
        with transaction.atomic():
            row.save(update_fields=["state", "confirmed_at"])
    except IntegrityError as error:
        raise WrongState("Another restore of this instance is under way.", remedy="Wait for its end.") from error
    note(row, principal, "restore.confirm", "The restore was confirmed")
    watch.touch(KIND, row.key)
    return row


@transaction.atomic
def cancel_restore(*, restore: Restore, principal: Principal) -> Restore:
    """Call it off; what was built aside goes. ``WrongState`` once the restored state serves, or it is over."""
    row = _held(restore)
    if row.state not in Restore.OPEN:
        raise WrongState(f"The restore {row.get_state_display()}.")
    if row.switched_at is not None:
        raise WrongState(
            "The restored state serves already.", remedy="Restore the safety backup, which has the state before."
        )
    if row.cancel_requested_at is None:
        row.cancel_requested_at = timezone.now()
        row.save(update_fields=["cancel_requested_at"])
        note(row, principal, "restore.cancel", "The restore was called off")
        watch.touch(KIND, row.key)
    return row


def concerned_by(backup_key: str) -> list[tuple[str, str]]:
    """Restores that wait for this backup, or keep what an instance had before until there is a newer one."""
    waiting = Restore.objects.filter(safety__key=backup_key, state__in=Restore.OPEN).values_list("key", flat=True)
    kept = Placement.objects.filter(instance__backup_repository__backups__key=backup_key).exclude(kept="")
    return [(KIND, key) for key in sorted({*waiting, *kept.values_list("kept", flat=True)})]


def _held(restore: Restore) -> Restore:
    rows = Restore.objects.select_for_update(of=("self",)).select_related("repository", "backup")
    return rows.get(pk=restore.pk)


def note(restore: Restore, principal: Principal, action: str, summary: str) -> None:
    """Audit, and the instance's history."""
    scope = restore.instance.organisation.slug if restore.instance is not None else restore.repository.organisation_slug
    audit.record(
        principal=principal,
        action=action,
        kind="Restore",
        object_id=restore.key,
        organisation=scope,
        summary=f"{restore.repository.domain}: {summary}"[:400],
        data={"mode": restore.mode, "instance": restore.instance_key, "selection": restore.selection},
    )
    history.record("Instance", restore.instance_key, "Restore", scope=scope, reason=restore.state, message=summary)
