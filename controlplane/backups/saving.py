"""One pass over one backup: export the running instance into the spool, count it, and save it into its repository.

Nothing remembers where a pass stopped. One that was killed leaves no snapshot that counts, and a directory in the spool
that the next one removes; the next attempt begins anew. The instance serves on all the while, with its sessions.
"""

from __future__ import annotations

import datetime
import errno
import logging
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from controlplane import wiring
from controlplane.backups import ending, exporting, limits, oracle, places, repositories, spool
from controlplane.backups.described import described, moment_of
from controlplane.backups.models import Backup
from controlplane.drivers.engine.base import Upload
from controlplane.drivers.node.base import Line
from controlplane.drivers.node.tenantfiles import TenantFiles
from controlplane.drivers.store.base import Cancelled, Progress, Repository, Run, Saved, StorageFull, StoreDriver
from controlplane.fleet.services import target_of
from controlplane.portable.manifest import About
from controlplane.portable.sinks import Directory
from controlplane.portable.writer import Writer
from controlplane.provisioning.engines import control_of
from controlplane.provisioning.renewal import Renewal
from controlplane.provisioning.subject import USER_PREFIX, Subject
from controlplane.reconcile import faults, history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.errors import Rejected, RoostError, Unavailable
from tenants.models import Instance

log = logging.getLogger(__name__)

LEASE_S = 180.0
#: For all of one backup's saving; the export has no limit of its own but the lease, which is renewed.
SAVE_TIMEOUT_S = 12 * 3600.0
TELL_EVERY_S = 2.0


