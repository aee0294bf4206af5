"""EdgeRouted: the standard ports of its edges lead to the instance; for one that should not run, they do not.

Several edges may lead to it. One that is not reached holds nobody up: it is named, and its own node's pass gives it
what it missed when it is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controlplane.fleet import routes
from controlplane.fleet.edges import OVERLAP_S
from controlplane.fleet.models import EdgeRoute
from controlplane.provisioning.steps.server_running import SUSPENDED_S, why_stopped
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.errors import RoostError
from controlplane.values.outcome import Done, Outcome, Wait

#: An edge's return touches its instances; this is only for the case that it cannot.
LOOK_AGAIN_S = 30.0
#: DNS names edges that have the route: when that changed, the records are looked at at once.
DNS_AGAIN_S = 0.1
#: While its node's firewall is about to let new edges in.
CLOSED_S = 3.0


class EdgeRouted:
    condition = "EdgeRouted"
    needs: tuple[str, ...] = ("ServerRunning",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        assert subject.placement is not None
        subject.edge_routes = routes.route(
            subject.instance,
            subject.server_names,
            subject.placement,
            lease,
            edges=(*subject.edges, *subject.outgoing_edges),
            rows=subject.edge_routes,
        )
        led, near, stale = _sorted(subject)
        if not near:
            return self._unreachable(led)
        if stale:
            return None
        try:
            routed = all(routes.is_routed(row) and row.routed_at is not None for row in near)
        except RoostError:
            return None  # whichever it is, the others get theirs
        return self._done(subject, led, near) if routed else None

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        led, near, stale = _sorted(subject)
        before = subject.edge_addresses
        routes.publish(near)
        routes.withdraw(stale)
        done = self._done(subject, led, near)
        return done if subject.edge_addresses == before else replace(done, resync_s=DNS_AGAIN_S)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        left = routes.remove_routes(subject.instance, lease)
        if left:
            return Wait("EdgeUnreachable", f"{_still_there(left)} Retire it if it does not come back.", LOOK_AGAIN_S)
        return Done()

    def _done(self, subject: Subject, led: Sequence[EdgeRoute], near: Sequence[EdgeRoute]) -> Done:
        placement = subject.placement
        assert placement is not None
        by = "The edge leads" if len(led) == 1 else f"{_names(near)} lead{'s' if len(near) == 1 else ''}"
        where = f"{placement.address}:{placement.base_port} on {placement.node.name}"
        said = [f"{by} {len(subject.server_names)} names to {where}.", *_left_out(led)]
        outgoing = subject.outgoing_edges
        if not outgoing:
            return Done("Routed", " ".join(said))
        names = ", ".join(edge.name for edge in outgoing)
        said.append(f"Forwarding still, until the others have taken over: {names}.")
        return Done("Routed", " ".join(said), resync_s=CLOSED_S if _is_closed(subject) else OVERLAP_S)

    def _unreachable(self, led: Sequence[EdgeRoute]) -> Wait:
        if not led:
            message = "No edge leads to its node: there is no shared edge, and the node has none of its own."
            return Wait("NoEdge", message, LOOK_AGAIN_S)
        return Wait("EdgeUnreachable", " ".join(_left_out(led)), LOOK_AGAIN_S)


class EdgeUnrouted:
    """The same condition for an instance that is suspended or about to be terminated."""

    condition = "EdgeRouted"
    needs: tuple[str, ...] = ()

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        rows = subject.edge_routes
        if any(row.base_port != routes.WITHDRAWN or routes.is_removable(row) for row in rows):
            return None
        return self._stopped(subject, rows)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        return self._stopped(subject, routes.remove_routes(subject.instance, lease))

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        return EdgeRouted().undo(subject, lease)

    def _stopped(self, subject: Subject, left: Sequence[EdgeRoute]) -> Wait:
        reason, message = why_stopped(subject)
        return Wait(reason, f"{message} {_still_there(left)}".strip() if left else message, after_s=SUSPENDED_S)


def _sorted(subject: Subject) -> tuple[list[EdgeRoute], list[EdgeRoute], list[EdgeRoute]]:
    """Those that lead to it; of them those whose edges are waited for; and those that can be taken away now."""
    rows = subject.edge_routes
    led = [row for row in rows if row.base_port != routes.WITHDRAWN]
    near = [row for row in led if not routes.is_left_out(row)]
    over = {edge.pk for edge in subject.outgoing_edges}
    if over and _is_closed(subject):
        near = [row for row in near if row.edge_id in over]
    else:
        near = [row for row in near if row.edge_id not in over] or near
    stale = [row for row in rows if row.base_port == routes.WITHDRAWN and routes.is_removable(row)]
    return led, near, stale


def _is_closed(subject: Subject) -> bool:
    """True while its node waits for a run of the roles, before which its firewall may keep new edges out."""
    node = subject.placement.node if subject.placement is not None else None
    return node is not None and node.connection != "local" and node.prepare_wanted > node.prepare_done


def _names(rows: Sequence[EdgeRoute]) -> str:
    names = [row.edge.name for row in rows]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _left_out(led: Sequence[EdgeRoute]) -> list[str]:
    """Sentences that name the edges that nobody waits for."""
    away = [row for row in led if routes.is_away(row)]
    fresh = [row for row in led if routes.is_left_out(row) and not routes.is_away(row)]
    said = []
    if away:
        said.append(f"Not reached, and given its routes when it is back: {_names(away)}.")
    if fresh:
        said.append(f"Not prepared yet: {_names(fresh)}.")
    return said


def _still_there(left: Sequence[EdgeRoute]) -> str:
    return f"Not reached, and still leading to it until then: {_names(left)}."
