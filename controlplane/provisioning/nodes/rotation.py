"""Replaces our key on a node: the next one is made, put beside the old one, tried, and only then the old one goes.

Whatever cuts it off, one of the two keys opens the node, and the next pass goes on from what it finds.
"""

from __future__ import annotations

from dataclasses import replace

from controlplane import wiring
from controlplane.drivers.node import far
from controlplane.drivers.node.base import KeyRefused, Line
from controlplane.fleet import keys
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.reconcile import faults, history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.values.errors import RoostError

ASK_S = 10.0


def rotate(node: Node, lease: Lease) -> str:
    """One that was asked for, on a node that is reached. Empty, or why it did not come about; raises ``LeaseLost``."""
    if node.connection == "local" or node.rotate_key <= node.rotated_key:
        return ""
    wanted = node.rotate_key
    old = wiring.line(target_of(node))
    try:
        if not node.next_public_key:
            _make(node, lease)
        faults.point("before-key-added")
        _put(old, node, alone=False)
        faults.point("after-key-added")
        _finish(node, lease, wanted)
    except KeyRefused:
        return (
            "The new key is in authorized_keys and is not accepted: sshd reads another file there, "
            "or does not allow this kind of key. The old one stays."
        )
    except RoostError as error:
        return f"The key could not be replaced yet: {error}"
    old.close()
    return ""


def ensure(node: Node, lease: Lease) -> None:
    """A node from a time when nodes had no keys of their own gets one; its operator has to put it there."""
    if node.connection == "local" or node.key_sealed:
        return
    public, sealed = keys.make_pair(node)
    with leases.holding(lease):
        Node.objects.filter(pk=node.pk, key_sealed="").update(public_key=public, key_sealed=sealed)
    node.public_key, node.key_sealed = public, sealed


def resume(node: Node, lease: Lease) -> bool:
    """The old key is refused: if the next one is not, make it ours. Raises what the way there raises."""
    if not node.next_public_key:
        return False
    try:
        _finish(node, lease, node.rotate_key)
    except KeyRefused:
        return False
    return True


def _make(node: Node, lease: Lease) -> None:
    """The intent: the pair is in the database before the node has any of it."""
    public, sealed = keys.make_pair(node)
    with leases.holding(lease):
        Node.objects.filter(pk=node.pk).update(next_public_key=public, next_key_sealed=sealed)
    node.next_public_key, node.next_key_sealed = public, sealed


def _finish(node: Node, lease: Lease, wanted: int) -> None:
    """With the next key: open the node, take the old one away there, then make it the one of the row."""
    fresh = wiring.line(replace(target_of(node), private_key=keys.next_private_key(node)))
    _put(fresh, node, alone=True)
    faults.point("after-key-replaced")
    changed = {
        "public_key": node.next_public_key,
        "key_sealed": node.next_key_sealed,
        "next_public_key": "",
        "next_key_sealed": "",
        "rotated_key": wanted,
    }
    with leases.holding(lease):
        Node.objects.filter(pk=node.pk).update(**changed)
        history.record("Node", node.name, "KeyRotated", message="Our key there is a new one.")
    for name, value in changed.items():
        setattr(node, name, value)


def _put(line: Line, node: Node, *, alone: bool) -> None:
    argument = {
        "user": node.ssh_user,
        "comment": keys.comment_of(node),
        "line": keys.line_of(node.next_public_key),
        "alone": alone,
    }
    line.ask(far.source("authorized"), argument, timeout_s=ASK_S)
