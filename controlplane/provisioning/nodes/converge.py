"""Converged: every placement and scratch that waits is applied in one ansible run, each with its own result.

The lease is renewed while ansible works; a run whose lease is lost is cancelled, and the fence keeps a run that
outlives its worker from undoing a newer one.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from django.db import transaction
from django.db.models import F, Min
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.node.base import Applied
from controlplane.fleet import scratches
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node, Placement, Scratch
from controlplane.provisioning import scratch as scratch_bundles
from controlplane.provisioning.renewal import Renewal
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import Finding, backoff_s
from controlplane.values.bundle import Bundle
from controlplane.values.errors import RoostError, Unavailable

log = logging.getLogger(__name__)

CONVERGED = "Converged"
LEASE_S = 180.0
RUN_TIMEOUT_S = 150.0
#: The pass looks again by then anyway.
REST_S = 600.0
#: An engine that starts slowly or not at all does not hold up the others: its instance asks it from then on.
READY_LIMIT_S = 5
#: One run takes this many; the rest is due at once again. Bounds a run's length and its lease.
BATCH = 50


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it, when to run again at the latest (seconds), and whether the node was lost meanwhile."""

    finding: Finding
    again_s: float = REST_S
    failed: bool = False


Row = Placement | Scratch


def _key(row: Row) -> str:
    """Under which it is known on its node."""
    return row.key if isinstance(row, Scratch) else row.instance.key


def _bundle(row: Row) -> Bundle:
    if isinstance(row, Scratch):
        return scratch_bundles.bundle_of(row, row.wanted_state)
    bundle = Subject(row.instance).bundle(row.wanted_state)
    hangs = row.applied_digest == fleet.HANGS
    return replace(bundle, restart=hangs or row.applied_digest == fleet.RESTART, hangs=hangs)


def _touch(row: Row) -> None:
    """Wake whom the result concerns."""
    if isinstance(row, Scratch):
        watch.touch(row.owner_kind, row.owner_id)
    else:
        watch.touch("Instance", row.instance.key)


def converge(node: Node, lease: Lease) -> Run:
    """Apply what waits. Raises ``LeaseLost``."""
    waiting: list[Row] = [*fleet.stale_placements(node, limit=BATCH + 1)]
    waiting += scratches.stale(node, limit=max(1, BATCH + 1 - len(waiting)))
    batch = waiting[:BATCH]
    bundles: dict[str, Bundle] = {}
    for row in batch:
        try:
            bundles[_key(row)] = _bundle(row)
        except RoostError as error:
            _failed(lease, row, str(error))
    if not bundles:
        return _nothing(node)
    begun = [row for row in batch if _key(row) in bundles]
    fleet.mark_applying([row for row in begun if isinstance(row, Placement)], lease)
    if any(isinstance(row, Scratch) for row in begun):
        scratches.mark_applying([row for row in begun if isinstance(row, Scratch)], lease)
    faults.point("before-converge")
    started = time.monotonic()
    try:
        results = wiring.node_driver().converge(
            fleet.target_of(node),
            list(bundles.values()),
            fence=lease.fence,
            timeout_s=RUN_TIMEOUT_S,
            cancelled=Renewal(lease, lease_s=LEASE_S),
            ready_limit_s=READY_LIMIT_S,
        )
    except Unavailable as error:
        return _unavailable(lease, batch, str(error))
    except RoostError as error:
        for row in batch:
            _failed(lease, row, str(error))
        finding = Finding(CONVERGED, "False", "Rejected", error.message, error.remedy, stalled=True)
        return Run(finding, backoff_s(lease.attempts), failed=True)
    faults.point("after-converge")
    took_s = time.monotonic() - started
    bad = _store(lease, batch, bundles, results)
    history.record(
        "Node", node.name, CONVERGED, message=f"{len(bundles)} instances in {took_s:.2f} s, {len(bad)} failed."
    )
    again_s = 0.0 if len(waiting) > BATCH else _next_retry_s(node)
    if bad:
        return Run(Finding(CONVERGED, "False", "SomeFailed", f"{len(bad)} of {len(bundles)}: {bad[0]}"), again_s)
    return Run(Finding(CONVERGED, "True", "AsWanted", f"Applied {len(bundles)} instances."), again_s)


def _nothing(node: Node) -> Run:
    rows = (node.placements, node.scratches)
    failing = sum(some.exclude(error="").exclude(applied_digest=F("wanted_digest")).count() for some in rows)
    if failing:
        finding = Finding(CONVERGED, "False", "Retrying", f"{failing} instances are tried again later.")
        return Run(finding, _next_retry_s(node))
    return Run(Finding(CONVERGED, "True", "AsWanted", "Nothing waits."))


def _store(lease: Lease, batch: list[Row], bundles: Mapping[str, Bundle], results: Mapping[str, Applied]) -> list[str]:
    """Write each instance's result and wake it; the errors, worded."""
    bad = []
    for row in batch:
        key = _key(row)
        if key not in bundles:
            continue
        applied = results.get(key) or Applied(key, error="The run gave no result for it.")
        if applied.error:
            bad.append(f"{key}: {applied.error}")
            _failed(lease, row, applied.error)
            continue
        digest = bundles[key].digest()
        changes: dict[str, object] = {
            "applied_digest": digest,
            "applied_at": timezone.now(),
            "error": "",
            "failures": 0,
            "retry_at": None,
        }
        if applied.restarted and isinstance(row, Placement):
            changes["loaded_digest"] = digest
        with transaction.atomic():
            leases.hold(lease)
            type(row).objects.filter(pk=row.pk).update(**changes)
            _touch(row)
    return bad


def _failed(lease: Lease, row: Row, error: str) -> None:
    retry_at = timezone.now() + datetime.timedelta(seconds=backoff_s(row.failures))
    with transaction.atomic():
        leases.hold(lease)
        type(row).objects.filter(pk=row.pk).update(error=error[:4000], failures=F("failures") + 1, retry_at=retry_at)
        _touch(row)


def _unavailable(lease: Lease, batch: list[Row], error: str) -> Run:
    """Nothing is known of any instance; each of them says so, and the node is looked at again soon."""
    with transaction.atomic():
        leases.hold(lease)
        for model in (Placement, Scratch):
            concerned = [row.pk for row in batch if isinstance(row, model)]
            model.objects.filter(pk__in=concerned).exclude(error=error).update(error=error[:4000])
        for row in sorted(batch, key=_key):
            _touch(row)
    return Run(Finding(CONVERGED, "False", "Unavailable", error), backoff_s(lease.attempts), failed=True)


def _next_retry_s(node: Node) -> float:
    """Seconds until the first that failed is tried again, at most the rest."""
    waiting = [
        some.exclude(applied_digest=F("wanted_digest")).aggregate(soonest=Min("retry_at"))["soonest"]
        for some in (node.placements, node.scratches)
    ]
    now = timezone.now()
    left_s: list[float] = [max(0.1, (at - now).total_seconds()) for at in waiting if at is not None]
    return min([REST_S, *left_s])
