"""Gives a node's edge and TURN server the node's new addresses at once, without a run of the roles.

The files are the ones that the roles would write, byte for byte, and they are taken up as the roles do: so the next run
finds nothing to change. ``plan`` reads the database, ``carry_out`` speaks with the node alone, ``note`` writes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane import wiring
from controlplane.drivers.node import far
from controlplane.drivers.node.base import NodeTarget
from controlplane.drivers.turn.__main__ import config_of
from controlplane.drivers.turn.config import render_turnserver_conf
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.provisioning import machine
from controlplane.provisioning.prepare import meaning
from controlplane.reconcile import history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.values.errors import Rejected

ASK_S = 15.0
HAPROXY_CFG, TURNSERVER_CONF = "/etc/haproxy/haproxy.cfg", "/etc/turnserver.conf"
#: A port that every edge listens on (s2s).
EDGE_PORT = 5269


@dataclass(frozen=True, slots=True)
class Plan:
    """What the node should have. ``digest``: of the node's row as it is now."""

    target: NodeTarget
    files: tuple[dict[str, Any], ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Done:
    """Names of what was changed. ``took_s``: seconds on the machine."""

    changed: tuple[str, ...]
    took_s: float


def is_as_prepared(node: Node) -> bool:
    """True if the machine has what the row says now, as its last preparation left it."""
    try:
        return bool(node.prepared) and node.prepared == _digest(node)
    except Rejected:
        return False


def plan(node: Node) -> Plan | None:
    """None: no file of the machine names a public address, or it was never prepared. ``Rejected`` for a bad row."""
    if node.connection == "local" or not node.prepared:
        return None
    _, variables = meaning(node)
    files = []
    if node.edge != Node.NO_EDGE:
        files.append(_edge(node, str(variables["edge_haproxy_cfg"]), variables))
    turn = _turnserver_conf(variables)
    if turn:
        files.append(_turn(node, turn, variables))
    return Plan(target_of(node), tuple(files), _digest(node)) if files else None


def carry_out(plan: Plan) -> Done:
    """Bring the files there and have them taken up; safe to run twice. Asks no database.

    ``Rejected`` if HAProxy refuses its file, or if one does not listen afterwards; ``Unavailable`` if the node is not
    reached.
    """
    said = wiring.line(plan.target).ask(far.source("rebind"), {"files": list(plan.files)}, timeout_s=ASK_S)
    if said["error"]:
        raise Rejected(f"{plan.target.name}: {said['error']}")
    return Done(tuple(said["changed"]), float(said["took_s"]))


def note(node: Node, plan: Plan, lease: Lease, *, as_prepared: bool) -> None:
    """The machine has it. If it had all that its row said before (``as_prepared``), it has again."""
    with leases.holding(lease):
        if as_prepared:
            Node.objects.filter(pk=node.pk).exclude(prepared=plan.digest).update(prepared=plan.digest)
        history.record("Node", node.name, "Rebound", message="Its edge and TURN server have its addresses.")


def _digest(node: Node) -> str:
    groups, variables = meaning(node)
    return machine.digest_of(groups, variables)


def _edge(node: Node, text: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    addresses = node.variables.get("edge_addresses") or node.public_addresses
    return {
        "name": "HAProxy",
        "path": str(variables.get("edge_config_file", HAPROXY_CFG)),
        "content": text,
        "mode": 0o644,
        "group": "root",
        "check": ["haproxy", "-c", "-f"],
        "systemd": ["reload", "haproxy.service"],
        "supervised": "haproxy",
        "signal": "USR2",
        "socket": node.supervisor_socket if node.runtime == "supervisor" else "",
        "listens": [[address, EDGE_PORT] for address in addresses if address != "*"],
    }


def _turn(node: Node, text: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "coturn",
        "path": str(variables.get("coturn_config_file", TURNSERVER_CONF)),
        "content": text,
        "mode": 0o640,
        "group": "turnserver",
        "check": [],
        "systemd": ["restart", "coturn.service"],
        "supervised": "coturn",
        "signal": "",
        "socket": node.supervisor_socket if node.runtime == "supervisor" else "",
        "listens": [],
    }


def _turnserver_conf(variables: Mapping[str, Any]) -> str:
    """The text as the play passes it to the role: rendered from arguments, or given."""
    given = variables.get("coturn_turnserver_conf")
    if given:
        return str(given)
    arguments = variables.get("coturn_arguments")
    if not arguments:
        return ""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return render_turnserver_conf(config_of([str(one) for one in arguments]))
    except SystemExit as error:
        raise Rejected(f"coturn_arguments: {said.getvalue().strip()[-300:]}") from error
