"""One pass over one restore: preview it, and, once it is confirmed, build it aside, prove it, and switch.

Nothing remembers where a pass stopped but what was decided (confirmed, built, switched): an import is begun anew, and
finds what is there. Before the switch whatever fails leaves the old state serving. Parts go straight into the living
engine, where they may be repeated, too.
"""

from __future__ import annotations

import datetime
import logging
import random

from django.db import transaction
from django.utils import timezone

from controlplane.backups import building, fetching, importing, preview, reading, requests, restoring, sites, switch
from controlplane.backups.attempt import Attempt
from controlplane.backups.building import Built
from controlplane.backups.importing import Taken
from controlplane.backups.models import Backup, Restore
from controlplane.drivers.store.base import Cancelled
from controlplane.fleet import scratches as fleet
from controlplane.fleet.models import Node, Placement, Scratch
from controlplane.provisioning import scratch as scratches
from controlplane.reconcile import faults
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.bundle import RUNNING, STOPPED
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.outcome import Wait
from tenants.models import Instance
from tenants.principal import SYSTEM, Principal

log = logging.getLogger(__name__)

#: A preview shows what would be so now; an old one is not confirmed any more.
PREVIEW_KEPT = datetime.timedelta(hours=24)
#: What is unavailable is tried again so often, before the switch; after it, for ever.
MAX_ATTEMPTS = 12
SAFETY_S = 3.0
#: Whether a newer backup makes the former state needless is looked at so often.
KEPT_S = 1800.0
MOST_REFUSED = 200


def reconcile(lease: Lease) -> Next | None:
    """None: all is done, and nothing of it is left anywhere but its row."""
    rows = Restore.objects.select_related("repository__place", "backup__repository__place", "safety")
    restore = rows.filter(key=lease.object_id).first()
    if restore is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    instance = Instance.objects.whole().filter(pk=restore.instance_id).first()
    if restore.state not in Restore.OPEN:
        return _tidy(restore, instance, lease)
    try:
        return _advance(restore, instance, lease)
    except Cancelled:
        return _cancelled(restore, lease)
    except Unavailable as error:
        return _unavailable(restore, lease, error)
    except RoostError as error:
        if restore.switched_at is not None:
            return _unavailable(restore, lease, error)
        return _failed(restore, lease, error)


def _advance(restore: Restore, instance: Instance | None, lease: Lease) -> Next | None:
    if restore.cancel_requested_at is not None and restore.switched_at is None:
        return _cancelled(restore, lease)
    if instance is None or (restore.backup is None and restore.switched_at is None):
        raise Rejected("The instance is gone." if instance is None else "The backup is gone.")
    if restore.state == Restore.PREVIEWING:
        return _preview(restore, instance, lease)
    if restore.state == Restore.PREVIEWED:
        assert restore.previewed_at is not None
        left = restore.previewed_at + PREVIEW_KEPT - timezone.now()
        if left.total_seconds() > 0:
            return Next(left.total_seconds() + 1)
        return _cancelled(restore, lease, "It was not confirmed within a day.")
    if restore.switched_at is not None:
        return _settle(restore, instance, lease)
    if instance.deletion_requested_at is not None or not instance.should_run:
        raise Rejected(f"{instance.domain.name} does not run any more.")
    if restore.state == Restore.WAITING:
        _write(restore, lease, state=Restore.RUNNING, started_at=timezone.now())
    waits = _safety(restore, instance, lease)
    if waits is not None:
        return waits
    if restore.mode == Restore.PART:
        return _part(restore, instance, lease)
    return _whole(restore, instance, lease)


def _preview(restore: Restore, instance: Instance, lease: Lease) -> Next:
    attempt = Attempt(restore, lease)
    try:
        made = preview.make(restore, instance, attempt.watch("comparing"))
    finally:
        attempt.check()
    now = timezone.now()
    _write(
        restore,
        lease,
        state=Restore.PREVIEWED,
        preview=made,
        previewed_at=now,
        progress={},
        attempts=0,
        error="",
        remedy="",
    )
    return Next(PREVIEW_KEPT.total_seconds() + 1)


