"""How a backup ends that is not made, or not yet: called off, tried again later, given up; and who is told."""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from controlplane.backups.models import Backup
from controlplane.drivers.store.base import Cancelled
from controlplane.reconcile import history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import RoostError, Unavailable

log = logging.getLogger(__name__)

#: A backup that somebody asked for is given up after so many attempts; a scheduled one when the next is due.
MAX_ATTEMPTS = 8
#: What waiting does not help is tried again so seldom.
STALLED_S = 900.0


def called_off(backup: Backup, lease: Lease, error: Cancelled) -> None:
    if Backup.objects.filter(pk=backup.pk, cancel_requested_at__isnull=False).exists():
        over(backup, lease, Backup.CANCELLED)
        return
    raise LeaseLost(f"Backup {backup.key} was taken over while it was made.") from error


def failed(backup: Backup, lease: Lease, error: RoostError) -> Next | None:
    """Again later; it is told to the clock, which says it if it goes on."""
    attempts = backup.attempts + 1
    log.warning("backup %s of %s: attempt %d failed: %s", backup.key, backup.repository.domain, attempts, error)
    if backup.trigger != Backup.SCHEDULE and attempts >= MAX_ATTEMPTS:
        backup.attempts = attempts
        over(backup, lease, Backup.FAILED, error)
        return None
    with transaction.atomic():
        leases.hold(lease)
        Backup.objects.filter(pk=backup.pk).update(
            state=Backup.WAITING,
            node="",
            attempts=attempts,
            error=error.message,
            remedy=error.remedy,
            progress={},
        )
        watch.touch("Backups", backup.repository.instance_key)
    if isinstance(error, Unavailable):
        return Next(max(error.retry_after_s or 0.0, backoff_s(attempts + 2)), failed=True)
    return Next(min(STALLED_S, 60.0 * 2**attempts), failed=True)


def over(backup: Backup, lease: Lease, state: str, error: RoostError | None = None) -> None:
    """It will not be made. Its oracle, if it has one already, goes."""
    repository = backup.repository
    with transaction.atomic():
        leases.hold(lease)
        Backup.objects.filter(pk=backup.pk).update(
            state=state,
            finished_at=timezone.now(),
            progress={},
            node="",
            attempts=backup.attempts,
            error=error.message if error is not None else "",
            remedy=error.remedy if error is not None else "",
        )
        backup.oracle_parts.all().delete()
        history.record(
            "Instance",
            repository.instance_key,
            "BackupCancelled" if state == Backup.CANCELLED else "BackupFailed",
            scope=repository.organisation_slug,
            reason=backup.kind,
            message=error.message if error is not None else "Called off.",
        )
        tell_others(backup)
        leases.forget(lease.kind, lease.object_id)


def tell_others(backup: Backup) -> None:
    """The clock judges, the repository is tidied, and whoever waited for this backup goes on."""
    if backup.repository.instance_id is not None:
        watch.touch("Backups", backup.repository.instance_key)
    watch.touch("Repository", backup.repository.key)
    watch.changed("Backup", backup.key)
