"""TurnReady: the TURN server knows the tenant's own secret, so credentials made with it allocate relays.

While an instance should not run, the server does not know it: credentials that were given out before open nothing.
"""

from __future__ import annotations

from django.conf import settings

from controlplane.provisioning.steps.server_running import SUSPENDED_S, why_stopped
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.turn import services as turn
from controlplane.turn.models import TurnCredential
from controlplane.values.outcome import Done, Outcome, Wait


class TurnReady:
    condition = "TurnReady"
    needs: tuple[str, ...] = ("DomainProven",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        if not settings.ROOST["TURN_HOST"]:
            return Done("NotOffered", "This provider runs no TURN service (ROOST_TURN_HOST is empty).")
        credential = turn.ensure_credential(subject.instance, lease, subject.turn_credential)
        subject.turn_credential = credential
        return self._done(subject, credential) if turn.is_published(credential) else None

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        credential = turn.ensure_credential(subject.instance, lease, subject.turn_credential)
        subject.turn_credential = credential
        turn.publish(credential)
        subject.forget("spec", "control")
        return self._done(subject, credential)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        turn.remove(subject.instance)
        return Done()

    def _done(self, subject: Subject, credential: TurnCredential) -> Done:
        conf = settings.ROOST
        message = f"{conf['TURN_HOST']}:{conf['TURN_PORT']} knows the tenant's secret."
        if credential.rotation != subject.instance.rotate_turn and credential.retire_at is not None:
            message += (
                " The rotation that was asked for since is made when the secret before this one retires,"
                f" at {credential.retire_at:%Y-%m-%d %H:%M} UTC."
            )
        return Done("SecretPublished", message)


class TurnWithheld:
    """The same condition for an instance that is suspended or about to be terminated."""

    condition = "TurnReady"
    needs: tuple[str, ...] = ()

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        return Wait(*why_stopped(subject), after_s=SUSPENDED_S) if turn.is_withheld(subject.instance) else None

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        turn.withhold(subject.instance)
        return Wait(*why_stopped(subject), after_s=SUSPENDED_S)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        return TurnReady().undo(subject, lease)
