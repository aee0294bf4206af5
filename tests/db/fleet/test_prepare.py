"""A node is prepared when it never was or somebody asks for it; what is merely old is told and left to a rollout."""

from __future__ import annotations

import datetime

import pytest

from controlplane import wiring
from controlplane.fleet import rollouts
from controlplane.fleet.models import Node
from controlplane.provisioning import machine
from controlplane.provisioning.prepare import prepared
from controlplane.reconcile import conditions
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import Rejected, Unavailable
from tenants.principal import SYSTEM
from tests.db.fleet.driven import Machines, claim, make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def machines(monkeypatch) -> Machines:
    made = Machines()
    monkeypatch.setattr(wiring, "node_driver", lambda: made)
    return made


def test_a_new_node_is_prepared_once(machines) -> None:
    node, lease = make_node("n1", 1), claim("Node", "n1")
    found = prepared(node, lease)
    assert (found.status, found.reason) == ("True", "AsWanted")
    run = machines.runs[0]
    assert (run["groups"], run["fence"], run["upgrade"]) == (("nodes", "edges"), lease.fence, False)
    assert prepared(Node.objects.get(name="n1"), lease).reason == "AsWanted"
    assert len(machines.runs) == 1
    assert conditions.of("Node", "n1")["Prepared"].reason == "Preparing", "told while it ran, for that takes minutes"


def test_the_launchers_machine_is_left_alone(machines) -> None:
    node = make_node("here", 1, connection="local")
    found = prepared(node, claim("Node", "here"))
    assert (found.status, found.reason) == ("True", "Launcher")
    assert not machines.runs


def test_what_is_old_is_told_and_what_is_asked_for_is_done(machines) -> None:
    node, lease = make_node("n1", 1), claim("Node", "n1")
    prepared(node, lease)
    Node.objects.update(base_port=7100)
    found = prepared(Node.objects.get(), lease)
    assert (found.status, found.reason) == ("True", "Outdated")
    assert len(machines.runs) == 1
    node = rollouts.ask_prepare(node=Node.objects.get(), principal=SYSTEM)
    assert prepared(node, lease).reason == "AsWanted"
    assert len(machines.runs) == 2
    node = Node.objects.get()
    assert (node.prepare_done, node.prepared) == (1, machine.digest_of(run_groups(machines), run_variables(machines)))


def run_groups(machines: Machines):
    return machines.runs[-1]["groups"]


def run_variables(machines: Machines):
    return machines.runs[-1]["variables"]


def test_a_failure_waits_and_whoever_asks_does_not(machines) -> None:
    node, lease = make_node("n1", 1), claim("Node", "n1")
    machines.trouble["n1"] = Rejected("apt-get install failed")
    for _ in range(3):
        found = prepared(node, lease)
        assert (found.status, found.reason, found.message) == ("False", "Failed", "apt-get install failed")
    assert len(machines.runs) == 1
    Event.objects.filter(type="PrepareFailed").update(at=Event.objects.latest("at").at - datetime.timedelta(seconds=40))
    prepared(node, lease)
    prepared(node, lease)
    assert len(machines.runs) == 2
    Event.objects.filter(type="PrepareFailed").update(at=Event.objects.latest("at").at - datetime.timedelta(seconds=40))
    prepared(node, lease)
    assert len(machines.runs) == 2, "after the second failure it waits for a minute"
    machines.trouble.clear()
    assert prepared(rollouts.ask_prepare(node=node, principal=SYSTEM), lease).reason == "AsWanted"
    assert Node.objects.get().prepared


def test_a_node_that_is_lost_meanwhile_is_tried_again_in_the_next_pass(machines) -> None:
    node, lease = make_node("n1", 1), claim("Node", "n1")
    machines.trouble["n1"] = Unavailable("no route to host")
    assert prepared(node, lease).reason == "Unavailable"
    machines.trouble.clear()
    assert prepared(node, lease).reason == "AsWanted"


def test_a_run_whose_lease_is_lost_is_cancelled_and_stores_nothing(machines, monkeypatch) -> None:
    monkeypatch.setattr("controlplane.provisioning.renewal.RENEW_EVERY_S", 0.0)
    node, lease = make_node("n1", 1), claim("Node", "n1")

    def meanwhile(cancelled) -> None:
        assert not cancelled()
        WorkItem.objects.filter(kind="Node").update(fence=lease.fence + 1)
        assert cancelled()
        raise Unavailable("cancelled")

    machines.meanwhile = meanwhile
    with pytest.raises(LeaseLost):
        prepared(node, lease)
    assert not Node.objects.get().prepared


def test_a_long_run_renews_the_lease(machines, monkeypatch) -> None:
    monkeypatch.setattr("controlplane.provisioning.renewal.RENEW_EVERY_S", 0.0)
    node, lease = make_node("n1", 1), claim("Node", "n1")
    WorkItem.objects.filter(kind="Node").update(leased_until=None)
    machines.meanwhile = lambda cancelled: cancelled()
    prepared(node, lease)
    assert lease.kind in {item.kind for item in WorkItem.objects.exclude(leased_until=None)}
    assert leases.claim(["node"], holder="other", limit=9) == []


def test_a_new_shared_edge_has_the_nodes_let_it_in(machines) -> None:
    led = make_node("n1", 1, edge=Node.NO_EDGE)
    prepared(led, claim("Node", "n1"))
    assert run_variables(machines)["node_firewall_edges"] == []
    prepared(make_node("e1", 2, edge=Node.SHARED_EDGE, carries_instances=False), claim("Node", "e1"))
    assert run_groups(machines) == ("edges",)
    led.refresh_from_db()
    prepared(led, claim("Node", "n1"))
    assert run_variables(machines)["node_firewall_edges"] == ["10.9.0.2"]


def test_a_row_that_says_too_little_stalls(machines) -> None:
    found = prepared(make_node("e1", 1, public_addresses=[]), claim("Node", "e1"))
    assert (found.reason, found.stalled) == ("Rejected", True)
    assert "public address" in found.message
    assert not machines.runs


def test_variables_follow_the_row() -> None:
    node = Node(name="n1", instance_network="10.50.0.0/24", base_port=7000, ssh_user="ops", ssh_port=2222, edge="none")
    found = machine.variables_of(node, edges=[], proxy65_ports=(20000, 21999))
    assert found["node_base_control_users"] == ["ops"]
    assert found["node_base_instance_network"] == "10.50.0.0/24"
    assert (found["node_firewall_base_port"], found["node_firewall_last_port"]) == (7000, 7004)
    assert found["node_firewall_ssh_port"] == 2222
    assert "edge_haproxy_cfg" not in found
    node.instance_network, node.variables = "10.9.0.1/32", {"node_firewall_enabled": False}
    found = machine.variables_of(node, edges=[], proxy65_ports=(20000, 21999))
    assert found["node_base_instance_network"] == ""
    assert found["node_firewall_last_port"] == 19999
    assert found["node_firewall_enabled"] is False
    node.instance_network, node.edge, node.public_addresses = "127.77.128.0/17", "own", ["192.0.2.1", "2001:db8::1"]
    node.variables = {"edge_addresses": ["10.0.0.4"], "coturn_arguments": []}
    found = machine.variables_of(node, edges=[], proxy65_ports=(20000, 21999))
    assert found["node_base_instance_network"] == ""
    assert "bind 10.0.0.4:5222" in found["edge_haproxy_cfg"]
    assert "edge_addresses" not in found
    assert machine.groups_of(node) == ("nodes", "edges", "turn")