def reconcile(lease: Lease) -> Next | None:
    """Make it, if it is its turn. None: it is over."""
    rows = Backup.objects.select_related("repository__place", "repository__instance")
    backup = rows.filter(key=lease.object_id, state__in=Backup.OPEN).first()
    if backup is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    if backup.cancel_requested_at is not None:
        ending.over(backup, lease, Backup.CANCELLED)
        return None
    instance = Instance.objects.whole().filter(pk=backup.repository.instance_id).first()
    if instance is None:
        ending.over(backup, lease, Backup.FAILED, Rejected("Its instance is gone."))
        return None
    try:
        subject = Subject(instance)
        wait_s = limits.enter(backup, subject, lease)
        if wait_s:
            return Next(wait_s)
        _Run(backup, subject, lease).make()
    except Cancelled as error:
        ending.called_off(backup, lease, error)
        return None
    except RoostError as error:
        return ending.failed(backup, lease, error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        here = StorageFull(
            f"What is saved cannot be put together here: {error.strerror}.", remedy="Make room for ROOST_SPOOL_DIR."
        )
        return ending.failed(backup, lease, here)
    return None


class _Run:
    """One attempt. Its clocks: the lease is renewed, the row is told how far it is, and asked whether to go on."""

    def __init__(self, backup: Backup, subject: Subject, lease: Lease) -> None:
        self.backup, self.subject, self.lease = backup, subject, lease
        self.repository = backup.repository
        self.renewal = Renewal(lease, lease_s=LEASE_S)
        self._asked_at = self._told_at = 0.0
        self._called_off = False

    def make(self) -> None:
        backup, repository = self.backup, self.repository
        store, there = wiring.store_driver(), repositories.opened(repository)
        short = places.run_of(repository.place, timeout_s=180.0, cancelled=self.cancelled, patience_s=30.0)
        repositories.make(repository, run=short)
        self._remove_remains(store, there, short)
        with spool.directory(f"backup-{backup.key}") as place:
            faults.point("before-backup-export")
            moments = self._export(place)
            faults.point("after-backup-export")
            moment = moment_of(moments)
            oracle.store(backup, place / "oracle.sqlite")
            faults.point("before-backup-save")
            saved = store.save_directory(
                there,
                place / "bundle",
                host=repository.instance_key,
                tags=tags(backup),
                taken_at=moment,
                run=places.run_of(
                    repository.place,
                    timeout_s=SAVE_TIMEOUT_S,
                    cancelled=self.cancelled,
                    on_progress=self._on_saved,
                ),
            )
            faults.point("after-backup-save")
        listed = store.snapshots(there, host=repository.instance_key, tags=tags(backup), run=short)
        if saved.snapshot not in {snapshot.id for snapshot in listed}:
            raise Unavailable("The snapshot that was just made is not listed by its repository.")
        self._done(saved, moments, moment)

    def _remove_remains(self, store: StoreDriver, there: Repository, run: Run) -> None:
        """A snapshot of an attempt that died before it could tell: without its oracle it proves nothing."""
        if self.backup.attempts or self.backup.started_at is not None:
            left = store.snapshots(there, host=self.repository.instance_key, tags=tags(self.backup), run=run)
            if left:
                store.remove(there, [snapshot.id for snapshot in left], run=run)

    def _export(self, place: Path) -> dict[str, str]:
        instance, subject = self.subject.instance, self.subject
        control = control_of(instance)
        node = subject.placement.node  # type: ignore[union-attr]  # control_of has seen to it
        target = target_of(node)
        line = wiring.line(target)
        moments: dict[str, str] = {}
        scope = exporting.FULL if self.backup.kind == Backup.FULL else exporting.MEMBERS
        at = node_time(line)
        health = control.health()
        engine = {"name": instance.engine, "version": health.version}
        self.backup.engine = engine
        about = About(
            domain=subject.domain.ascii,
            made_at=exporting.stamp(at),
            components={f.name: getattr(subject.components, f.name).ascii for f in fields(subject.components)},
            engine=engine,
            spec=described(instance),
            scope=scope,
            moments=moments,
        )
        root = f"{node.root}/{instance.key}"
        pace = self.repository.place.upload_kib_s
        with (
            TenantFiles(line, target, user=f"{USER_PREFIX}{instance.key}", root=root, kib_s=pace) as files,
            oracle.tally(self.repository, place / "oracle.sqlite") as tally,
            Writer(Directory(place / "bundle"), about) as writer,
        ):
            exporting.export(
                control,
                writer,
                at=at,
                moments=moments,
                scope=scope,
                files=_Files(files),
                tally=tally,
                watch=exporting.Watch(self.cancelled, self._on_exported),
            )
        assert writer.manifest is not None
        self.backup.counts = dict(writer.manifest.counts)
        return moments

    def cancelled(self) -> bool:
        """Asked all the time: renews the lease, and looks now and then whether somebody called it off."""
        if self.renewal():
            return True
        now = time.monotonic()
        if now - self._asked_at >= TELL_EVERY_S:
            self._asked_at = now
            row = Backup.objects.filter(pk=self.backup.pk).values_list("cancel_requested_at", flat=True).first()
            self._called_off = row is not None
        return self._called_off

    def _on_exported(self, seen: exporting.Progress) -> None:
        self._tell(
            {"phase": seen.phase, "done": seen.done, "total": 0, "bytes": seen.file_bytes, "messages": seen.messages}
        )

    def _on_saved(self, seen: Progress) -> None:
        told = {"phase": "saving", "done": seen.files_done, "total": seen.files_total, "bytes": seen.bytes_done}
        self._tell({**told, "bytes_total": seen.bytes_total})

    def _tell(self, progress: dict[str, object]) -> None:
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now
        with transaction.atomic():
            leases.hold(self.lease)
            Backup.objects.filter(pk=self.backup.pk).update(progress=progress)

    def _done(self, saved: Saved, moments: dict[str, str], moment: datetime.datetime) -> None:
        backup, repository = self.backup, self.repository
        now = timezone.now()
        with transaction.atomic():
            leases.hold(self.lease)
            Backup.objects.filter(pk=backup.pk).update(
                state=Backup.DONE,
                finished_at=now,
                progress={},
                snapshot=saved.snapshot,
                moment=moment,
                moments=moments,
                counts=backup.counts,
                engine=backup.engine,
                files=saved.files,
                bytes=saved.bytes,
                added_bytes=saved.added_bytes,
                error="",
                remedy="",
            )
            history.record(
                "Instance",
                repository.instance_key,
                "BackedUp",
                scope=repository.organisation_slug,
                reason=backup.kind,
                message=f"Saved as of {moment:%Y-%m-%d %H:%M:%S} UTC: {saved.bytes} bytes, {saved.added_bytes} new.",
            )
            ending.tell_others(backup)
            leases.forget(self.lease.kind, self.lease.object_id)
        log.info("%s of %s done in %.0f s", backup.kind, repository.domain, saved.duration_s)


class _Files:
    """Uploaded files for the export, read over the node's line."""

    def __init__(self, files: TenantFiles) -> None:
        self._files = files

    def open(self, upload: Upload) -> Iterator[bytes] | None:
        return self._files.read(upload.path) if _is_upload(upload.path) else None


def _is_upload(path: str) -> bool:
    """Where engines keep uploaded files: ejabberd in a directory of their own, Prosody among its data."""
    return path.startswith("uploads/") or (path.startswith("data/") and "/http_file_share/" in path)


def tags(backup: Backup) -> tuple[str, ...]:
    """Of its snapshot: which kind, and which backup."""
    return (backup.kind, f"backup-{backup.key}")


def node_time(line: Line) -> datetime.datetime:
    """The clock of the machine whose engine stamps the messages."""
    said = line.run(["date", "-u", "+%s.%N"], timeout_s=10.0)
    try:
        return datetime.datetime.fromtimestamp(float(said.out.strip()[:17]), datetime.UTC)
    except ValueError:
        raise Unavailable("The node did not tell the time.") from None
