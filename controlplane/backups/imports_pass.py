"""The pass of an import: looks the file through and says what would come of it, or takes it in.

Nothing is remembered of where it stopped: a pass that was killed begins anew, and what is there already counts nowhere.
The file is unpacked anew each time, into the spool and never into memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane import wiring
from controlplane.backups import importing_preview as looking
from controlplane.backups import imports, spool
from controlplane.backups.exporting import Progress, Watch
from controlplane.backups.importing import Taken, take_in
from controlplane.backups.importrows import Import
from controlplane.backups.mapping import DomainMapping, between
from controlplane.drivers.node.tenantwriting import TenantWriter
from controlplane.fleet.services import target_of
from controlplane.portable.bundle import Bundle
from controlplane.portable.documents import Limits
from controlplane.portable.items import Item
from controlplane.portable.unpack import unpack
from controlplane.provisioning.engines import control_of
from controlplane.provisioning.renewal import Renewal
from controlplane.provisioning.subject import USER_PREFIX, Subject
from controlplane.reconcile import faults, history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import InvalidInput, RoostError, Unavailable
from tenants.models import Instance

LEASE_S = 120.0
TOLD_EVERY_S = 2.0
#: Unpacked it may be so many times as large as what was sent; text compresses well, hoaxes better.
MOST_GROWTH, LEAST_ROOM = 200, 1 << 30


class _Ended(Exception):
    """It was called off, by who asked for it."""


def reconcile(lease: Lease) -> Next | None:
    """One pass over one import; ``object_id`` is its key."""
    row = Import.objects.filter(key=lease.object_id).first()
    if row is None or row.state not in Import.OPEN:
        if row is not None:
            imports.place_of(row).unlink(missing_ok=True)
        imports.clear_left_overs()
        leases.forget(lease.kind, lease.object_id)
        return None
    if row.state == Import.PREVIEWED and row.cancel_requested_at is None:
        assert row.previewed_at is not None
        left = (row.previewed_at + imports.KEPT - timezone.now()).total_seconds()
        if left > 0:
            return Next(left)
        return _end(row, lease, Import.CANCELLED, error="Nobody confirmed it in time.")
    if row.cancel_requested_at is not None:
        return _end(row, lease, Import.CANCELLED)
    instance = Instance.objects.whole().filter(pk=row.instance_id).first() if row.instance_id else None
    if instance is None:
        return _end(row, lease, Import.FAILED, error="The instance is gone.")
    try:
        _Pass(row, lease, instance).go()
    except _Ended:
        return _end(row, lease, Import.CANCELLED)
    except Unavailable as error:
        with transaction.atomic():
            leases.hold(lease)
            Import.objects.filter(pk=row.pk).update(error=error.message, remedy=error.remedy)
        return Next(backoff_s(lease.attempts), failed=True)
    except RoostError as error:
        return _end(row, lease, Import.FAILED, error=error.message, remedy=error.remedy)
    except OSError as error:
        return _end(
            row, lease, Import.FAILED, error=f"The spool: {error.strerror or error}.", remedy="Make room there."
        )
    return Next(0.0)


def _end(row: Import, lease: Lease, state: str, *, error: str = "", remedy: str = "") -> Next:
    with transaction.atomic():
        leases.hold(lease)
        Import.objects.filter(pk=row.pk).update(state=state, error=error, remedy=remedy, finished_at=timezone.now())
        message = error or f"{row.file_name} was called off."
        history.record("Instance", row.instance_key, "Import", reason=state.capitalize(), message=message[:500])
    return Next(0.0)


class _Pass:
    def __init__(self, row: Import, lease: Lease, instance: Instance) -> None:
        self._row, self._lease, self._instance = row, lease, instance
        self._subject = Subject(instance)
        self._renewal = Renewal(lease, lease_s=LEASE_S)
        self._told_at = time.monotonic()

    def go(self) -> None:
        control = control_of(self._instance)
        with self._unpacked() as root:
            bundle = self._bundle(root)
            host = self._host(bundle)
            components = self._components(bundle)
            faults.point("import-unpacked")
            found = looking.preview(control, self._items(bundle, host, components), self._look)
            blocked = self._blocked(found)
            if self._row.state == Import.PREVIEWING:
                self._previewed(found, bundle, host, blocked)
                return
            if blocked:  # others came meanwhile
                raise InvalidInput("import", blocked[0], remedy="Change the plan, or hand in a smaller file.")
            self._begun()
            faults.point("import-begun")
            with self._files() as files:
                taken = take_in(
                    control,
                    self._items(bundle, host, components),
                    root=root,
                    mapping=self._mapping(bundle, host),
                    replace=self._row.replace,
                    files=files,
                    watch=Watch(self._cancelled, self._tell),
                )
            faults.point("import-taken")
            self._done(taken, host)

    @contextmanager
    def _unpacked(self) -> Iterator[Path]:
        sent = imports.place_of(self._row)
        limits = Limits(
            unpacked_bytes=min(self._row.file_bytes * MOST_GROWTH + LEAST_ROOM, max(1, spool.free_bytes() // 2))
        )
        with spool.directory("import") as place:
            root = place / "bundle"
            try:
                stream = sent.open("rb")
            except FileNotFoundError:
                raise InvalidInput("import", "The file is not there any more.", remedy="Hand it in again.") from None
            with stream:
                unpack(stream, root, limits=limits)
            yield root

    def _bundle(self, root: Path) -> Bundle:
        bundle = Bundle(root)
        if bundle.manifest is not None:
            bundle.check()
        return bundle

    def _host(self, bundle: Bundle) -> str:
        """Of which domain accounts are taken: the chosen one, else the instance's, else the only one."""
        own = self._instance.domain.name
        if bundle.manifest is not None:
            return bundle.manifest.about.domain
        hosts = looking.hosts_of(bundle.items(host=own), self._look)
        if self._row.host:
            if self._row.host not in hosts:
                raise InvalidInput("host", f"The file has no accounts of {self._row.host}: {_listed(hosts)}.")
            return self._row.host
        if own in hosts or not hosts:
            return own
        if len(hosts) > 1:
            raise InvalidInput(
                "host", f"The file has accounts of several domains: {_listed(hosts)}.", remedy="Say which one: host."
            )
        return next(iter(hosts))

    def _components(self, bundle: Bundle) -> frozenset[str]:
        return frozenset(bundle.manifest.about.components.values()) if bundle.manifest is not None else frozenset()

    def _items(self, bundle: Bundle, host: str, components: frozenset[str]) -> Iterator[Item]:
        return looking.of_host(bundle.items(host=host), host, components)

    def _mapping(self, bundle: Bundle, host: str) -> DomainMapping | None:
        """The file's domain may be another: then all addresses in it follow."""
        spec = self._subject.spec
        new = {"muc": spec.components.muc.ascii, "upload": spec.components.upload.ascii}
        new["proxy"] = spec.components.proxy.ascii
        old = dict(bundle.manifest.about.components) if bundle.manifest is not None else {}
        domains = between(old, host, new, spec.domain.ascii)
        return DomainMapping(domains) if any(a != b for a, b in domains.items()) else None

    def _files(self) -> TenantWriter:
        placement = self._subject.placement
        assert placement is not None  # else there was no control
        target = target_of(placement.node)
        root = str(self._subject.spec.paths.root)
        return TenantWriter(wiring.line(target), target, user=f"{USER_PREFIX}{self._instance.key}", root=root)

    def _blocked(self, found: looking.Preview) -> list[str]:
        """Why the plan does not allow it, before anything is written."""
        control, plan, blocked = control_of(self._instance), self._instance.plan, []
        for word, new, has, most in (
            ("accounts", found.accounts["new"], len(control.list_accounts()), plan.max_accounts),
            ("rooms", found.rooms["new"], len(control.list_rooms()), plan.max_rooms),
        ):
            if new and has + new > most:
                blocked.append(f"The plan {plan.slug} allows {most} {word}; {has} are there and {new} would come.")
        return blocked

    def _previewed(self, found: looking.Preview, bundle: Bundle, host: str, blocked: list[str]) -> None:
        preview: dict[str, Any] = {**found.as_json(), "host": host, "blocked": blocked}
        preview["source"] = dict(bundle.manifest.about.engine) if bundle.manifest is not None else {}
        if host != self._instance.domain.name:
            preview["renamed"] = {"from": host, "to": self._instance.domain.name}
        with transaction.atomic():
            leases.hold(self._lease)
            Import.objects.filter(pk=self._row.pk).update(
                state=Import.PREVIEWED, preview=preview, previewed_at=timezone.now(), error="", remedy=""
            )

    def _begun(self) -> None:
        with transaction.atomic():
            leases.hold(self._lease)
            row = Import.objects.select_for_update().get(pk=self._row.pk)
            row.state, row.started_at, row.attempts = Import.RUNNING, timezone.now(), row.attempts + 1
            row.save(update_fields=["state", "started_at", "attempts"])

    def _done(self, taken: Taken, host: str) -> None:
        report = {
            "host": host,
            "made": taken.report.made,
            "changed": taken.report.changed,
            "skipped": taken.report.skipped,
            "messages": taken.messages,
            "refused": [[what[:200], why[:200]] for what, why in taken.report.refused[: looking.MOST_TOLD]],
            "refused_total": taken.refused_total,
            "not_carried": [[w[:200] for w in one] for one in taken.not_carried[: looking.MOST_TOLD]],
            "not_carried_total": taken.not_carried_total,
        }
        with transaction.atomic():
            leases.hold(self._lease)
            Import.objects.filter(pk=self._row.pk).update(
                state=Import.DONE, report=report, finished_at=timezone.now(), error="", remedy=""
            )
            message = f"{self._row.file_name}: {report['made']} made, {report['changed']} changed."
            history.record("Instance", self._row.instance_key, "Import", reason="Done", message=message)

    # While it runs

    def _cancelled(self) -> bool:
        self._look()
        return False

    def _look(self) -> None:
        if self._renewal():
            raise LeaseLost(f"The import {self._row.key} was taken over.")
        if time.monotonic() - self._told_at >= TOLD_EVERY_S:
            self._told_at = time.monotonic()
            row = Import.objects.only("cancel_requested_at").get(pk=self._row.pk)
            if row.cancel_requested_at is not None:
                raise _Ended

    def _tell(self, progress: Progress) -> None:
        before = self._told_at
        self._look()
        if self._told_at != before or not progress.done:
            with transaction.atomic():
                leases.hold(self._lease)
                Import.objects.filter(pk=self._row.pk).update(
                    progress={
                        "phase": progress.phase,
                        "done": progress.done,
                        "messages": progress.messages,
                        "file_bytes": progress.file_bytes,
                    }
                )


def _listed(hosts: Any) -> str:
    return ", ".join(sorted(f"{host or 'no domain'} ({count})" for host, count in hosts.items())[:20])
