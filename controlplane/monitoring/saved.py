"""Backups that are not as they should be are incidents, so that people are told as they wish to be.

What is so is read from the conditions of kind "Backups", which the backups' own clock writes; that room is not known
here. An incident ends when its condition is no longer False.
"""

from __future__ import annotations

from django.db import transaction

from controlplane.monitoring import incidents
from controlplane.reconcile import conditions
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition
from controlplane.reconcile.watch import Next
from tenants.models import Instance

KIND = "BackupAlarm"
#: Condition -> what an incident of it is called.
TITLES = {
    "BackedUp": "{} is not backed up as its schedule says",
    "MembersSaved": "Members and rooms of {} are not saved as the schedule says",
    "RepositorySound": "Backups of {} are damaged",
    "BackupProven": "A backup of {} could not be proven",
}
#: What is "False" and nothing to be told of: there is no place at all, or nothing was tried yet.
QUIET = frozenset({("BackedUp", "NoPlace"), ("BackupProven", "Never"), ("BackupProven", "Due")})


def reconcile(lease: Lease) -> Next | None:
    """Compare the conditions of one instance's backups with the open incidents; ``object_id`` is its key."""
    instance = Instance.objects.whole().filter(key=lease.object_id).first()
    found = conditions.of("Backups", lease.object_id)
    with transaction.atomic():
        leases.hold(lease)
        for name, title in TITLES.items():
            row = found.get(name)
            if instance is not None and row is not None and _is_told(row, found):
                incidents.open_incident(
                    kind="backup",
                    subject=subject_of(instance.key, name),
                    cause=f"{name}{row.reason}",
                    title=title.format(instance.domain.name),
                    message=f"{row.message} {row.remedy}".strip(),
                    instance=instance,
                    started_at=row.last_transition,
                )
            else:
                incidents.end_incident(subject_of(lease.object_id, name), row.message if row else "It is gone.")
        # It is touched when something changes; nothing is to be looked at meanwhile.
        leases.forget(lease.kind, lease.object_id)
    return None


def subject_of(key: str, condition: str) -> str:
    """What an incident is about."""
    return f"backup:{key}:{condition}"


def _is_told(row: Condition, found: dict[str, Condition]) -> bool:
    if row.status != "False" or (row.type, row.reason) in QUIET:
        return False
    # One trouble is one incident: if nothing is saved, members are not either.
    return not (row.type == "MembersSaved" and "BackedUp" in found and found["BackedUp"].status == "False")
