"""One pass over a repository: what the retention no longer wants goes, its data goes with it, and it is checked.

At the end of an instance it stays until it expires; then everything in it is removed, and the rows last.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane import wiring
from controlplane.backups import places, policy, repositories
from controlplane.backups.models import Backup, Drill, OraclePart, Repository, Restore
from controlplane.drivers.store import base as store
from controlplane.provisioning.renewal import Renewal
from controlplane.reconcile import faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import RoostError
from tenants import audit
from tenants.principal import SYSTEM

log = logging.getLogger(__name__)

LEASE_S = 180.0
LONG_S = 6 * 3600.0
DAY_S = 86_400.0


def reconcile(lease: Lease) -> Next | None:
    """Tidy up, prune and check what is due. None: it is gone."""
    row = Repository.objects.select_related("place", "instance__plan").filter(key=lease.object_id).first()
    if row is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    renewal = Renewal(lease, lease_s=LEASE_S)
    now = timezone.now()
    try:
        if row.expires_at is not None and row.expires_at <= now:
            return _expire(row, lease, renewal)
        if row.made_at is None:
            return _next(row, now)
        _Upkeep(row, lease, renewal).go(now)
    except store.Cancelled as error:
        raise LeaseLost(f"The repository {row.key} was taken over while it was tidied up.") from error
    except RoostError as error:
        if renewal.lost:
            raise LeaseLost(f"The repository {row.key} was taken over while it was tidied up.") from error
        log.warning("repository of %s: %s", row.domain, error)
        _write(row, lease, maintenance_error=str(error)[:2000])
        return Next(max(30.0, backoff_s(lease.attempts + 3)), failed=True)
    if row.maintenance_error:
        _write(row, lease, maintenance_error="")
    return _next(row, now)


class _Upkeep:
    def __init__(self, row: Repository, lease: Lease, renewal: Renewal) -> None:
        self.row, self.lease = row, lease
        self.rules = policy.rules_of(row.instance) if row.instance is not None else policy.Rules()
        self.store, self.there = wiring.store_driver(), repositories.opened(row)
        self.short = places.run_of(row.place, timeout_s=300.0, cancelled=renewal, patience_s=30.0)
        self.long = places.run_of(row.place, timeout_s=LONG_S, cancelled=renewal, cpus=1)

    def go(self, now: datetime.datetime) -> None:
        faults.point("before-backup-forget")
        removed = 0
        if self.row.terminated_at is None:  # of one that is gone all stays until it expires
            removed = sum(self._forget(kind) for kind in (Backup.FULL, Backup.MEMBERS))
        faults.point("after-backup-forget")
        prune_at = self.row.pruned_at or self.row.made_at or now
        if (now - prune_at).total_seconds() >= self.rules.prune_days * DAY_S:
            faults.point("before-backup-prune")
            self.store.prune(self.there, run=self.long)
            _write(self.row, self.lease, pruned_at=timezone.now())
        if self.rules.check_days and _check_due(self.row, self.rules, now):
            faults.point("before-backup-check")
            self._check()
        if removed:
            log.info("%d snapshots of %s went by their age", removed, self.row.domain)

    def _forget(self, kind: str) -> int:
        """What is pinned, or wanted by a restore or a drill that goes on, stays whatever its age."""
        backups = self.row.backups.filter(kind=kind, state=Backup.DONE)
        # Those of now: what is finished while restic looks is not in its answer, and is not gone.
        there = dict(backups.values_list("pk", "snapshot"))
        if len(there) < 2:
            return 0
        in_use = (
            Q(restores__state__in=Restore.OPEN) | Q(drills__state__in=Drill.OPEN) | Q(saves_for__state__in=Restore.OPEN)
        )
        held = backups.filter(Q(pinned=True) | in_use).values_list("key", flat=True).distinct()
        wanted = self.rules.retention(kind)
        kept = replace(wanted, keep_tags=tuple(f"backup-{key}" for key in held))
        done = self.store.forget(self.there, kept, host=self.row.instance_key, tags=(kind,), run=self.short)
        # Not only what went now: a pass that was killed may have removed some and told nobody. What is listed, stays.
        kept_now = set(done.kept)
        ids = [pk for pk, snapshot in there.items() if snapshot and snapshot not in kept_now]
        with transaction.atomic():
            leases.hold(self.lease)
            Backup.objects.filter(pk__in=ids).update(state=Backup.EXPIRED, pinned=False)
            OraclePart.objects.filter(backup__in=ids).delete()
        return len(ids)

    def _check(self) -> None:
        try:
            found = self.store.check(self.there, read_percent=float(self.rules.check_percent), run=self.long)
            errors = list(found.errors)
        except store.Damaged as error:
            errors = [error.message]
        faults.point("after-backup-check")
        news = bool(errors) != bool(self.row.check_errors)
        with transaction.atomic():
            leases.hold(self.lease)
            fields = {"checked_at": timezone.now(), "check_errors": [text[:300] for text in errors[:50]]}
            Repository.objects.filter(pk=self.row.pk).update(**fields)
            if news:
                history.record(
                    "Instance",
                    self.row.instance_key,
                    "BackupsDamaged" if errors else "BackupsSound",
                    scope=self.row.organisation_slug,
                    message=errors[0][:300] if errors else "The check finds nothing any more.",
                )
            if self.row.instance_id is not None:
                watch.touch("Backups", self.row.instance_key)
        self.row.checked_at = timezone.now()


def _check_due(row: Repository, rules: policy.Rules, now: datetime.datetime) -> bool:
    last = row.checked_at or row.made_at or now
    return (now - last).total_seconds() >= rules.check_days * DAY_S


def _next(row: Repository, now: datetime.datetime) -> Next:
    """At least once a day, at a time of its own; when it expires, then."""
    after_s = DAY_S / 4 * (0.75 + random.random() / 2)
    if row.expires_at is not None:
        after_s = min(after_s, (row.expires_at - now).total_seconds())
    return Next(max(1.0, after_s))


def _write(row: Repository, lease: Lease, **fields: object) -> None:
    with transaction.atomic():
        leases.hold(lease)
        Repository.objects.filter(pk=row.pk).update(**fields)
    for name, value in fields.items():
        setattr(row, name, value)


def _expire(row: Repository, lease: Lease, renewal: Renewal) -> Next | None:
    """Remove all that it has, then its rows. Whatever copy there may be elsewhere opens with no key of ours."""
    if row.restores.filter(state__in=Restore.OPEN).exists():
        return Next(3600.0)  # somebody is bringing it back
    if row.made_at is not None:
        faults.point("before-backup-expire")
        _remove_data(row, places.run_of(row.place, timeout_s=LONG_S, cancelled=renewal))
        faults.point("after-backup-expire")
    with transaction.atomic():
        leases.hold(lease)
        audit.record(
            principal=SYSTEM,
            action="backup_repository.expire",
            kind="BackupRepository",
            object_id=row.key,
            organisation=row.organisation_slug if row.organisation_id else "",
            summary=f"Backups of {row.domain} removed, as its policy says: nothing of them is left",
            data={"instance": row.instance_key, "url": row.url, "backups": row.backups.filter(state="done").count()},
        )
        row.delete()
        leases.forget(lease.kind, lease.object_id)
    log.info("the repository of %s is gone", row.domain)
    return None


def _remove_data(row: Repository, run: store.Run) -> None:
    driver, there = wiring.store_driver(), repositories.opened(row)
    try:
        snapshots = driver.snapshots(there, run=run)
        driver.remove(there, [snapshot.id for snapshot in snapshots], run=run)
        driver.prune(there, run=run)
    except store.NoRepository:
        if row.url.startswith("/") and not Path(row.place.url).is_dir():
            raise  # its disk is not there: what cannot be seen is not gone
        return
    if row.url.startswith("/"):
        _remove_directory(Path(row.url))


def _remove_directory(place: Path) -> None:
    """The empty rest of a repository on this machine, and only if it looks like one."""
    names = {entry.name for entry in os.scandir(place)}
    if names <= {"config", "data", "index", "keys", "locks", "snapshots"}:
        shutil.rmtree(place)
