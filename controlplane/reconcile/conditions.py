"""Writes what a pass found, compare-and-set on the fence, and an event for each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils import timezone

from controlplane.reconcile import history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding


def of(kind: str, object_id: str | int) -> dict[str, Condition]:
    """Condition type -> row."""
    return {c.type: c for c in Condition.objects.filter(kind=kind, object_id=str(object_id))}


def of_kinds(kinds: Sequence[str], object_id: str | int) -> dict[str, dict[str, Condition]]:
    """Kind -> what ``of`` gives, for resources of several kinds that have the same id; one query."""
    found: dict[str, dict[str, Condition]] = {kind: {} for kind in kinds}
    for row in Condition.objects.filter(kind__in=kinds, object_id=str(object_id)):
        found[row.kind][row.type] = row
    return found


def write(
    lease: Lease,
    findings: Sequence[Finding],
    *,
    generation: int,
    scope: str = "",
    order: Sequence[str] = (),
    known: Mapping[str, Condition] | None = None,
) -> bool:
    """Store the findings; True if any status or reason changed (watchers are touched then).

    ``order``: all conditions of this kind as people should see them; by default the order of the findings.
    ``known``: what ``of`` just gave, for whoever has asked already.

    Raises ``LeaseLost`` and writes nothing if the fence was overtaken.
    """
    # Most passes find what the one before found: nothing is to be written, so nothing has to be held.
    before = of(lease.kind, lease.object_id) if known is None else known
    if all(
        _is_known(before.get(finding.type), finding, generation, _position(finding, n, order))
        for n, finding in enumerate(findings)
    ):
        return False
    rows, events = [], []
    # Whoever had the lease before wrote nothing since ours began: what was read in this pass still holds.
    with holding(lease):
        for number, finding in enumerate(findings):
            position = _position(finding, number, order)
            row = before.get(finding.type)
            if _is_known(row, finding, generation, position):
                continue
            rows.append(_row(lease, row, finding, generation, position))
            moved = row is None or (row.status, row.reason) != (finding.status, finding.reason)
            if moved and not (row is None and finding.reason == "Waiting"):
                events.append((f"{finding.type}={finding.status}", finding.reason, finding.message))
        # Conditions, events and touches go in one statement, and so do all rows of each.
        writes = [_upsert(rows)]
        if events:
            writes.append(history.insert(lease.kind, lease.object_id, events, scope=scope))
            watch.changed(lease.kind, lease.object_id, along_with=writes)
        else:
            leases.touch_now([], along_with=writes)
    return bool(events)


_KEYS = ("kind", "object_id", "type")
_WRITTEN = ("status", "reason", "message", "remedy", "stalled", "observed_generation", "last_transition", "position")


def _upsert(rows: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
    """The statement that writes these rows (of ``_row``), and its parameters."""
    one = f"({', '.join(['%s'] * len(rows[0]))})"
    fresh = ", ".join(f"{name} = EXCLUDED.{name}" for name in _WRITTEN)
    sql = f"INSERT INTO reconcile_condition ({', '.join(_KEYS + _WRITTEN)}) VALUES {', '.join([one] * len(rows))} "  # noqa: S608
    return f"{sql}ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET {fresh}", [value for row in rows for value in row]


def _row(lease: Lease, before: Condition | None, finding: Finding, generation: int, position: int) -> tuple[Any, ...]:
    """Values of ``_KEYS`` and ``_WRITTEN``."""
    same_status = before is not None and before.status == finding.status
    return (
        lease.kind,
        lease.object_id,
        finding.type,
        finding.status,
        finding.reason,
        finding.message,
        finding.remedy,
        finding.stalled,
        generation,
        before.last_transition if before is not None and same_status else timezone.now(),
        position,
    )


def _position(finding: Finding, number: int, order: Sequence[str]) -> int:
    return order.index(finding.type) if finding.type in order else number


def _is_known(row: Condition | None, finding: Finding, generation: int, position: int) -> bool:
    """True if the row says all of it already."""
    return (
        row is not None
        and row.status == finding.status
        and row.reason == finding.reason
        and row.message == finding.message
        and row.remedy == finding.remedy
        and row.stalled == finding.stalled
        and row.observed_generation == generation
        and row.position == position
    )
