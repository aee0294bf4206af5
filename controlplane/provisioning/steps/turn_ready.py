"""TurnReady: the TURN server knows the tenant's own secret, so credentials made with it allocate relays."""

from __future__ import annotations

from django.conf import settings

from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.turn import services as turn
from controlplane.values.outcome import Done, Outcome


class TurnReady:
    condition = "TurnReady"
    needs: tuple[str, ...] = ("DomainProven",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        if not settings.ROOST["TURN_HOST"]:
            return Done("NotOffered", "This provider runs no TURN service (ROOST_TURN_HOST is empty).")
        credential = turn.ensure_credential(subject.instance, lease)
        return self._done() if turn.is_published(credential) else None

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        turn.publish(turn.ensure_credential(subject.instance, lease))
        subject.forget("spec", "control")
        return self._done()

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        turn.remove(subject.instance)
        return Done()

    def _done(self) -> Done:
        conf = settings.ROOST
        return Done("SecretPublished", f"{conf['TURN_HOST']}:{conf['TURN_PORT']} knows the tenant's secret.")
