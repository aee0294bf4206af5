"""ServerRunning: the node has applied the instance's bundle, and the engine has read it and answers.

The step writes what the node should apply and waits; applying is the node's own pass, for all of its waiting
instances in one run. What the engine has read is compared too, so a reload that a crash swallowed is made up for.
"""

from __future__ import annotations

import datetime
import random

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Placement
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Event
from controlplane.values.bundle import ABSENT, RUNNING, STOPPED
from controlplane.values.errors import Unavailable
from controlplane.values.outcome import Done, Outcome, Wait

#: The node's pass wakes the instance; this is only for the case that it cannot.
LOOK_AGAIN_S = 20.0
#: How long an engine that was applied may be silent before the node is asked to look after it.
START_S = 30.0
#: An engine that is silent again within this time is restarted.
SILENT_S = 240.0
SUSPENDED_S = 3600.0
#: The node's pass wakes it when the node is back.
AWAY_S = 300.0


class ServerRunning:
    condition = "ServerRunning"
    needs: tuple[str, ...] = ("NodeAssigned", "CertificateIssued", "TurnReady")

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        placement = subject.placement
        assert placement is not None  # NodeAssigned is needed
        digest = subject.bundle(RUNNING).digest()
        fleet.want(placement, digest=digest, state=RUNNING, lease=lease)
        if subject.node_is_away:
            return unreachable(placement)
        if placement.applied_digest != digest:
            return converging(placement)
        if placement.loaded_digest != digest:
            return None
        return self._alive(subject, placement, lease)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        """The files on the node are right, but the engine may not have read them."""
        placement = subject.placement
        assert placement is not None
        try:
            subject.control.reload()
        except Unavailable as error:
            return self._silent(subject, placement, lease, error)
        except (HostKeyUnknown, KeyRefused):
            return _lost(placement)
        fleet.mark_loaded(placement, lease)
        return self._alive(subject, placement, lease)

    def _alive(self, subject: Subject, placement: Placement, lease: Lease) -> Outcome:
        try:
            health = subject.control.health()
        except Unavailable as error:
            return self._silent(subject, placement, lease, error)
        except (HostKeyUnknown, KeyRefused):
            return _lost(placement)
        again_s = settings.ROOST["HEALTH_S"] * (0.75 + random.random() / 2)
        return Done("Running", f"{health.version} on {placement.node.name}, {health.sessions} sessions.", again_s)

    def _silent(self, subject: Subject, placement: Placement, lease: Lease, error: Unavailable) -> Outcome:
        """Just started, or in trouble: the supervisor restarts a crash; if that does not help, the node looks."""
        try:
            subject.check_line()
        except (Unavailable, HostKeyUnknown, KeyRefused):
            return _lost(placement)
        since = placement.applied_at or timezone.now()
        silent_s = (timezone.now() - since).total_seconds()
        if silent_s <= START_S and not _seen_to_hang(subject, since):
            return Wait("Starting", "The engine starts.", after_s=0.5 + silent_s / 8)
        # Applying starts what is gone. What runs and says nothing for long, inside and outside, hangs.
        hangs = _was_silent(subject)
        fleet.apply_again(placement, lease, hangs=hangs)
        what = "and is restarted" if hangs else "and the node looks after it"
        return Wait("EngineSilent", f"The engine does not answer, {what}: {error}", after_s=LOOK_AGAIN_S, failed=True)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        placement = subject.placement
        if placement is None:
            return Done()
        if not placement.wanted_digest and not placement.applied_digest:
            return Done()  # it never reached the node
        return bring_to(subject, ABSENT, lease) or Done()


def _seen_to_hang(subject: Subject, since: datetime.datetime) -> bool:
    """True if strangers found since then that it takes connections and says nothing: one that starts takes none yet."""
    told = Event.objects.filter(kind="Instance", object_id=subject.instance.key, type="IncidentOpened")
    return told.filter(reason="EngineSilent", at__gt=since).exists()


def _was_silent(subject: Subject) -> bool:
    """True if it was silent a short while ago, as its pass found, or as a look from outside told the history."""
    recent = timezone.now() - datetime.timedelta(seconds=SILENT_S)
    told = Event.objects.filter(kind="Instance", object_id=subject.instance.key, reason="EngineSilent", at__gte=recent)
    return told.exists()


class ServerStopped:
    """The same condition for an instance that is suspended or about to be terminated: its process does not run."""

    condition = "ServerRunning"
    needs: tuple[str, ...] = ("NodeAssigned",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        placement = subject.placement
        assert placement is not None
        if placement.wanted_digest or placement.applied_digest:
            waiting = bring_to(subject, STOPPED, lease)
            if waiting is not None:
                return waiting
        return Wait(*why_stopped(subject), after_s=SUSPENDED_S)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        raise AssertionError("observe always answers")

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        return ServerRunning().undo(subject, lease)


def bring_to(subject: Subject, state: str, lease: Lease) -> Outcome | None:
    """Ask the node for ``state``; None once it is so."""
    placement = subject.placement
    assert placement is not None
    digest = subject.bundle(state).digest()
    fleet.want(placement, digest=digest, state=state, lease=lease)
    if placement.applied_digest == digest:
        return None
    return unreachable(placement) if subject.node_is_away else converging(placement)


def unreachable(placement: Placement) -> Wait:
    """Its node is away: nothing of it is known or touched. The node's pass wakes it when it is back."""
    return Wait("NodeUnreachable", f"{placement.node.name} is not reached.", AWAY_S)


def _lost(placement: Placement) -> Wait:
    """Found by the instance before its node's own pass did, which is to look now and tell the others."""
    with transaction.atomic():
        watch.touch("Node", placement.node.name)
    return Wait("NodeUnreachable", f"{placement.node.name} is not reached.", LOOK_AGAIN_S)


def converging(placement: Placement) -> Wait:
    """What an instance says while its node has not applied it yet."""
    if placement.error:
        return Wait(
            "ConvergeFailed", f"{placement.node.name} could not apply it: {placement.error}", LOOK_AGAIN_S, failed=True
        )
    return Wait("Converging", f"{placement.node.name} applies it.", LOOK_AGAIN_S)


def why_stopped(subject: Subject) -> tuple[str, str]:
    """Reason and message for the conditions of an instance that should not run."""
    instance = subject.instance
    if instance.deletion_requested_at is not None:
        return (
            "Terminating",
            f"It is removed after {instance.delete_after:%Y-%m-%d %H:%M} UTC; until then it can be restored.",
        )
    return "Suspended", f"Suspended: {instance.suspended_reason or 'no reason given'}. All data is kept."
