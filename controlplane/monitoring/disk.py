"""Is a full disk behind what fails? Asked on the node while a check is down, since nobody sees it from outside.

From outside a full disk looks like an archive, an upload or a room that does not work. While there is such an
incident its instance has a work item "Disk"; if its directories have no room left the incident gets that for its
cause, and its own back when there is room again. Ending incidents is left to ``states``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import transaction

from controlplane import wiring
from controlplane.drivers.node import far
from controlplane.fleet.services import target_of
from controlplane.monitoring import incidents
from controlplane.monitoring.models import Incident
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import Rejected, Unavailable
from tenants.models import Instance

KIND = "Disk"
CAUSE = "DiskFull"
#: What else is known to be the cause has nothing to do with disks: names, certificates, the TURN server, clocks.
MAY_HIDE_IT = frozenset(
    {
        *("EngineDown", "EngineSilent", "StreamRefused", "WebFails", "LoginFails", "FeaturesMissing"),
        *("ArchiveFails", "UploadFails", "RoomsFail", "CheckFails"),
    }
)
#: Engines need a few blocks for anything; root's reserve is not theirs.
LEAST_BYTES = 1024 * 1024
ASK_S = 10.0
AGAIN_S = 15.0
#: In an incident's details: the cause that was seen from outside.
SEEN_AS = "seen_as"


def suspect(instance: Instance, cause: str) -> None:
    """Have it looked at, if a full disk may be behind this cause. In the caller's transaction."""
    if cause in MAY_HIDE_IT:
        watch.touch(KIND, instance.key)


def seen_as(incident: Incident) -> str:
    """The cause that the checks gave, whatever was found behind it."""
    return str(incident.details.get(SEEN_AS, incident.cause))


def look_again(incident: Incident) -> None:
    """The checks gave it another cause: what was found behind the one before is found anew."""
    if SEEN_AS in incident.details:
        incident.details = {name: value for name, value in incident.details.items() if name != SEEN_AS}
        incident.save(update_fields=["details"])


def reconcile(lease: Lease) -> Next | None:
    """One look at the directories of one instance; ``object_id`` is its key."""
    instance = Instance.objects.whole().filter(key=lease.object_id).first()
    told = _open(instance) if instance is not None and instance.should_run else []
    subject = Subject(instance) if instance is not None else None
    if not told or subject is None or subject.placement is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    try:
        full = _full(subject)
    except (Unavailable, Rejected):
        return Next(backoff_s(lease.attempts), failed=True)
    with transaction.atomic():
        leases.hold(lease)
        for incident in told:
            _name(incident, full)
    return Next(AGAIN_S)


def _open(instance: Instance) -> list[Incident]:
    rows = Incident.objects.filter(instance=instance, kind="check", ended_at=None)
    return [row for row in rows if seen_as(row) in MAY_HIDE_IT]


def _full(subject: Subject) -> str:
    """What has no room left, in words; empty if all have some."""
    placement = subject.placement
    assert placement is not None
    paths = subject.spec.paths
    directories = {
        str(path): name for path, name in ((paths.data, "data"), (paths.uploads, "uploads"), (paths.log, "log"))
    }
    said: Sequence[dict[str, Any]] = wiring.line(target_of(placement.node)).ask(
        far.source("room"), {"paths": list(directories)}, timeout_s=ASK_S
    )
    return ", ".join(_words({**one, "path": directories[one["path"]]} for one in said))


def _words(said: Iterable[dict[str, Any]]) -> Iterable[str]:
    for one in said:
        if one["free"] < min(LEAST_BYTES, one["total"]):
            left, total = one["free"] // 1024, one["total"] // (1024 * 1024)
            yield f"the file system of the directory {one['path']} has {left} KiB left of {total} MiB"
        elif one["inodes"] == 0:
            yield f"the file system of the directory {one['path']} has no inodes left"


def _name(incident: Incident, full: str) -> None:
    """Give the incident its cause, or its own back."""
    row = Incident.objects.select_for_update().filter(pk=incident.pk, ended_at=None).first()
    if row is None:
        return
    before = seen_as(row)
    if full and row.cause != CAUSE:
        row.details = {**row.details, SEEN_AS: before}
        row.save(update_fields=["details"])
        _rename(row, CAUSE, f"The disk is full: {full}. Make room, or move the instance.")
    elif not full and row.cause == CAUSE:
        _rename(row, before, "There is room on the disk again.")


def _rename(row: Incident, cause: str, message: str) -> None:
    incidents.open_incident(
        kind=row.kind, subject=row.subject, cause=cause, title=row.title, message=message, instance=row.instance
    )
