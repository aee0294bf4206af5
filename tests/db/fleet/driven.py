"""A driver of nodes that answers at once, and passes run by hand: what is tested is who decides what, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.drivers.node.base import Applied, Prepared, Task
from controlplane.fleet.models import Node
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import WorkItem


@dataclass
class Machines:
    """Implements ``NodeDriver``. ``newest``: what an upgrade brings; ``trouble``: what a preparation raises."""

    newest: dict[str, str] = field(default_factory=dict)
    installed: dict[str, dict[str, str]] = field(default_factory=dict)
    trouble: dict[str, Exception] = field(default_factory=dict)
    meanwhile: Callable[[Callable[[], bool]], None] | None = None
    name: str = "test"
    runs: list[dict] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)

    def prepare(
        self, target, *, groups, variables, fence, timeout_s, cancelled=lambda: False, check=False, upgrade=False
    ):
        self.runs.append(
            {"node": target.name, "groups": groups, "variables": variables, "fence": fence, "upgrade": upgrade}
        )
        if self.meanwhile is not None:
            self.meanwhile(cancelled)
        before = dict(self.installed.get(target.name, {}))
        if upgrade:
            self.installed[target.name] = {**before, **self.newest}
        if target.name in self.trouble:
            raise self.trouble[target.name]
        return Prepared((Task("edge", "Carry the configuration"),), before, dict(self.installed.get(target.name, {})))

    def converge(self, target, bundles, *, fence, timeout_s, cancelled=lambda: False, check=False, ready_limit_s=600):
        self.restarts += [bundle.key for bundle in bundles if bundle.restart]
        return {b.key: Applied(b.key, changed=True, restarted=b.restart, running=True) for b in bundles}


def claim(kind: str, object_id: object) -> Lease:
    """The lease of this one resource, due or not, whoever has it."""
    watch.touch(kind, str(object_id))
    WorkItem.objects.filter(kind=kind, object_id=str(object_id)).update(leased_until=None)
    for lease in leases.claim(["node", "reconcile"], holder="test", limit=100):
        if (lease.kind, lease.object_id) == (kind, str(object_id)):
            return lease
        leases.release(lease, after_s=3600, attempts=0)
    raise AssertionError(f"{kind} {object_id} cannot be claimed")


def make_node(name: str, number: int, **more: object) -> Node:
    """A node by SSH with an edge of its own."""
    row = {
        "address": f"192.0.2.{number}",
        "public_addresses": [f"192.0.2.{number}"],
        "private_address": f"10.9.0.{number}",
        "instance_network": f"10.9.0.{number}/32",
        "memory_mib": 4096,
        **more,
    }
    return Node.objects.create(name=name, **row)
