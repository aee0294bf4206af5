"""Writes what a node should apply, and what it applied. Where an instance goes is ``placing``'s."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from controlplane.drivers.node import hostkeys
from controlplane.drivers.node.base import NodeTarget
from controlplane.fleet import keys
from controlplane.fleet.edges import touch_led
from controlplane.fleet.models import Node, Placement
from controlplane.reconcile import history, watch
from controlplane.reconcile.lease import Lease, holding
from tenants import audit
from tenants.principal import SYSTEM, Principal

#: In place of a digest: what was applied is right, and the process is to be begun anew, since its program was replaced.
RESTART = "restart"
#: The same for a process that runs and does not answer: it would not hear the request to end either.
HANGS = "hangs"
#: ``Placement.applied_digest`` while a run is under way.
APPLYING = "applying"


def target_of(node: Node) -> NodeTarget:
    """The node as its driver and its line want it, with the key that opens it."""
    return NodeTarget(
        name=node.name,
        connection=node.connection,
        runtime=node.runtime,
        address=node.address,
        state_dir=node.state_dir,
        runtime_dir=node.runtime_dir,
        supervisor_socket=node.supervisor_socket,
        ssh_user=node.ssh_user,
        ssh_port=node.ssh_port,
        # A fingerprint that was given at the enrolment is no key yet: the node's pass finds the one it stands for.
        host_keys=tuple(line for line in node.host_keys if not hostkeys.is_fingerprint(line)),
        private_key=keys.private_key(node),
    )


def want(placement: Placement, *, digest: str, state: str, lease: Lease) -> None:
    """Write what the node should apply; the node is touched if that is new. When to try again is the node's affair."""
    if placement.wanted_digest == digest and placement.wanted_state == state:
        return
    fresh = {"wanted_digest": digest, "wanted_state": state, "error": "", "failures": 0, "retry_at": None}
    with holding(lease):
        Placement.objects.filter(pk=placement.pk).update(**fresh)
        watch.touch("Node", placement.node.name)
    for name, value in fresh.items():
        setattr(placement, name, value)


def mark_loaded(placement: Placement, lease: Lease) -> None:
    """The engine has read what the node applied last."""
    with holding(lease):
        Placement.objects.filter(pk=placement.pk, applied_digest=placement.applied_digest).update(
            loaded_digest=placement.applied_digest
        )
    placement.loaded_digest = placement.applied_digest


def load_again(placement: Placement, lease: Lease) -> None:
    """What the engine serves is not what it was told to read: have it told once more."""
    with holding(lease):
        Placement.objects.filter(pk=placement.pk).update(loaded_digest="")
    placement.loaded_digest = ""


def apply_again(placement: Placement, lease: Lease, *, hangs: bool = False) -> None:
    """The world is not what the node said it applied (a process is gone): have it applied once more.

    ``hangs``: with the engine ended at once and begun anew, since it runs and does not answer.
    """
    digest = HANGS if hangs else ""
    with holding(lease):
        Placement.objects.filter(pk=placement.pk).update(applied_digest=digest)
        watch.touch("Node", placement.node.name)
    placement.applied_digest = digest


def mark_applying(placements: Sequence[Placement], lease: Lease) -> None:
    """A run begins: from now on nobody knows what these have, until it says so.

    Without it, an instance that is wanted as before while the run still brings it to something else would take what
    was applied last for what is there. ``lease``: the node's. Wishes for a restart are kept: a run may be killed.
    """
    known = Placement.objects.filter(pk__in=[row.pk for row in placements]).exclude(
        applied_digest__in=["", RESTART, HANGS, APPLYING]
    )
    with holding(lease):
        known.update(applied_digest=APPLYING)


def restart_engines(node: Node, engines: Sequence[str]) -> int:
    """Have the running instances of these engines on the node restarted by its next pass; how many there are.

    In the caller's transaction. Those that wait for their node anyway keep waiting; then they restart, too.
    """
    if not engines:
        return 0
    wished = node.placements.filter(wanted_state="running", instance__engine__in=engines).exclude(wanted_digest="")
    watch.touch("Node", node.name)
    return wished.update(applied_digest=RESTART, failures=0, retry_at=None)


def stale_placements(node: Node, *, limit: int) -> list[Placement]:
    """Placements whose applied state differs from the wanted one and whose retry time has come, the first ``limit``.

    Those that never were applied, or longest ago, come first: nobody is passed over by others that change often.
    """
    rows = (
        node.placements.filter(~Q(wanted_digest=""))
        .filter(~Q(applied_digest=F("wanted_digest")))
        .filter(Q(retry_at__isnull=True) | Q(retry_at__lte=timezone.now()))
        .select_related("instance__domain", "instance__plan", "instance__organisation", "node")
        .order_by(F("applied_at").asc(nulls_first=True), "pk")
    )
    return list(rows[:limit])


#: Variables of a node that name its public addresses; the others' values are none of ours.
_NAMING = ("edge_addresses", "coturn_arguments", "coturn_turnserver_conf")


@transaction.atomic
def set_addresses(*, node: Node, addresses: Sequence[str], reason: str, principal: Principal = SYSTEM) -> bool:
    """Say where the world finds the node from now on; False if that was said already.

    All that named an address which is gone names the new one of its family: the address that ansible uses, where the
    edge listens, coturn's addresses. The node and the instances that it leads to are looked at again. ``node`` is
    changed along.
    """
    row = Node.objects.select_for_update().get(pk=node.pk)
    wanted = list(dict.fromkeys(str(ipaddress.ip_address(one)) for one in addresses))
    if row.public_addresses == wanted:
        return False
    before = list(row.public_addresses)
    for name, value in renamed(row, replaced(before, wanted)).items():
        setattr(row, name, value)
        setattr(node, name, value)
    row.public_addresses = node.public_addresses = wanted
    row.save(update_fields=["public_addresses", "address", "variables"])
    was, now = ", ".join(before) or "none", ", ".join(wanted) or "none"
    audit.record(
        principal=principal,
        action="node.set-addresses",
        kind="Node",
        object_id=row.name,
        summary=f"{row.name} is found at {now}",
        data={"before": before, "now": wanted, "reason": reason},
    )
    history.record("Node", row.name, "AddressesChanged", message=f"{now} instead of {was}. {reason}")
    watch.touch("Node", row.name)
    touch_led(row)
    return True


def replaced(before: Sequence[str], now: Sequence[str]) -> dict[str, str]:
    """Address that is gone -> the one that takes its place; those without one of their family are left out."""
    found = {}
    for version in (4, 6):
        gone = [one for one in before if one not in now and ipaddress.ip_address(one).version == version]
        new = [one for one in now if one not in before and ipaddress.ip_address(one).version == version]
        if new:
            found.update({one: new[min(i, len(new) - 1)] for i, one in enumerate(gone)})
    return found


def renamed(node: Node, by: Mapping[str, str]) -> dict[str, Any]:
    """``address`` and ``variables`` of the row with each of these addresses replaced."""
    variables = {name: _renamed(value, by) if name in _NAMING else value for name, value in node.variables.items()}
    return {"address": by.get(node.address, node.address), "variables": variables}


def _renamed(value: Any, by: Mapping[str, str]) -> Any:
    """Whole words only: 192.0.2.1 is no part of 192.0.2.10."""
    if isinstance(value, list):
        return [_renamed(one, by) for one in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"[0-9A-Fa-f:.]+", lambda found: by.get(found[0], found[0]), value)
