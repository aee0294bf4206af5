"""Writes what a pass found, compare-and-set on the fence, and an event for each change."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone

from controlplane.reconcile import history, watch
from controlplane.reconcile.lease import Lease, hold
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding


def of(kind: str, object_id: str | int) -> dict[str, Condition]:
    """Condition type -> row."""
    return {c.type: c for c in Condition.objects.filter(kind=kind, object_id=str(object_id))}


def write(
    lease: Lease, findings: Sequence[Finding], *, generation: int, scope: str = "", order: Sequence[str] = ()
) -> bool:
    """Store the findings; True if any status or reason changed (watchers are touched then).

    ``order``: all conditions of this kind as people should see them; by default the order of the findings.

    Raises ``LeaseLost`` and writes nothing if the fence was overtaken.
    """
    with transaction.atomic():
        hold(lease)
        known = of(lease.kind, lease.object_id)
        moved = False
        for number, finding in enumerate(findings):
            position = order.index(finding.type) if finding.type in order else number
            row = known.get(finding.type)
            new = row is None
            if row is None:
                row = Condition(kind=lease.kind, object_id=lease.object_id, type=finding.type)
            status_moved = new or row.status != finding.status
            reason_moved = status_moved or row.reason != finding.reason
            if not reason_moved and _same(row, finding, generation, position):
                continue
            if status_moved:
                row.last_transition = timezone.now()
            row.status, row.reason = finding.status, finding.reason
            row.message, row.remedy, row.stalled = finding.message, finding.remedy, finding.stalled
            row.observed_generation, row.position = generation, position
            row.save()
            if reason_moved and not (new and finding.reason == "Waiting"):
                moved = True
                history.record(
                    lease.kind,
                    lease.object_id,
                    f"{finding.type}={finding.status}",
                    scope=scope,
                    reason=finding.reason,
                    message=finding.message,
                )
        if moved:
            watch.changed(lease.kind, lease.object_id)
    return moved


def _same(row: Condition, finding: Finding, generation: int, position: int) -> bool:
    return (
        row.message == finding.message
        and row.remedy == finding.remedy
        and row.stalled == finding.stalled
        and row.observed_generation == generation
        and row.position == position
    )
