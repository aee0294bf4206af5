"""A step and a pass over steps. A pass tries every step whose needs hold, and writes all conditions at its end.

A step looks (``observe``), and acts only on what differs. It never sleeps and keeps no cursor: whoever comes
next, after a crash too, observes again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from django.conf import settings

from controlplane import observing
from controlplane.reconcile import faults
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.values.errors import Conflict, Rejected, Unavailable
from controlplane.values.outcome import Done, Outcome, Stalled, Wait

log = logging.getLogger(__name__)

Subject = TypeVar("Subject")
Subject_contra = TypeVar("Subject_contra", contravariant=True)


class Step(Protocol[Subject_contra]):
    """One condition and how to make it true. ``needs``: conditions that must be true before it is tried."""

    condition: str
    needs: tuple[str, ...]

    def observe(self, subject: Subject_contra, lease: Lease) -> Outcome | None:
        """Read the world: an outcome if there is nothing to do now, None if ``act`` has to run."""

    def act(self, subject: Subject_contra, lease: Lease) -> Outcome:
        """Bring it about; safe to run twice, also after half of it was done."""

    def undo(self, subject: Subject_contra, lease: Lease) -> Outcome:
        """Take away what ``act`` made; ``Done`` if nothing is left of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a pass learned of one condition."""

    type: str
    status: str  # "True" | "False" | "Unknown"
    reason: str
    message: str = ""
    remedy: str = ""
    stalled: bool = False


@dataclass(slots=True)
class PassResult:
    """All findings of a pass, when to look again (seconds), and whether something failed (so back off)."""

    findings: list[Finding] = field(default_factory=list)
    next_s: float = 3600.0
    failed: bool = False

    def status(self, condition: str) -> str:
        return next((f.status for f in self.findings if f.type == condition), "Unknown")


def backoff_s(attempts: int) -> float:
    """Seconds to wait after ``attempts`` failures in a row: doubling from 1 s, capped, with jitter of one half."""
    cap: float = settings.ROOST["BACKOFF_CAP_S"]
    return min(cap, float(2 ** min(attempts, 12))) * (0.5 + random.random() / 2)


class Pass(Generic[Subject]):
    """Runs steps in order over one subject under one lease."""

    def __init__(self, steps: Sequence[Step[Subject]], subject: Subject, lease: Lease) -> None:
        self.steps, self.subject, self.lease = steps, subject, lease
        self.result = PassResult(next_s=settings.ROOST["RESYNC_S"])

    def forward(self) -> PassResult:
        """Try each step whose needs hold."""
        for step in self.steps:
            unmet = [need for need in step.needs if self.result.status(need) != "True"]
            if unmet:
                self.result.findings.append(
                    Finding(step.condition, "Unknown", "Waiting", f"Waits for {', '.join(unmet)}.")
                )
                continue
            with observing.timed("reconcile.step", kind=self.lease.kind, step=step.condition) as said:
                outcome = self._try(step)
                said.update(outcome=type(outcome).__name__.lower(), reason=outcome.reason)
            self._note(step.condition, outcome)
        return self.result

    def backward(self) -> bool:
        """Undo in reverse order; stops at the first that is not done, so nothing is orphaned. True: all gone."""
        for step in reversed(self.steps):
            outcome = self._guard(step.condition, lambda step=step: self._undo(step))
            if not isinstance(outcome, Done):
                self._note(step.condition, outcome)
                return False
            self.result.findings.append(Finding(step.condition, "False", "Removed"))
        return True

    def _try(self, step: Step[Subject]) -> Outcome:
        def run() -> Outcome:
            seen = step.observe(self.subject, self.lease)
            if seen is not None:
                return seen
            faults.point(f"before-{step.condition}")
            outcome = step.act(self.subject, self.lease)
            faults.point(f"after-{step.condition}")
            return outcome

        return self._guard(step.condition, run)

    def _undo(self, step: Step[Subject]) -> Outcome:
        faults.point(f"before-undo-{step.condition}")
        outcome = step.undo(self.subject, self.lease)
        faults.point(f"after-undo-{step.condition}")
        return outcome

    def _guard(self, condition: str, run) -> Outcome:  # type: ignore[no-untyped-def]
        where = f"{self.lease.kind} {self.lease.object_id} {condition}"
        try:
            outcome: Outcome = run()
            return outcome
        except LeaseLost:
            raise
        except Unavailable as error:
            self.result.failed = True
            log.info("%s: unavailable: %s", where, error)
            wait_s = error.retry_after_s if error.retry_after_s is not None else backoff_s(self.lease.attempts)
            return Wait("Unavailable", str(error), after_s=wait_s)
        except Conflict as error:
            log.warning("%s: conflict: %s", where, error)
            return Stalled("Conflict", error.message, error.remedy)
        except Rejected as error:
            log.warning("%s: rejected: %s", where, error)
            return Stalled("Rejected", error.message, error.remedy)
        except Exception as error:
            self.result.failed = True
            log.exception("%s: failed", where)
            # Tenants read conditions, and the text of an error that nobody foresaw may hold anything.
            message = f"An error of Roost's own ({type(error).__name__}); the worker's log has the details."
            return Wait("InternalError", message, after_s=backoff_s(self.lease.attempts))

    def _note(self, condition: str, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            finding, next_s = Finding(condition, "True", outcome.reason, outcome.message), outcome.resync_s
        elif isinstance(outcome, Wait):
            finding, next_s = Finding(condition, "False", outcome.reason, outcome.message), outcome.after_s
            self.result.failed = self.result.failed or outcome.failed
        else:
            finding = Finding(condition, "False", outcome.reason, outcome.message, outcome.remedy, stalled=True)
            next_s = outcome.recheck_s * (0.75 + random.random() / 2)
        self.result.findings.append(finding)
        self.result.next_s = min(self.result.next_s, next_s)
