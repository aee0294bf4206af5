"""One pass over one drill: a backup into a scratch, read back and compared, measured, and everything of it taken away.

It is begun anew after an interruption. A drill that finds a difference has failed; one that could not be carried out
(no room for a scratch, a store that is not reached) says so and proves nothing.
"""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from controlplane.backups import building, sampling, sites
from controlplane.backups.attempt import Attempt
from controlplane.backups.building import Built
from controlplane.backups.models import Backup, Drill, Repository
from controlplane.backups.sampling import Sampled
from controlplane.certificates import services as certificates
from controlplane.drivers.store.base import Cancelled, Damaged
from controlplane.fleet import scratches as fleet
from controlplane.fleet.models import Scratch
from controlplane.provisioning import scratch as scratches
from controlplane.reconcile import faults, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.bundle import RUNNING
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.names import DomainName
from tenants.models import Instance

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
MOST_WORDS = 50


def reconcile(lease: Lease) -> Next | None:
    """None: it is over, and nothing of it is left but its row."""
    rows = Drill.objects.select_related("repository", "backup__repository__place")
    drill = rows.filter(key=lease.object_id).first()
    if drill is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    if drill.state not in Drill.OPEN:
        return _tidy(lease)
    try:
        return _advance(drill, lease)
    except Cancelled:
        return _over(drill, lease, Drill.CANCELLED)
    except Damaged as error:  # that is what a drill is for
        return _failed(drill, lease, {"differences": [error.message]}, error)
    except Unavailable as error:
        if drill.attempts + 1 >= MAX_ATTEMPTS:
            return _broken(drill, lease, error)
        _write(drill, lease, attempts=drill.attempts + 1, error=error.message[:4000], remedy=error.remedy[:1000])
        return Next(min(120.0, backoff_s(drill.attempts + 1)), failed=True)
    except RoostError as error:
        return _broken(drill, lease, error)


def _advance(drill: Drill, lease: Lease) -> Next:
    if drill.cancel_requested_at is not None:
        return _over(drill, lease, Drill.CANCELLED)
    instance = Instance.objects.whole().filter(pk=drill.repository.instance_id).first()
    if instance is None or instance.deletion_requested_at is not None:
        return _over(drill, lease, Drill.CANCELLED)
    if drill.backup is None or drill.backup.state != Backup.DONE:
        raise Rejected("The backup is gone.", remedy="The next drill takes another one.")
    scratch = fleet.make(instance, lease, engine=str(drill.backup.engine.get("name") or instance.engine))
    if drill.started_at is None:
        _write(drill, lease, state=Drill.RUNNING, started_at=timezone.now())
    waits = scratches.bring_to(scratch, RUNNING, lease)
    if waits is not None:
        _write(drill, lease, progress={"phase": waits.reason, "message": waits.message})
        if waits.failed and drill.attempts + 1 >= MAX_ATTEMPTS:
            raise Rejected(waits.message)
        if waits.failed:
            _write(drill, lease, attempts=drill.attempts + 1)
        return Next(waits.after_s, waits.failed)
    return _prove(drill, drill.backup, scratch, instance, lease)


def _prove(drill: Drill, backup: Backup, scratch: Scratch, instance: Instance, lease: Lease) -> Next:
    attempt = Attempt(drill, lease)
    try:
        built = building.build(backup, sites.of_scratch(scratch), attempt)
        there_at = timezone.now()
        attempt.tell({"phase": "looking as clients"}, at_once=True)
        sampled = sampling.look(
            sites.of_scratch(scratch), DomainName(instance.domain.name), roots=certificates.probe_roots()
        )
    finally:
        attempt.check()
    faults.point("after-drill")
    result = _result(built, sampled)
    if result["differences"] or built.compared.total:
        return _failed(drill, lease, result)
    began = drill.started_at or there_at
    rto_s = (there_at - began).total_seconds()
    # How old what was restored is: what would have been lost, had the instance been lost when the drill began.
    rpo_s = (began - backup.moment).total_seconds() if backup.moment else 0.0
    with transaction.atomic():
        _write(
            drill,
            lease,
            state=Drill.PASSED,
            finished_at=timezone.now(),
            result=result,
            rpo_s=rpo_s,
            rto_s=rto_s,
            progress={},
            error="",
            remedy="",
        )
        proven = {"proven_at": there_at, "rpo_s": rpo_s, "rto_s": rto_s}
        Repository.objects.filter(pk=drill.repository_id).update(**proven)
        _tell(drill, "DrillPassed", f"The backup {backup.key} was restored aside in {rto_s:.0f} s, and all was there.")
    return Next(0.1)


def _result(built: Built, sampled: Sampled) -> dict[str, object]:
    compared = built.compared
    return {
        "checked": built.checked,
        "missing": compared.missing.total,
        "changed": compared.changed.total,
        "added": compared.added.total,
        # What an engine has no place for it keeps beside and gives back; so only the comparison tells of a loss.
        "refused": built.taken.refused_total,
        "as_client": dict(sampled.checked),
        "differences": [*compared.words, *sampled.differences][:MOST_WORDS],
    }


def _failed(drill: Drill, lease: Lease, result: dict[str, object], error: RoostError | None = None) -> Next:
    words = result.get("differences") or ["something differs"]
    first = "; ".join(str(word) for word in words[:5])  # type: ignore[index]  # a list of words
    with transaction.atomic():
        _write(
            drill,
            lease,
            state=Drill.FAILED,
            finished_at=timezone.now(),
            result=result,
            progress={},
            error=error.message[:4000] if error is not None else "",
            remedy=error.remedy[:1000] if error is not None else "",
        )
        _tell(drill, "DrillFailed", f"It is not as it was saved: {first}"[:1000])
    return Next(0.1)


def _broken(drill: Drill, lease: Lease, error: RoostError) -> Next:
    with transaction.atomic():
        _write(
            drill,
            lease,
            state=Drill.BROKEN,
            finished_at=timezone.now(),
            progress={},
            error=error.message[:4000],
            remedy=error.remedy[:1000],
        )
        _tell(drill, "DrillBroken", f"The drill could not be carried out: {error.message}"[:1000])
    return Next(0.1)


def _over(drill: Drill, lease: Lease, state: str) -> Next:
    _write(drill, lease, state=state, finished_at=timezone.now(), progress={})
    return Next(0.1)


def _tidy(lease: Lease) -> Next | None:
    scratch = fleet.of(lease)
    if scratch is not None:
        waits = scratches.remove(scratch, lease)
        if waits is not None:
            return Next(waits.after_s, waits.failed)
    leases.forget(lease.kind, lease.object_id)
    return None


def _tell(drill: Drill, event: str, message: str) -> None:
    """The history; the condition follows, since the clock of the backups is touched."""
    repository = drill.repository
    scope = repository.organisation_slug if repository.organisation_id else ""
    history.record("Instance", repository.instance_key, event, scope=scope, reason=drill.state, message=message)
    watch.touch("Backups", repository.instance_key)
    log.info("%s: %s", repository.domain, message)


def _write(drill: Drill, lease: Lease, **values: object) -> None:
    with transaction.atomic():
        leases.hold(lease)
        Drill.objects.filter(pk=drill.pk).update(**values)
    for name, value in values.items():
        setattr(drill, name, value)
