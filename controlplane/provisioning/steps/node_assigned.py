"""NodeAssigned: a node with room, and an address and ports on it, reserved before anything exists there."""

from __future__ import annotations

from controlplane.fleet import placing, scratches
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome, Wait

#: Whoever has them wakes nobody when they are gone.
SCRATCHES_S = 5.0


class NodeAssigned:
    condition = "NodeAssigned"
    needs: tuple[str, ...] = ("DomainProven",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        placement = subject.placement
        if placement is None:
            return None
        return Done("Placed", placing.told(placement, subject.instance.plan, subject.instance.node_labels))

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        placement = placing.place(subject.instance, lease)
        subject.forget("spec", "control", "edges", "outgoing_edges")
        subject.placement = placement
        return Done("Placed", placement.explanation)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        left = scratches.touch_owners_of(subject.instance)
        if left:  # restores and drills see that it goes, and take theirs away
            return Wait("ScratchesLeft", f"{left} scratches of it are being removed.", SCRATCHES_S)
        placing.release_placement(subject.instance)
        subject.forget("placement", "spec", "control")
        return Done()
