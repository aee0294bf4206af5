"""What may be written of a node, who may say so, and that each change is audited and looked at."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from controlplane.drivers.node import hostkeys
from controlplane.fleet import enrol, keys
from controlplane.fleet.models import Node
from controlplane.fleet.services import target_of
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import Conflict, InvalidInput
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTwNX6FUwjZoAN9oxsoaLDpiDUxNgrRCYdhAQ4yGCM8"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGTwNX6FUwjZoAN9oxsoaLDpiDUxNgrRCYdhAQ4yGCM8"
PRINT = hostkeys.fingerprint(KEY)


def enrolled(**fields: Any) -> Node:
    return enrol.enrol_node(principal=SYSTEM, **{"name": "n1", "address": "127.65.200.9", **fields})


def test_a_node_gets_a_key_of_its_own_and_is_looked_at() -> None:
    node = enrolled(host_key=f"127.65.200.9 {KEY} root@n1", labels={"region": "eu-north"}, ssh_port=2222)
    assert (node.connection, node.host_keys, node.instance_network) == ("ssh", [KEY], "127.65.200.9/32")
    assert keys.authorized_line(node) == f"restrict,port-forwarding {node.public_key}"
    assert node.public_key.endswith(" roost:n1")
    assert "PRIVATE" not in node.key_sealed
    target = target_of(Node.objects.get())
    assert (target.ssh_port, target.host_keys, target.ssh_user) == (2222, (KEY,), "root")
    assert WorkItem.objects.filter(kind="Node", object_id="n1", queue="node").exists()
    assert Event.objects.filter(kind="Node", object_id="n1", type="Enrolled").count() == 1
    audited = AuditEvent.objects.get(action="node.enrol")
    assert audited.data == {"host_keys": PRINT}


def test_the_private_key_belongs_to_the_public_one_and_to_no_other_node(tmp_path: Path) -> None:
    node, other = enrolled(), enrolled(name="n2")
    private = keys.private_key(node)
    assert private is not None
    (tmp_path / "key").write_text(private.reveal())
    (tmp_path / "key").chmod(0o600)
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(tmp_path / "key")], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[:2] == node.public_key.split()[:2]
    assert node.public_key.split()[1] != other.public_key.split()[1]
    other.key_sealed = node.key_sealed
    with pytest.raises(Exception, match="belongs to another row"):
        keys.private_key(other)


def test_a_fingerprint_waits_for_its_key_and_nothing_is_believed_before() -> None:
    node = enrolled(host_key=f" {PRINT} ")
    assert node.host_keys == [PRINT]
    assert target_of(node).host_keys == ()
    assert enrolled(name="n2").host_keys == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Upper"),
        ("name", "-x"),
        ("name", "a" * 60),
        ("address", "-oProxyCommand=x"),
        ("address", "n1 example"),
        ("address", ""),
        ("address", "300.1.1.1"),
        ("host_key", "ssh-dss AAAA"),
        ("host_key", "SHA256:tooshort"),
        ("ssh_port", 0),
        ("ssh_port", "22"),
        ("ssh_user", "root;id"),
        ("runtime", "docker"),
        ("edge", "both"),
        ("public_addresses", ["1.2.3"]),
        ("public_addresses", "192.0.2.1"),
        ("private_address", "x"),
        ("instance_network", "10.0.0.1/8"),
        ("base_port", 70000),
        ("root", "relative"),
        ("state_dir", "/a/../b"),
        ("runtime_dir", "/a b"),
        ("edge_socket", "/a:b"),
        ("control_group", "Wheel!"),
        ("variables", {"not a word": 1}),
        ("labels", {"region": 3}),
        ("labels", ["eu"]),
        ("memory_mib", -1),
        ("key_sealed", "x"),
        ("connection", "local"),
        ("prepared", "x"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        enrolled(**{field: value})
    assert caught.value.field == field
    assert not Node.objects.exists()


def test_fields_that_need_each_other() -> None:
    with pytest.raises(InvalidInput) as caught:
        enrolled(edge="shared")
    assert caught.value.field == "public_addresses"
    with pytest.raises(InvalidInput) as caught:
        enrolled(edge="none", carries_instances=False)
    assert caught.value.field == "edge"
    with pytest.raises(InvalidInput) as caught:
        enrolled(runtime="supervisor")
    assert caught.value.field == "supervisor_socket"
    with pytest.raises(InvalidInput) as caught:
        enrolled(address="n1.example.net")
    assert caught.value.field == "instance_network"
    assert enrolled(address="n1.example.net", private_address="10.0.0.7").instance_network == "10.0.0.7/32"
    assert enrolled(name="n6", address="fd00::7").instance_network == "fd00::7/128"


def test_a_name_is_taken_once() -> None:
    enrolled()
    with pytest.raises(Conflict):
        enrolled()


def test_a_change_is_audited_once_and_looked_at() -> None:
    node = enrolled()
    WorkItem.objects.all().delete()
    changes = {"address": "127.65.200.10", "labels": {"provider": "x"}, "variables": {"secret_word": "hidden"}}
    node = enrol.update_node(node=node, changes=changes, principal=SYSTEM)
    assert (node.address, node.labels) == ("127.65.200.10", {"provider": "x"})
    assert "hidden" not in str(AuditEvent.objects.get(action="node.update").data)
    assert WorkItem.objects.filter(kind="Node", object_id="n1").exists()
    enrol.update_node(node=node, changes={"labels": {"provider": "x"}}, principal=SYSTEM)
    assert AuditEvent.objects.filter(action="node.update").count() == 1
    with pytest.raises(InvalidInput) as caught:
        enrol.update_node(node=node, changes={"name": "n2"}, principal=SYSTEM)
    assert caught.value.field == "name"


def test_only_a_key_that_was_seen_is_accepted_and_it_replaces_the_others() -> None:
    node = enrolled(host_key=KEY)
    with pytest.raises(InvalidInput) as caught:
        enrol.accept_host_key(node=node, fingerprint=hostkeys.fingerprint(OTHER), principal=SYSTEM)
    assert caught.value.field == "fingerprint"
    Node.objects.update(seen_host_keys=[OTHER])
    with pytest.raises(InvalidInput, match=hostkeys.fingerprint(OTHER).replace("+", r"\+")):
        enrol.accept_host_key(node=node, fingerprint="SHA256:x", principal=SYSTEM)
    node = enrol.accept_host_key(node=node, fingerprint=hostkeys.fingerprint(OTHER), principal=SYSTEM)
    assert (node.host_keys, node.seen_host_keys) == ([OTHER], [])
    assert AuditEvent.objects.get(action="node.accept-host-key").data["before"] == PRINT
    again = enrol.accept_host_key(node=node, fingerprint=hostkeys.fingerprint(OTHER), principal=SYSTEM)
    assert again.host_keys == [OTHER]


def test_a_rotation_is_asked_for_once() -> None:
    node = enrolled()
    node = enrol.rotate_node_key(node=node, principal=SYSTEM)
    node = enrol.rotate_node_key(node=node, principal=SYSTEM)
    assert (node.rotate_key, node.rotated_key) == (1, 0)
    assert AuditEvent.objects.filter(action="node.rotate-key").count() == 1
    with pytest.raises(Conflict):
        enrol.rotate_node_key(node=make_node("here", 3, connection="local"), principal=SYSTEM)
