"""HostKeyTrusted and Reachable: one question over the line, which also brings the facts.

Whoever answers with a key that nobody vouched for is told nothing; what it shows is kept for a person to compare.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane import wiring
from controlplane.drivers.node import far, hostkeys
from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused
from controlplane.fleet import keys
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.provisioning.nodes import facts, rotation
from controlplane.reconcile import history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import Finding
from controlplane.values.errors import RoostError, Unavailable

TRUSTED, REACHABLE = "HostKeyTrusted", "Reachable"
ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """What came of it."""

    trusted: Finding
    reachable: Finding

    @property
    def ok(self) -> bool:
        return self.reachable.status == "True"


def look(node: Node, lease: Lease, known: Mapping[str, Condition]) -> Look:
    """Ask the node. Its facts are stored, a pin by fingerprint is completed. Raises ``LeaseLost`` only."""
    rotation.ensure(node, lease)
    try:
        told = _ask(node, lease)
    except HostKeyUnknown as error:
        return _unknown(node, lease, error)
    except KeyRefused as error:
        remedy = f"Put this line into ~{node.ssh_user}/.ssh/authorized_keys there: {keys.authorized_line(node)}"
        return Look(_trusted(node), Finding(REACHABLE, "False", "KeyRefused", error.message, remedy))
    except Unavailable as error:
        before = known.get(TRUSTED)
        trusted = Finding(TRUSTED, "Unknown", "NotSeen", "It was not reached yet.")
        if before is not None:
            trusted = Finding(
                TRUSTED, before.status, before.reason, before.message, before.remedy, stalled=before.stalled
            )
        return Look(trusted, Finding(REACHABLE, "False", "Unreachable", error.message, error.remedy))
    except RoostError as error:
        return Look(_trusted(node), Finding(REACHABLE, "False", "Rejected", error.message, error.remedy, stalled=True))
    _forget_seen(node, lease)
    facts.store(node, lease, told)
    return Look(_trusted(node), Finding(REACHABLE, "True", "Reached", _said(node)))


def _ask(node: Node, lease: Lease) -> dict[str, Any]:
    try:
        return _facts(node)
    except HostKeyUnknown as error:
        if not _pin(node, lease, error.seen):
            raise
        return _facts(node)
    except KeyRefused:
        # A rotation may have been cut off after the old key was taken away.
        if not rotation.resume(node, lease):
            raise
        return _facts(node)


def _facts(node: Node) -> dict[str, Any]:
    asked_at = time.time()
    told = wiring.line(target_of(node)).ask(
        far.source("facts"), {"root": node.root, "packages": list(facts.PACKAGES)}, timeout_s=ASK_S
    )
    return facts.with_clock(told, asked_at, time.time())


def _pin(node: Node, lease: Lease, seen: tuple[str, ...]) -> bool:
    """Replace a fingerprint that was given at the enrolment by the key that has it; True if one was seen."""
    given = [text for text in node.host_keys if hostkeys.is_fingerprint(text)]
    found = [line for line in seen if hostkeys.fingerprint(line) in given]
    if not found:
        return False
    with leases.holding(lease):
        if not Node.objects.filter(pk=node.pk, host_keys=node.host_keys).update(host_keys=found, seen_host_keys=[]):
            return False  # somebody changed it meanwhile
        history.record("Node", node.name, "HostKeyPinned", message="It shows the key with the fingerprint given.")
    node.host_keys, node.seen_host_keys = found, []
    return True


def _unknown(node: Node, lease: Lease, error: HostKeyUnknown) -> Look:
    seen = list(error.seen)
    if seen != node.seen_host_keys:
        with leases.holding(lease):
            Node.objects.filter(pk=node.pk, host_keys=node.host_keys).update(seen_host_keys=seen)
        node.seen_host_keys = seen
    shown = ", ".join(f"{hostkeys.fingerprint(line)} ({line.split()[0]})" for line in seen)
    pinned = ", ".join(t if hostkeys.is_fingerprint(t) else hostkeys.fingerprint(t) for t in node.host_keys)
    where = f"{node.address} port {node.ssh_port}"
    if pinned:
        message = f"{where} shows another host key than is trusted: {shown}; trusted: {pinned}. Nothing is sent there."
    else:
        message = f"{where} shows {shown}; none is trusted yet, so nothing is sent there."
    remedy = (
        "On the machine itself, run `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` and compare. "
        f"If it is the same: `./roost node accept-host-key {node.name} SHA256:…`."
    )
    reason = "KeyChanged" if pinned else "NotPinned"
    trusted = Finding(TRUSTED, "False", reason, message, remedy, stalled=True)
    return Look(trusted, Finding(REACHABLE, "False", "NotTrusted", "Its host key is not trusted.", stalled=True))


def _forget_seen(node: Node, lease: Lease) -> None:
    """It shows a trusted key again: what else it showed is nothing to accept any more."""
    if not node.seen_host_keys:
        return
    with leases.holding(lease):
        Node.objects.filter(pk=node.pk).update(seen_host_keys=[])
    node.seen_host_keys = []


def _trusted(node: Node) -> Finding:
    if node.connection == "local":
        return Finding(TRUSTED, "True", "Local", "It is this machine.")
    pinned = ", ".join(t if hostkeys.is_fingerprint(t) else hostkeys.fingerprint(t) for t in node.host_keys)
    return Finding(TRUSTED, "True", "Pinned", f"It shows {pinned}.")


def _said(node: Node) -> str:
    told = node.facts
    system = f"Debian {told['debian']}, " if told.get("debian") else ""
    return f"{system}{told.get('cpus', '?')} CPUs, {told.get('memory_mib', '?')} MiB of memory."
