"""One pass over a node: every placement that waits is applied in one ansible run, each with its own result.

The lease is renewed while ansible works; a run whose lease is lost is cancelled, and the fence keeps a run that
outlives its worker from undoing a newer one.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.node.base import Applied
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node, Placement
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import conditions, faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import Finding, backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.bundle import Bundle
from controlplane.values.errors import RoostError, Unavailable

log = logging.getLogger(__name__)

LEASE_S = 180.0
RENEW_EVERY_S = 20.0
RUN_TIMEOUT_S = 150.0
RESYNC_S = 600.0
#: An engine that starts slowly or not at all does not hold up the others: its instance asks it from then on.
READY_LIMIT_S = 5
#: One run takes this many; the rest is due at once again. Bounds a run's length and its lease.
BATCH = 50


def reconcile(lease: Lease) -> Next | None:
    """Apply what waits. None: the node is gone."""
    node = Node.objects.filter(name=lease.object_id).first()
    if node is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    waiting = fleet.stale_placements(node, limit=BATCH + 1)
    batch = waiting[:BATCH]
    bundles: dict[str, Bundle] = {}
    for placement in batch:
        try:
            bundles[placement.instance.key] = Subject(placement.instance).bundle(placement.wanted_state)
        except RoostError as error:
            _failed(lease, placement, str(error))
    if not bundles:
        failing = node.placements.exclude(error="").count()
        if failing:
            _write(lease, Finding("Converged", "False", "Retrying", f"{failing} instances are tried again later."))
        else:
            _write(lease, Finding("Converged", "True", "AsWanted", "Nothing waits."))
        return Next(_next_retry_s(node))
    faults.point("before-converge")
    started = time.monotonic()
    try:
        results = wiring.node_driver().converge(
            fleet.target_of(node),
            list(bundles.values()),
            fence=lease.fence,
            timeout_s=RUN_TIMEOUT_S,
            cancelled=_Renewal(lease),
            ready_limit_s=READY_LIMIT_S,
        )
    except Unavailable as error:
        return _unavailable(lease, batch, str(error))
    except RoostError as error:
        for placement in batch:
            _failed(lease, placement, str(error))
        _write(lease, Finding("Converged", "False", "Rejected", error.message, error.remedy, stalled=True))
        return Next(backoff_s(lease.attempts), failed=True)
    faults.point("after-converge")
    took_s = time.monotonic() - started
    bad = _store(lease, batch, bundles, results)
    message = f"{len(bundles)} instances in {took_s:.2f} s, {len(bad)} failed."
    history.record("Node", node.name, "Converged", message=message)
    if bad:
        _write(lease, Finding("Converged", "False", "SomeFailed", f"{len(bad)} of {len(bundles)}: {bad[0]}"))
    else:
        _write(lease, Finding("Converged", "True", "AsWanted", f"Applied {len(bundles)} instances."))
    return Next(0.0 if len(waiting) > BATCH else _next_retry_s(node))


class _Renewal:
    """Asked again and again while ansible runs: renews the lease now and then; True once it is lost."""

    def __init__(self, lease: Lease) -> None:
        self._lease, self._next, self._lost = lease, time.monotonic() + RENEW_EVERY_S, False

    def __call__(self) -> bool:
        if not self._lost and time.monotonic() >= self._next:
            self._next = time.monotonic() + RENEW_EVERY_S
            self._lost = not leases.renew(self._lease, lease_s=LEASE_S)
        return self._lost


def _store(
    lease: Lease, batch: list[Placement], bundles: Mapping[str, Bundle], results: Mapping[str, Applied]
) -> list[str]:
    """Write each instance's result and wake it; the errors, worded."""
    bad = []
    for placement in batch:
        key = placement.instance.key
        if key not in bundles:
            continue
        applied = results.get(key) or Applied(key, error="The run gave no result for it.")
        if applied.error:
            bad.append(f"{key}: {applied.error}")
            _failed(lease, placement, applied.error)
            continue
        digest = bundles[key].digest()
        changes: dict[str, object] = {
            "applied_digest": digest,
            "applied_at": timezone.now(),
            "error": "",
            "failures": 0,
            "retry_at": None,
        }
        if applied.restarted:
            changes["loaded_digest"] = digest
        with transaction.atomic():
            leases.hold(lease)
            Placement.objects.filter(pk=placement.pk).update(**changes)
            watch.touch("Instance", key)
    return bad


def _failed(lease: Lease, placement: Placement, error: str) -> None:
    retry_at = timezone.now() + datetime.timedelta(seconds=backoff_s(placement.failures))
    with transaction.atomic():
        leases.hold(lease)
        Placement.objects.filter(pk=placement.pk).update(
            error=error[:4000], failures=F("failures") + 1, retry_at=retry_at
        )
        watch.touch("Instance", placement.instance.key)


def _unavailable(lease: Lease, batch: list[Placement], error: str) -> Next:
    """Nothing is known of any instance; each of them says so, and the node is tried again."""
    with transaction.atomic():
        leases.hold(lease)
        Placement.objects.filter(pk__in=[p.pk for p in batch]).exclude(error=error).update(error=error[:4000])
        for key in sorted(placement.instance.key for placement in batch):
            watch.touch("Instance", key)
    _write(lease, Finding("Converged", "False", "Unavailable", error))
    return Next(backoff_s(lease.attempts), failed=True)


def _write(lease: Lease, finding: Finding) -> None:
    conditions.write(lease, [finding], generation=0)


def _next_retry_s(node: Node) -> float:
    """Seconds until the first failed placement is tried again, at most the resync."""
    soonest = (
        node.placements.exclude(applied_digest=F("wanted_digest"))
        .filter(retry_at__isnull=False)
        .order_by("retry_at")
        .values_list("retry_at", flat=True)
        .first()
    )
    if soonest is None:
        return RESYNC_S
    return min(RESYNC_S, max(0.1, (soonest - timezone.now()).total_seconds()))
