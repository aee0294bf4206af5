"""EdgeRouted: the standard ports of the edge lead to the instance; for one that should not run, they do not."""

from __future__ import annotations

from controlplane.fleet import services as fleet
from controlplane.provisioning.steps.server_running import SUSPENDED_S, why_stopped
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome, Wait


class EdgeRouted:
    condition = "EdgeRouted"
    needs: tuple[str, ...] = ("ServerRunning",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        assert subject.placement is not None
        row = fleet.route(subject.instance, list(subject.server_names), subject.placement, lease)
        return self._done(subject) if fleet.is_routed(row) else None

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        assert subject.placement is not None
        row = fleet.route(subject.instance, list(subject.server_names), subject.placement, lease)
        fleet.publish_route(row)
        return self._done(subject)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        fleet.remove_route(subject.instance)
        return Done()

    def _done(self, subject: Subject) -> Done:
        placement = subject.placement
        assert placement is not None
        where = f"{placement.address}:{placement.base_port} on {placement.node.name}"
        return Done("Routed", f"The edge leads {len(subject.server_names)} names to {where}.")


class EdgeUnrouted:
    """The same condition for an instance that is suspended or about to be terminated."""

    condition = "EdgeRouted"
    needs: tuple[str, ...] = ()

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        return None if fleet.has_route(subject.instance) else Wait(*why_stopped(subject), after_s=SUSPENDED_S)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        fleet.remove_route(subject.instance)
        return Wait(*why_stopped(subject), after_s=SUSPENDED_S)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        return EdgeRouted().undo(subject, lease)
