"""What a node's row means for the roles that prepare it: groups, variables, and a digest over both and the roles.

Pure but for the roles' files, which are read once per process. Running the roles is ``provisioning.prepare``'s.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from controlplane.drivers.edge.config import EdgeConfig, render_haproxy_cfg
from controlplane.drivers.node.ansible import PLAYS
from controlplane.fleet.models import Node
from controlplane.values.errors import Rejected

#: An instance's ports beside its base port, when each has an address of its own.
PORTS = 5
#: In a node's variables, and no variables of a role: they go into HAProxy's configuration.
EDGE_OPTIONS = ("edge_addresses", "edge_acme_http")


def groups_of(node: Node) -> tuple[str, ...]:
    """The inventory's groups that the machine is in."""
    wanted = {
        "nodes": node.carries_instances,
        "edges": node.edge != Node.NO_EDGE,
        "turn": any(name in node.variables for name in ("coturn_arguments", "coturn_turnserver_conf")),
    }
    return tuple(name for name, is_in in wanted.items() if is_in)


def variables_of(node: Node, *, edges: Sequence[Node], proxy65_ports: tuple[int, int]) -> dict[str, Any]:
    """The roles' variables; those in ``node.variables`` win. ``edges``: the ones that lead to its instances.

    ``Rejected`` if the row says too little or what it says does not fit.
    """
    variables: dict[str, Any] = {
        "node_base_runtime": node.runtime,
        "node_base_control_group": node.control_group,
        "node_base_control_users": [] if node.ssh_user == "root" else [node.ssh_user],
        "node_base_root": node.root,
        "node_base_state_dir": node.state_dir,
        "node_base_run_dir": str(PurePosixPath(node.edge_socket).parent),
    }
    if node.runtime == "supervisor":
        variables["node_base_supervisor_dir"] = node.runtime_dir
        variables["node_base_supervisor_socket"] = node.supervisor_socket
    if node.carries_instances:
        variables |= _instances(node, edges, proxy65_ports)
    if node.edge != Node.NO_EDGE:
        variables["edge_map_dir"] = node.edge_map_dir
        variables["edge_haproxy_cfg"] = _haproxy_cfg(node, proxy65_ports)
    return variables | {name: value for name, value in node.variables.items() if name not in EDGE_OPTIONS}


def _instances(node: Node, edges: Sequence[Node], proxy65_ports: tuple[int, int]) -> dict[str, Any]:
    """Who may connect to the instances, and whether their addresses have to be made the machine's."""
    try:
        network = ipaddress.ip_network(node.instance_network)
    except ValueError as error:
        raise Rejected(
            f"{node.name} has no network for its instances.", remedy="Give it one: its private address at least."
        ) from error
    shared = network.num_addresses == 1
    low, high = proxy65_ports
    last = node.base_port + PORTS - 1
    if shared:
        last = low - 1 if node.base_port < low else 65535
    return {
        "node_base_instance_network": "" if shared or network.is_loopback else str(network),
        "node_firewall_instance_network": str(network),
        "node_firewall_base_port": node.base_port,
        "node_firewall_last_port": last,
        "node_firewall_proxy65_ports": f"{low}-{high}",
        "node_firewall_edges": sorted({e.private_address for e in edges if e.private_address and e.pk != node.pk}),
        "node_firewall_ssh_port": node.ssh_port,
    }


def _haproxy_cfg(node: Node, proxy65_ports: tuple[int, int]) -> str:
    addresses = tuple(node.variables.get("edge_addresses") or node.public_addresses)
    if not addresses:
        raise Rejected(f"The edge {node.name} has no public address.", remedy="Give it its IPv4 and IPv6 addresses.")
    try:
        return render_haproxy_cfg(
            EdgeConfig(
                addresses=addresses,
                socket=node.edge_socket,
                map_dir=node.edge_map_dir,
                control_group=node.control_group,
                proxy65_ports=proxy65_ports,
                acme_http=str(node.variables.get("edge_acme_http", "")),
                sources=(node.private_address,) if node.private_address else (),
            )
        )
    except ValueError as error:
        raise Rejected(f"The edge {node.name} cannot be configured: {error}", remedy="Correct its row.") from error


def digest_of(groups: Sequence[str], variables: Mapping[str, Any]) -> str:
    """SHA-256 over the roles' files, the groups and the variables, hexadecimal."""
    text = json.dumps([tree_digest(), list(groups), dict(variables)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def tree_digest() -> str:
    """SHA-256 over all files that a preparation runs. They change with a release of Roost only."""
    found = hashlib.sha256()
    files = [PLAYS / "node.yml"]
    for part in ("library", "module_utils", "roles"):
        files += [f for f in sorted((PLAYS / part).rglob("*")) if f.is_file() and f.suffix != ".pyc"]
    for file in files:
        content = file.read_bytes()
        found.update(f"{file.relative_to(PLAYS)} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()
