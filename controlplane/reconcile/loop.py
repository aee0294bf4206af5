"""Claims due resources and runs their passes until nothing is due. What a Celery task calls."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

from django.db import InterfaceError, OperationalError, close_old_connections, connection

from controlplane import logs, observing
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.step import backoff_s

log = logging.getLogger(__name__)

POLL_S = 0.1
#: How long a pass that is done waits for a database that is being restarted.
RELEASE_LIMIT_S = 60.0


def holder() -> str:
    """Host, process and thread: enough to tell on the same host whether a holder still lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident() % 100000}"


def bury_the_dead() -> int:
    """End the leases of processes of this host that are gone, instead of waiting until they run out; how many.

    A process that lives is never taken for dead. One whose number was given to another is waited for.
    """
    here = socket.gethostname()
    ended = 0
    for name in leases.holders():
        host, _, rest = name.partition(":")
        pid = rest.partition(":")[0]
        if host == here and pid.isdigit() and not _lives(int(pid)):
            ended += leases.take_from(name)
            log.warning("%s died with a lease", name)
    return ended


def _lives(pid: int) -> bool:
    """Asked by signal 0 and not of /proc, which may hide other users' processes (hidepid): the node worker's is one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def run_one(queues: Sequence[str], *, lease_s: float = leases.LEASE_S) -> bool:
    """Claim one due resource and run its pass. False if nothing was due."""
    claimed = leases.claim(queues, holder=holder(), lease_s=lease_s)
    for lease in claimed:
        named = {"request": lease.origin} if lease.origin else {}
        with (
            logs.bound(kind=lease.kind, object=lease.object_id, fence=str(lease.fence), **named),
            observing.timed("reconcile.pass", kind=lease.kind, queue=lease.queue) as said,
        ):
            said["outcome"] = _run(lease)
    return bool(claimed)


def _run(lease: Lease) -> str:
    """One pass; in a word, how it ended."""
    kind = watch.kind(lease.kind)
    if kind is None:
        log.error("nobody reconciles %s", lease.kind)
        leases.release(lease, after_s=60, attempts=lease.attempts + 1)
        return "unknown"
    try:
        if kind.lease_s != leases.LEASE_S:
            leases.renew(lease, lease_s=kind.lease_s)
        outcome = kind.reconcile(lease)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return "lost"
    except Exception:
        log.exception("%s %s: the pass itself failed", lease.kind, lease.object_id)
        _release(lease, after_s=backoff_s(lease.attempts), attempts=lease.attempts + 1)
        return "error"
    if outcome is None:  # the resource is gone, and its row with it
        return "gone"
    _release(lease, after_s=outcome.after_s, attempts=lease.attempts + 1 if outcome.failed else 0)
    return "failed" if outcome.failed else "done"


def _release(lease: Lease, *, after_s: float, attempts: int) -> None:
    """Give it back, also when the database was restarted meanwhile: else the resource rests until the lease ends."""
    deadline = time.monotonic() + RELEASE_LIMIT_S
    while True:
        try:
            leases.release(lease, after_s=after_s, attempts=attempts)
            return
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if time.monotonic() > deadline:
                raise
            log.warning("%s %s: the database does not answer: %s", lease.kind, lease.object_id, error)
            time.sleep(0.5)


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
