"""One pass over an instance: the steps, ``Ready`` over them, and the end of one that is terminated."""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from controlplane.provisioning import order
from controlplane.provisioning.steps.verified import lonely
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import conditions, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import Finding, Pass, PassResult
from controlplane.reconcile.watch import Next
from tenants import services as tenants
from tenants.models import Instance

log = logging.getLogger(__name__)


def reconcile(lease: Lease) -> Next | None:
    """Compare and act, once. None: the instance is gone."""
    subject = Subject.load(lease.object_id)
    if subject is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    instance = subject.instance
    if instance.deletion_due:
        return _terminate(subject, lease)
    steps = order.RUNNING if instance.should_run else order.STOPPED
    result = Pass(steps, subject, lease).forward()
    ready = _ready(subject, result)
    known = subject.conditions[lease.kind]
    was_ready = "Ready" in known and known["Ready"].status == "True"
    conditions.write(
        lease,
        [*result.findings, ready],
        generation=instance.generation,
        scope=instance.organisation.slug,
        order=order.CONDITIONS,
        known=known,
    )
    if ready.status == "True" and not was_ready:
        log.info("%s is Ready", instance)
        _tell_the_lonely(instance)
    after_s = result.next_s
    if instance.delete_after is not None:
        after_s = min(after_s, max(0.0, (instance.delete_after - timezone.now()).total_seconds()))
    return Next(after_s, result.failed)


def _ready(subject: Subject, result: PassResult) -> Finding:
    """True if every step is; else the first step that is not, and why."""
    if not subject.instance.should_run:
        reason = "Terminating" if subject.instance.deletion_requested_at is not None else "Suspended"
        return Finding("Ready", "False", reason, "It does not run, as wanted.")
    for finding in result.findings:
        if finding.status != "True" and finding.reason != "Waiting":
            return Finding(
                "Ready",
                "False",
                finding.reason,
                f"{finding.type}: {finding.message}",
                finding.remedy,
                stalled=finding.stalled,
            )
    return Finding("Ready", "True", "Ready", f"{subject.domain.unicode} is up, and a client's walk proved it.")


def _tell_the_lonely(instance: Instance) -> None:
    """Now that there is somebody to talk with, walks that lacked a peer are made again."""
    keys = lonely(instance)
    if keys:
        with transaction.atomic():
            watch.touch_all("Instance", keys)


def _terminate(subject: Subject, lease: Lease) -> Next | None:
    """Undo everything in reverse, then the rows. What is not gone yet is waited for."""
    instance = subject.instance
    run = Pass(order.RUNNING, subject, lease)
    gone = run.backward()
    if gone:
        with leases.holding(lease):
            tenants.finish_deletion(instance=instance)
            leases.forget(lease.kind, lease.object_id)
        log.info("%s is gone", instance)
        return None
    ready = Finding("Ready", "False", "Terminating", "It is being removed.")
    conditions.write(
        lease,
        [*run.result.findings, ready],
        generation=instance.generation,
        scope=instance.organisation.slug,
        order=order.CONDITIONS,
    )
    return Next(run.result.next_s, run.result.failed)