def _safety(restore: Restore, instance: Instance, lease: Lease) -> Next | None:
    """A full backup of what is to be replaced comes first; None once it is there, or nothing is to be saved."""
    if restore.selection.get("unseen"):
        return None
    safety = restore.safety
    if safety is None:
        principal = Principal(name=restore.requested_by or SYSTEM.name, is_operator=False)
        with transaction.atomic():
            leases.hold(lease)
            safety = requests.request_backup(instance=instance, principal=principal, trigger=Backup.SAFETY)
            Restore.objects.filter(pk=restore.pk).update(safety=safety, progress={"phase": "safety backup"})
        restore.safety = safety
    if safety.state == Backup.DONE:
        return None
    if safety.state not in Backup.OPEN:
        why = safety.error or safety.get_state_display()
        raise Rejected(f"The safety backup {safety.key} could not be made: {why}", remedy=safety.remedy)
    return Next(SAFETY_S)


def _part(restore: Restore, instance: Instance, lease: Lease) -> Next | None:
    """Straight into the living engine: what is there otherwise is overwritten, nothing else is touched."""
    assert restore.backup is not None
    attempt = Attempt(restore, lease)
    wanted, domains = preview.selection_of(restore), preview.domains_of(restore.repository, instance)
    site = sites.of_instance(instance)
    try:
        with (
            fetching.bundle_of(restore.backup, cancelled=attempt.cancelled, on_progress=attempt.fetched) as bundle,
            site.files() as files,
        ):
            faults.point("before-import")
            mapping = importing.mapping_for(bundle, domains)
            taken = importing.take_in(
                site.control,
                bundle.items(),
                root=bundle.root,
                selection=wanted,
                mapping=mapping,
                replace=True,
                files=files,
                watch=attempt.watch("importing"),
            )
            faults.point("after-import")
    finally:
        attempt.check()
    report = _report(taken) | {"rewritten": mapping.report() if mapping is not None else {}}
    return _done(restore, lease, report=report)


def _whole(restore: Restore, instance: Instance, lease: Lease) -> Next | None:
    assert restore.backup is not None
    node = None
    if name := restore.selection.get("node"):
        node = Node.objects.carrying().filter(name=name).first()
        if node is None:
            raise Rejected(f"There is no node {name} any more.")
    else:
        node = Node.objects.filter(placements__instance=instance).first()
    scratch = fleet.make(instance, lease, engine=preview.engine_of(restore, instance), node=node)
    if not restore.report.get("built"):
        waits = scratches.bring_to(scratch, RUNNING, lease)
        if waits is not None:
            return _waits(restore, lease, waits)
        _build(restore, instance, scratch, lease)
    waits = scratches.bring_to(scratch, STOPPED, lease)
    if waits is not None:
        return _waits(restore, lease, waits)
    switch.switch(restore, scratch, lease)
    return Next(0.5)


def _build(restore: Restore, instance: Instance, scratch: Scratch, lease: Lease) -> None:
    """Import, and prove that nothing is lost that the preview did not say; what was found goes into the report."""
    assert restore.backup is not None
    attempt = Attempt(restore, lease)
    domains = preview.domains_of(restore.repository, instance)
    try:
        built = building.build(restore.backup, sites.of_scratch(scratch), attempt, domains=domains)
    finally:
        attempt.check()
    report = _report(built.taken) | {
        "rewritten": built.rewritten,
        "checked": built.checked,
        "missing": built.compared.missing.as_json(),
        "changed": built.compared.changed.as_json(),
        "added": built.compared.added.as_json(),
    }
    _judge(restore, built)
    _write(restore, lease, report=report | {"built": True}, progress={"phase": "switching"})


def _judge(restore: Restore, built: Built) -> None:
    """``Rejected`` if something is not as it was saved that nobody was told of before."""
    lacks = frozenset() if restore.preview.get("files_carried", True) else preview.FILES
    # The other engine insists on some settings, such as that everybody may read OMEMO's keys; the report has which.
    differs = reading.SETTINGS if restore.preview.get("notes") else frozenset()
    found = [
        f"{number} × {kind} {word}"
        for word, some, known in (
            ("missing", built.compared.missing, lacks),
            ("changed", built.compared.changed, differs),
        )
        for kind, number in some.kinds.items()
        if kind not in known
    ]
    if found and not restore.selection.get("keep_going"):
        first = built.compared.words[:5]
        raise Rejected(
            f"What was built aside lacks something: {', '.join(found)[:500]}. First: {'; '.join(first)[:500]}",
            remedy="Nothing was switched. Choose another backup, or restore again with keep_going.",
        )


