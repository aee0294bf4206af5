"""Claims due resources and runs their passes until nothing is due. What a Celery task calls."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

from django.db import close_old_connections

from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.step import backoff_s

log = logging.getLogger(__name__)

POLL_S = 0.1


def holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident() % 100000}"


def run_one(queues: Sequence[str], *, lease_s: float = leases.LEASE_S) -> bool:
    """Claim one due resource and run its pass. False if nothing was due."""
    claimed = leases.claim(queues, holder=holder(), lease_s=lease_s)
    for lease in claimed:
        _run(lease)
    return bool(claimed)


def _run(lease: Lease) -> None:
    kind = watch.kind(lease.kind)
    if kind is None:
        log.error("nobody reconciles %s", lease.kind)
        leases.release(lease, after_s=60, attempts=lease.attempts + 1)
        return
    try:
        if kind.lease_s != leases.LEASE_S:
            leases.renew(lease, lease_s=kind.lease_s)
        outcome = kind.reconcile(lease)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return
    except Exception:
        log.exception("%s %s: the pass itself failed", lease.kind, lease.object_id)
        leases.release(lease, after_s=backoff_s(lease.attempts), attempts=lease.attempts + 1)
        return
    if outcome is None:  # the resource is gone, and its row with it
        return
    leases.release(lease, after_s=outcome.after_s, attempts=lease.attempts + 1 if outcome.failed else 0)


def drain(queues: Sequence[str], *, linger_s: float = 2.0, limit_s: float = 60.0) -> int:
    """Work until nothing is due, then stay while something falls due within ``linger_s``; how many passes ran.

    It ends after ``limit_s`` at the latest, so that a worker's shut-down is never held up for long; whatever is
    left, the next wake-up or sweep finds.
    """
    close_old_connections()
    started = time.monotonic()
    passes = 0
    while time.monotonic() - started < limit_s:
        if run_one(queues):
            passes += 1
            continue
        soonest = leases.soonest_due_s(queues)
        if soonest is None or soonest > linger_s:
            break
        time.sleep(min(POLL_S, max(0.01, soonest)))
    return passes
