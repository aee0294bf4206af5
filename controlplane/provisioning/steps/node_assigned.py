"""NodeAssigned: a node with room, and an address and ports on it, reserved before anything exists there."""

from __future__ import annotations

from controlplane.fleet import services as fleet
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome


class NodeAssigned:
    condition = "NodeAssigned"
    needs: tuple[str, ...] = ("DomainProven",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        placement = subject.placement
        return None if placement is None else Done("Placed", placement.explanation)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        placement = fleet.place(subject.instance, lease)
        subject.forget("placement", "spec", "control")
        return Done("Placed", placement.explanation)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        fleet.release_placement(subject.instance)
        subject.forget("placement", "spec", "control")
        return Done()