def _settle(restore: Restore, instance: Instance, lease: Lease) -> Next | None:
    """After the switch: the former node's engine is stopped, the instance runs with what it took over."""
    former = fleet.of(lease, Scratch.FORMER)
    if former is not None and not _is_away(former.node):  # what is not reached cannot hold up the new one
        waits = scratches.bring_to(former, STOPPED, lease)
        if waits is not None and not waits.failed:
            return _waits(restore, lease, waits)
    waits = switch.settled(instance)
    if waits is not None:
        return _waits(restore, lease, waits)
    return _done(restore, lease)


def _is_away(node: Node) -> bool:
    return Condition.objects.filter(kind="Node", object_id=node.name, type="Reachable", status="False").exists()


def _tidy(restore: Restore, instance: Instance | None, lease: Lease) -> Next | None:
    """Take away what was built aside, and, when a newer backup is there, what the instance had before."""
    scratch = fleet.of(lease)
    if scratch is not None:
        waits = scratches.remove(scratch, lease)
        if waits is not None:
            return Next(waits.after_s, waits.failed)
    former = fleet.of(lease, Scratch.FORMER)
    kept = instance is not None and Placement.objects.filter(instance=instance, kept=restore.key).exists()
    if former is None and not kept:
        leases.forget(lease.kind, lease.object_id)
        return None
    needless = instance is None or instance.deletion_requested_at is not None or _saved_since(restore, instance)
    if not needless:
        return Next(KEPT_S * random.uniform(0.8, 1.2))
    if former is not None:
        waits = scratches.remove(former, lease)
        if waits is not None:
            return Next(waits.after_s, waits.failed)
    if kept and instance is not None:
        with transaction.atomic():
            leases.hold(lease)
            scratches.forget_aside(instance, restore.key)
    return Next(0.1)


def _saved_since(restore: Restore, instance: Instance) -> bool:
    done = Backup.objects.filter(repository__instance=instance, kind=Backup.FULL, state=Backup.DONE)
    return done.filter(moment__gt=restore.switched_at or restore.created_at).exists()


def _report(taken: Taken) -> dict[str, object]:
    report = taken.report
    return {
        "made": report.made,
        "changed_pieces": report.changed,
        "skipped": report.skipped,
        "messages": taken.messages,
        "removed": taken.removed,
        "refused": [list(one) for one in report.refused[:MOST_REFUSED]],
        "refused_total": taken.refused_total,
        "not_carried": [list(one) for one in taken.not_carried[:MOST_REFUSED]],
        "not_carried_total": taken.not_carried_total,
    }


def _waits(restore: Restore, lease: Lease, waits: Wait) -> Next:
    if waits.failed and restore.switched_at is None:  # the node cannot make the scratch
        return _unavailable(restore, lease, Unavailable(waits.message))
    _write(restore, lease, progress={"phase": waits.reason, "message": waits.message})
    return Next(waits.after_s, waits.failed)


def _done(restore: Restore, lease: Lease, **more: object) -> Next:
    with transaction.atomic():
        _write(restore, lease, state=Restore.DONE, finished_at=timezone.now(), progress={}, error="", remedy="", **more)
        restoring.note(restore, SYSTEM, "restore.finish", "The restore is done")
    return Next(0.1)


def _cancelled(restore: Restore, lease: Lease, why: str = "") -> Next:
    _write(restore, lease, state=Restore.CANCELLED, finished_at=timezone.now(), progress={}, error=why)
    return Next(0.1)


def _failed(restore: Restore, lease: Lease, error: RoostError) -> Next:
    log.warning("%s failed: %s", restore, error)
    with transaction.atomic():
        _write(
            restore,
            lease,
            state=Restore.FAILED,
            finished_at=timezone.now(),
            progress={},
            error=error.message[:4000],
            remedy=error.remedy[:1000],
        )
        switch.tell_failed(restore, error.message)
        restoring.note(restore, SYSTEM, "restore.fail", f"The restore failed: {error.message[:300]}")
    return Next(0.1)


def _unavailable(restore: Restore, lease: Lease, error: RoostError) -> Next:
    if restore.switched_at is None and restore.attempts + 1 >= MAX_ATTEMPTS:
        return _failed(restore, lease, error)
    _write(restore, lease, attempts=restore.attempts + 1, error=error.message[:4000], remedy=error.remedy[:1000])
    retry = getattr(error, "retry_after_s", None)
    return Next(retry if retry is not None else min(60.0, backoff_s(restore.attempts + 1)), failed=True)


def _write(restore: Restore, lease: Lease, **values: object) -> None:
    with transaction.atomic():
        leases.hold(lease)
        Restore.objects.filter(pk=restore.pk).update(**values)
    for name, value in values.items():
        setattr(restore, name, value)
