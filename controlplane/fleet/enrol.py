"""Enrols nodes and changes what is written of them. Nothing here looks at the machine: the node's pass does.

A node is believed by its host key alone. It is given (as a line or by its fingerprint), or an operator compares what
the pass saw and accepts it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from controlplane.drivers.node import hostkeys
from controlplane.fleet import keys
from controlplane.fleet.edges import touch_led
from controlplane.fleet.models import Node
from controlplane.fleet.networks import check_networks
from controlplane.fleet.placing import wake_waiting
from controlplane.reconcile import history, watch
from controlplane.values.errors import Conflict, InvalidInput
from tenants import audit, validators
from tenants.principal import Principal

#: What may be said of a node when it is enrolled and changed later, besides name, address and host key.
FIELDS = frozenset(
    {
        *("ssh_port", "ssh_user", "runtime", "carries_instances", "edge", "public_addresses", "private_address"),
        *("instance_network", "base_port", "root", "state_dir", "runtime_dir", "supervisor_socket", "edge_socket"),
        *("edge_map_dir", "control_group", "variables", "memory_mib", "labels"),
    }
)
#: Those that instances, which are there, would have to be moved for.
_SETTLED = ("instance_network", "base_port", "root", "runtime", "runtime_dir", "state_dir", "control_group")
#: Those that an edge's routes or DNS depend on.
_ROUTED = ("edge", "public_addresses", "private_address", "edge_socket", "edge_map_dir", "carries_instances")
#: Those that the roles write down on the machine; what else is said of a node needs no run of them.
_PREPARED = ("edge", "public_addresses", "private_address", "edge_socket", "edge_map_dir", "carries_instances")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PATHS = ("root", "state_dir", "runtime_dir", "supervisor_socket", "edge_socket", "edge_map_dir")
_PATH = re.compile(r"(/[A-Za-z0-9._+@-]+)+")


@transaction.atomic
def enrol_node(*, principal: Principal, name: str, address: str, host_key: str = "", **fields: Any) -> Node:
    """A new node, reached by SSH; its key pair is made, and ``keys.authorized_line`` is to be put on it.

    ``host_key``: ``"ssh-ed25519 AAAA…"``, or ``"SHA256:…"`` as ``ssh-keygen -lf`` prints it, or empty: what the node
    shows is then waited for in ``seen_host_keys`` and accepted by ``accept_host_key``. ``fields``: see ``FIELDS``.
    ``InvalidInput`` names the field; ``Conflict`` if the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput("name", "Use up to 42 small letters, digits and hyphens.")
    node = Node(name=name, connection="ssh", host_keys=[_pinned(host_key)] if host_key.strip() else [])
    _assign(node, {"address": address, **fields})
    node.public_key, node.key_sealed = keys.make_pair(node)
    _check(node)
    try:
        with transaction.atomic():
            node.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict(f"There is a node {name} already.", remedy="Choose another name.") from error
    pinned = ", ".join(_fingerprints(node.host_keys)) or "none yet"
    audit.record(
        principal=principal,
        action="node.enrol",
        kind="Node",
        object_id=name,
        summary=f"{name} at {node.address} port {node.ssh_port} was enrolled",
        data={"host_keys": pinned},
    )
    history.record("Node", name, "Enrolled", message=f"By {principal.name}; host key: {pinned}.")
    watch.touch("Node", name)
    touch_led(node)
    return node


