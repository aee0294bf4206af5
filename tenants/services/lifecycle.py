"""Suspend, terminate with a grace time, restore, and the end of an instance's rows."""

from __future__ import annotations

import datetime

from django.db import transaction
from django.utils import timezone

from controlplane.reconcile import history, watch
from controlplane.values.errors import InvalidInput
from tenants import audit, validators
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import SYSTEM, Principal
from tenants.services.instances import hold, note

DEFAULT_GRACE_S = 7 * 86_400
MAX_GRACE_S = 90 * 86_400


@transaction.atomic
def suspend_instance(*, instance: Instance, principal: Principal, reason: str = "") -> Instance:
    """Logins are refused, data is kept. Suspending what is suspended changes only the reason."""
    reason = validators.line(reason, field="reason")
    instance = hold(instance)
    if instance.suspended_at is not None and instance.suspended_reason == reason:
        return instance
    instance.suspended_at, instance.suspended_reason = instance.suspended_at or timezone.now(), reason
    _save(instance, "suspended_at", "suspended_reason")
    note(
        instance,
        "Suspended",
        action="instance.suspend",
        summary=f"Suspended: {reason}" if reason else "Suspended",
        principal=principal,
        data={"reason": reason},
    )
    return instance


@transaction.atomic
def unsuspend_instance(*, instance: Instance, principal: Principal) -> Instance:
    """Run again. Nothing happens if it is not suspended."""
    instance = hold(instance)
    if instance.suspended_at is None:
        return instance
    instance.suspended_at, instance.suspended_reason = None, ""
    _save(instance, "suspended_at", "suspended_reason")
    note(instance, "Unsuspended", action="instance.unsuspend", summary="Resumed", principal=principal)
    return instance


@transaction.atomic
def terminate_instance(*, instance: Instance, principal: Principal, grace_s: int = DEFAULT_GRACE_S) -> Instance:
    """Stop it now and remove it for good after ``grace_s`` seconds; until then ``restore_instance`` undoes it.

    Terminating again sets the grace time anew, from now.
    """
    if not isinstance(grace_s, int) or isinstance(grace_s, bool) or not 0 <= grace_s <= MAX_GRACE_S:
        raise InvalidInput("grace_s", "The grace time does not fit.", remedy=f"Give 0 to {MAX_GRACE_S} seconds.")
    instance = hold(instance, terminated=True)
    if instance.deletion_due:
        return instance
    now = timezone.now()
    instance.deletion_requested_at = instance.deletion_requested_at or now
    instance.delete_after = now + datetime.timedelta(seconds=grace_s)
    _save(instance, "deletion_requested_at", "delete_after")
    note(
        instance,
        "TerminationRequested",
        action="instance.terminate",
        summary=f"Termination requested, to be removed at {instance.delete_after:%Y-%m-%d %H:%M:%S} UTC",
        principal=principal,
        data={"grace_s": grace_s, "delete_after": instance.delete_after.isoformat()},
    )
    return instance


@transaction.atomic
def restore_instance(*, instance: Instance, principal: Principal) -> Instance:
    """Undo a termination whose grace time is not over; ``WrongState`` if it is, or if there was none."""
    instance = hold(instance, terminated=True)
    if instance.deletion_requested_at is None:
        raise WrongState(f"{instance.domain.name} is not being terminated.")
    if instance.deletion_due:
        raise WrongState(f"The grace time of {instance.domain.name} is over.", remedy="Create it anew when it is gone.")
    instance.deletion_requested_at, instance.delete_after = None, None
    _save(instance, "deletion_requested_at", "delete_after")
    note(instance, "Restored", action="instance.restore", summary="Termination undone", principal=principal)
    return instance


@transaction.atomic
def finish_deletion(*, instance: Instance) -> None:
    """Delete the rows of an instance of which nothing is left outside; the reconciler's last act.

    The domain's claim goes with it, so that a name is free when its server is. Rows of upper rooms have to be
    gone (their foreign keys protect), and the instance has to be due: anything else raises.
    """
    row = Instance.objects.select_for_update(of=("self",)).whole().filter(pk=instance.pk).first()
    if row is None:
        return
    if not row.deletion_due:
        raise WrongState(f"{row.key} is not due for deletion.")
    scope, name, domain = row.organisation.slug, row.domain.name, row.domain
    row.delete()
    domain.delete()
    audit.record(
        principal=SYSTEM,
        action="instance.delete",
        kind="Instance",
        object_id=row.key,
        organisation=scope,
        summary=f"{name}: removed, nothing of it is left",
        data={"domain": name, "engine": row.engine},
    )
    history.record("Instance", row.key, "Deleted", scope=scope, message=f"{name} is gone.")
    watch.changed("Instance", row.key)


def _save(instance: Instance, *fields: str) -> None:
    instance.generation += 1
    instance.save(update_fields=[*fields, "generation"])