@transaction.atomic
def update_node(*, node: Node, changes: Mapping[str, Any], principal: Principal) -> Node:
    """Change ``address`` or any of ``FIELDS``; what follows from it is done by the node's and the instances' passes.

    ``InvalidInput`` names the field; ``Conflict`` if instances on it would have to move for it.
    """
    node = Node.objects.select_for_update().get(pk=node.pk)
    before = {name: getattr(node, name) for name in changes if name in FIELDS or name == "address"}
    _assign(node, changes)
    _check(node)
    changed = [name for name, value in before.items() if getattr(node, name) != value]
    if not changed:
        return node
    settled = [name for name in changed if name in _SETTLED]
    if settled and node.placements.exists():
        raise Conflict(
            f"{settled[0]} cannot change while {node.placements.count()} instances are on {node.name}.",
            remedy="Drain the node first.",
        )
    routed = [name for name in changed if name in _ROUTED]
    if routed:
        touch_led(Node.objects.get(pk=node.pk))
    node.save(update_fields=changed)
    if routed:
        touch_led(node)
    _prepare_again(node, changed, was_shared=before.get("edge", node.edge) == Node.SHARED_EDGE)
    audit.record(
        principal=principal,
        action="node.update",
        kind="Node",
        object_id=node.name,
        summary=f"{node.name}: {', '.join(changed)} changed",
        data={name: getattr(node, name) for name in changed if name != "variables"},
    )
    history.record("Node", node.name, "Changed", message=f"{', '.join(changed)}; by {principal.name}.")
    watch.touch("Node", node.name)
    wake_waiting()  # there may be room, or a label, that was missing
    return node


@transaction.atomic
def accept_host_key(*, node: Node, fingerprint: str, principal: Principal) -> Node:
    """Trust the key with this fingerprint, which the node showed, instead of all that were trusted before.

    ``InvalidInput`` if it showed no such key.
    """
    node = Node.objects.select_for_update().get(pk=node.pk)
    wanted = fingerprint.strip()
    found = [line for line in node.seen_host_keys if hostkeys.fingerprint(line) == wanted]
    if not found:
        if any(pinned == wanted or _fingerprints([pinned]) == [wanted] for pinned in node.host_keys):
            return node
        shown = ", ".join(_fingerprints(node.seen_host_keys)) or "none that is not trusted"
        raise InvalidInput("fingerprint", f"{node.name} shows no key with that fingerprint; it shows {shown}.")
    before = ", ".join(_fingerprints(node.host_keys)) or "none"
    node.host_keys, node.seen_host_keys = found, []
    node.save(update_fields=["host_keys", "seen_host_keys"])
    audit.record(
        principal=principal,
        action="node.accept-host-key",
        kind="Node",
        object_id=node.name,
        summary=f"{node.name} is trusted by the host key {wanted}",
        data={"before": before, "now": wanted},
    )
    history.record("Node", node.name, "HostKeyAccepted", message=f"{wanted} instead of {before}; by {principal.name}.")
    watch.touch("Node", node.name)
    return node


@transaction.atomic
def rotate_node_key(*, node: Node, principal: Principal) -> Node:
    """Have our key on the node replaced by a new one; the node's pass does it when it reaches the node."""
    node = Node.objects.select_for_update().get(pk=node.pk)
    if node.connection == "local":
        raise Conflict(f"{node.name} is this machine: no key opens it.")
    if node.rotate_key > node.rotated_key:
        return node
    Node.objects.filter(pk=node.pk).update(rotate_key=F("rotate_key") + 1)
    node.refresh_from_db()
    audit.record(
        principal=principal,
        action="node.rotate-key",
        kind="Node",
        object_id=node.name,
        summary=f"The key for {node.name} is to be replaced",
    )
    history.record("Node", node.name, "KeyRotationAsked", message=f"By {principal.name}.")
    watch.touch("Node", node.name)
    return node


def _assign(node: Node, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in FIELDS and name != "address":
            raise InvalidInput(name, "There is no such field, or it cannot be changed.")
        setattr(node, name, _CHECKS[name](name, value) if name in _CHECKS else value)


def _check(node: Node) -> None:
    """What the model says, and what only some of the fields together can say."""
    if not node.instance_network:
        node.instance_network = _own_network(node)
    try:
        node.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        name, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(name, " ".join(messages)) from error
    if node.edge == Node.NO_EDGE and not node.carries_instances:
        raise InvalidInput("edge", "A node without instances and without an edge is of no use.")
    if node.edge == Node.SHARED_EDGE and node.connection == "ssh" and not node.public_addresses:
        raise InvalidInput("public_addresses", "A shared edge needs the addresses that DNS should lead to.")
    if node.runtime == "supervisor" and not node.supervisor_socket:
        raise InvalidInput("supervisor_socket", "The runtime supervisor needs its socket.")
    check_networks(node)


def _prepare_again(node: Node, changed: Iterable[str], *, was_shared: bool) -> None:
    """The machines whose edge or firewall says otherwise now: this one, and those that a shared edge leads to."""
    changed = set(changed)
    wanted = Q(pk=node.pk) if changed & {*_PREPARED, "variables"} else Q(pk=None)
    if changed & {"edge", "private_address"} and Node.SHARED_EDGE in (
        node.edge,
        Node.SHARED_EDGE if was_shared else "",
    ):
        wanted |= Q(carries_instances=True) & ~Q(edge=Node.OWN_EDGE)
    nodes = Node.objects.filter(wanted).exclude(connection="local").exclude(prepared="").exclude(standing=Node.RETIRED)
    for name in list(nodes.values_list("name", flat=True)):
        Node.objects.filter(name=name).update(prepare_wanted=F("prepare_wanted") + 1)
        watch.touch("Node", name)


def _own_network(node: Node) -> str:
    """One address for all instances: the private one, else the one that the node is reached by, if it is one."""
    for text in (node.private_address, node.address):
        try:
            return str(ipaddress.ip_network(text or ""))
        except ValueError:
            continue
    raise InvalidInput("instance_network", "Give a network or an address for the instances.")


def _pinned(text: str) -> str:
    """A key's line without its comment, or a fingerprint."""
    text = text.strip()
    return text if hostkeys.is_fingerprint(text) else hostkeys.parse(text)


def _fingerprints(pinned: list[str]) -> list[str]:
    return [text if hostkeys.is_fingerprint(text) else hostkeys.fingerprint(text) for text in pinned]


def _address(field: str, value: Any) -> str:
    text = str(value).strip().rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if not _HOST.fullmatch(text) or text.replace(".", "").isdigit():
            raise InvalidInput(field, f"{text[:80]!r} is neither an address nor the name of a host.") from None
    return text


def _port(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise InvalidInput(field, "Use a port from 1 to 65535.")
    return value


def _user(field: str, value: Any) -> str:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise InvalidInput(field, "That is no name of a user or group.")
    return value


def _path(field: str, value: Any) -> str:
    if value == "" and field == "supervisor_socket":
        return ""
    if not isinstance(value, str) or not _PATH.fullmatch(value) or ".." in value.split("/"):
        raise InvalidInput(field, "Use an absolute path of letters, digits and ._+@- only.")
    return value


def _addresses(field: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise InvalidInput(field, "Give a list of addresses.")
    try:
        return list(dict.fromkeys(str(ipaddress.ip_address(one)) for one in value))
    except ValueError as error:
        raise InvalidInput(field, f"{error}.") from None


def _variables(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(re.fullmatch(r"[a-z_][a-z0-9_]*", str(name)) for name in value):
        raise InvalidInput(field, "Give variables of roles as an object; their names are words with underscores.")
    return value


def _network(field: str, value: Any) -> str:
    try:
        return str(ipaddress.ip_network(str(value))) if value else ""
    except ValueError as error:
        raise InvalidInput(field, f"{error}.") from None


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "address": _address,
    "ssh_port": _port,
    "base_port": _port,
    "ssh_user": _user,
    "control_group": _user,
    "public_addresses": _addresses,
    "labels": lambda field, value: validators.labels(value, field=field),
    "variables": _variables,
    "instance_network": _network,
    **dict.fromkeys(_PATHS, _path),
}
