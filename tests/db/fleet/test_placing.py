"""Where an instance goes: what rules a node out, what is preferred and said, and that nothing is given twice."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.fleet import enrol, placing
from controlplane.fleet.admission import set_standing
from controlplane.fleet.models import Node, Placement
from controlplane.fleet.placing import place
from controlplane.reconcile.models import Condition, WorkItem
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from tenants import services
from tenants.models import Instance, Organisation, Plan
from tenants.principal import SYSTEM
from tests.db.fleet.driven import claim, make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def plan(db) -> Plan:
    return services.create_plan(slug="basic", name="Basic", memory_mib=512, max_instances=100, principal=SYSTEM)


@pytest.fixture
def acme(db) -> Organisation:
    return services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)


def wish(organisation: Organisation, plan: Plan, name: str, **more: Any) -> Instance:
    return services.create_instance(
        organisation=organisation,
        domain=f"{name}.roost.example",
        engine="prosody",
        plan=plan,
        principal=SYSTEM,
        **more,
    )


def placed(organisation: Organisation, plan: Plan, name: str, **more: Any) -> Placement:
    made = wish(organisation, plan, name, **more)
    return place(made, claim("Instance", made.key))


def node(name: str, number: int, **more: Any) -> Node:
    return make_node(name, number, **{"prepared": "digest", **more})


def test_each_node_that_does_not_fit_has_its_reason(acme, plan):
    node("cordoned", 1, standing="cordoned")
    node("draining", 2, standing="draining")
    node("retired", 3, standing="retired")
    node("edge", 4, carries_instances=False)
    make_node("fresh", 5)
    node("away", 6)
    node("labelled", 7, labels={"region": "us"})
    node("full", 8, memory_mib=100, labels={"region": "eu"})
    node("alone", 9, edge="none", labels={"region": "eu"})
    node("narrow", 10, labels={"region": "eu"}, instance_network="10.8.0.0/31")
    node("right", 11, labels={"region": "eu"})
    Condition.objects.create(kind="Node", object_id="away", type="Reachable", status="False", message="Cut off.")
    Node.objects.filter(name__in=["fresh", "away"]).update(labels={"region": "eu"})
    for number in (0, 1):
        other = wish(acme, plan, f"other{number}")
        Placement.objects.create(
            instance=other,
            node=Node.objects.get(name="narrow"),
            address=f"10.8.0.{number}",
            base_port=7000,
            proxy65_port=20000 + number,
        )
    choice = placing.choose(acme, plan=plan, labels={"region": "eu"}, nodes=list(Node.objects.order_by("pk")))
    assert choice.chosen is not None
    assert choice.chosen.name == "right"
    assert {candidate.node.name: candidate.reason for candidate in choice.candidates} == {
        "cordoned": "Cordoned",
        "draining": "Draining",
        "retired": "Retired",
        "edge": "EdgeOnly",
        "fresh": "NotPrepared",
        "away": "Unreachable",
        "labelled": "Labels",
        "full": "NoMemory",
        "alone": "Unrouted",
        "narrow": "NoAddress",
        "right": "",
    }
    assert all(candidate.message for candidate in choice.candidates if candidate.reason)
    assert choice.explanation == (
        "right is the only node that fits; 4096 MiB of memory free, 512 wanted, with region=eu as wanted. Ruled out: "
        "1 retired, 1 to be emptied, 1 cordoned, 1 for no instances, 1 with other labels, 1 not prepared yet, "
        "1 not reached, 1 without an edge, 1 without the memory, 1 without a free address."
    )


def test_the_most_free_memory_decides_and_then_the_name(acme, plan):
    for name, number, memory in (("n1", 1, 2048), ("n2", 2, 4096), ("n3", 3, 4096)):
        node(name, number, memory_mib=memory)
    other = services.create_organisation(slug="globex", name="Globex", principal=SYSTEM)
    first = placed(acme, plan, "one")
    assert first.node.name == "n2"
    assert "comes first by name of 3 that fit equally" in first.explanation
    second = placed(other, plan, "two")
    assert second.node.name == "n3"
    assert "had the most memory free of 3 that fit equally" in second.explanation


def test_an_organisation_is_spread_over_providers_then_regions_then_nodes(acme, plan):
    node("a1", 1, memory_mib=99999, labels={"provider": "a", "region": "eu"})
    node("a2", 2, memory_mib=99999, labels={"provider": "a", "region": "us"})
    node("a3", 3, memory_mib=9999, labels={"provider": "a", "region": "eu"})
    node("b1", 4, memory_mib=999, labels={"provider": "b", "region": "eu"})
    found = [placed(acme, plan, f"s{number}") for number in range(5)]
    # b1 has little memory and is taken second for another provider; then it has no room for a third.
    assert [row.node.name for row in found] == ["a1", "b1", "a2", "a2", "a3"]
    assert "since acme has fewest instances on provider b (0)" in found[1].explanation
    assert "since acme has fewest instances on region us (0)" in found[2].explanation
    assert "1 without the memory" in found[3].explanation


def test_labels_of_the_plan_and_of_the_instance_both_hold(acme, plan):
    node("n1", 1, labels={"region": "eu"})
    node("n2", 2, labels={"region": "eu", "disk": "nvme"})
    services.update_plan(plan=plan, node_labels={"region": "eu"}, principal=SYSTEM)
    plan.refresh_from_db()
    found = placed(acme, plan, "one", node_labels={"disk": "nvme"})
    assert found.node.name == "n2"
    assert "with region=eu, disk=nvme as wanted" in found.explanation
    with pytest.raises(Rejected) as caught:
        placed(acme, plan, "two", node_labels={"disk": "tape"})
    assert caught.value.message == "No node fits: 2 with other labels."
    assert "region=eu, disk=tape" in caught.value.remedy
    instance = Instance.objects.get(placement=found)
    instance = services.change_instance(instance=instance, node_labels={"disk": "tape"}, principal=SYSTEM)
    assert "It stays there, although disk=tape is wanted now." in placing.told(found, plan, instance.node_labels)


def test_labels_that_contradict_the_plans_are_refused(acme, plan):
    services.update_plan(plan=plan, node_labels={"region": "eu"}, principal=SYSTEM)
    plan.refresh_from_db()
    with pytest.raises(InvalidInput) as caught:
        wish(acme, plan, "one", node_labels={"region": "us"})
    assert caught.value.field == "node_labels"
    instance = wish(acme, plan, "one", node_labels={"region": "eu"})
    with pytest.raises(InvalidInput, match="region=us"):
        services.change_instance(instance=instance, node_labels={"region": "us"}, principal=SYSTEM)
    other = services.create_plan(slug="us", name="US", node_labels={"region": "us"}, principal=SYSTEM)
    with pytest.raises(InvalidInput, match="region=us"):
        services.change_plan(instance=instance, plan=other, principal=SYSTEM)


@pytest.mark.parametrize("labels", [{"Region": "eu"}, {"region": ""}, {"region": 3}, ["eu"], {"x" * 64: "y"}])
def test_what_is_no_label_is_refused(acme, plan, labels):
    with pytest.raises(InvalidInput) as caught:
        wish(acme, plan, "one", node_labels=labels)
    assert caught.value.field == "node_labels"


def test_the_refusal_says_what_to_add_or_that_waiting_helps(acme, plan):
    with pytest.raises(Rejected, match="There is no node") as none:
        placed(acme, plan, "one")
    assert none.value.remedy == "Enrol a node."
    small = node("n1", 1, memory_mib=100)
    with pytest.raises(Rejected, match="512 MiB are wanted, at most 100 are free") as full:
        placed(acme, plan, "two")
    assert "with 512 MiB for instances" in full.value.remedy
    set_standing(node=small, standing=Node.CORDONED, principal=SYSTEM)
    with pytest.raises(Rejected) as cordoned:
        placed(acme, plan, "three")
    assert cordoned.value.remedy.startswith("Uncordon a node")
    make_node("n2", 2)
    with pytest.raises(Unavailable, match="1 not prepared yet"):
        placed(acme, plan, "four")
    assert not Placement.objects.exists()


def test_whoever_waits_is_woken_by_room(acme, plan):
    small = node("n1", 1, memory_mib=100)
    waiting = wish(acme, plan, "one")
    for make_room in (
        lambda: enrol.update_node(node=small, changes={"memory_mib": 4096}, principal=SYSTEM),
        lambda: placing.release_placement(waiting),
    ):
        WorkItem.objects.all().delete()
        make_room()
        assert WorkItem.objects.filter(kind="Instance", object_id=waiting.key).exists()


def test_instances_on_one_address_have_ports_of_their_own(acme, plan, settings):
    settings.ROOST = {**settings.ROOST, "PROXY65_PORTS": (7045, 7064)}
    node("n1", 1, memory_mib=999_999)
    found = [placed(acme, plan, f"p{number}") for number in range(4)]
    assert {row.address for row in found} == {"10.9.0.1"}
    assert [row.base_port for row in found] == [7000, 7010, 7020, 7030]
    assert [row.proxy65_port for row in found] == [7045, 7046, 7047, 7048]
    with pytest.raises(Rejected, match="1 without a free address"):  # 7040 to 7049 would meet the ports of proxies
        placed(acme, plan, "more")
    placing.release_placement(found[1].instance)
    assert placed(acme, plan, "again").base_port == 7010


@pytest.mark.parametrize(("base_port", "first"), [(20005, 20015), (20020, 20020), (60000, 60000)])
def test_ports_beside_the_proxies_are_used_from_the_base_on(acme, plan, settings, base_port, first):
    settings.ROOST = {**settings.ROOST, "PROXY65_PORTS": (20000, 20014)}
    node("n1", 1, base_port=base_port)
    assert [placed(acme, plan, f"p{n}").base_port for n in range(2)] == [first, first + 10]


def test_addresses_go_up_and_gaps_are_filled_at_the_end(acme, plan):
    node("n1", 1, memory_mib=999_999, instance_network="10.8.0.0/29", private_address="10.8.0.2")
    found = [placed(acme, plan, f"a{number}") for number in range(5)]
    assert [row.address for row in found] == ["10.8.0.1", "10.8.0.3", "10.8.0.4", "10.8.0.5", "10.8.0.6"]
    with pytest.raises(Rejected, match="1 without a free address"):
        placed(acme, plan, "more")
    placing.release_placement(found[2].instance)
    assert placed(acme, plan, "again").address == "10.8.0.4"


def test_an_ipv6_network_is_never_walked_through(acme, plan):
    node("n1", 1, memory_mib=999_999, instance_network="fd00:8::/64", private_address="fd00:8::1")
    found = [placed(acme, plan, f"a{number}") for number in range(3)]
    assert [row.address for row in found] == ["fd00:8::2", "fd00:8::3", "fd00:8::4"]


def test_proxy65_ports_are_the_fleets(acme, plan, settings):
    settings.ROOST = {**settings.ROOST, "PROXY65_PORTS": (20000, 20002)}
    node("n1", 1)
    node("n2", 2)
    found = [placed(acme, plan, f"x{number}") for number in range(3)]
    assert [(row.node.name, row.proxy65_port) for row in found] == [("n1", 20000), ("n2", 20001), ("n1", 20002)]
    with pytest.raises(Rejected, match="All proxy65 ports"):
        placed(acme, plan, "more")
    placing.release_placement(found[1].instance)
    assert placed(acme, plan, "again").proxy65_port == 20001


def test_placing_asks_as_much_whatever_is_there(acme, plan):
    counts = []
    for round_number in range(2):
        for number in range(8):
            node(f"n{round_number}-{number}", 10 * round_number + number + 1)
            placed(acme, plan, f"i{round_number}-{number}")
        one = wish(acme, plan, f"measured{round_number}")
        lease = claim("Instance", one.key)
        with CaptureQueriesContext(
            connection,
        ) as seen:
            place(one, lease)
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 12


def test_what_is_placed_stays(acme, plan):
    node("n1", 1)
    first = placed(acme, plan, "one")
    node("n2", 2, memory_mib=99_999)
    assert place(first.instance, claim("Instance", first.instance.key)).pk == first.pk


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"instance_network": "10.8.0.0/16"}, "instance_network"),
        ({"instance_network": "10.8.1.9/32"}, "instance_network"),
        ({"private_address": "10.8.0.9", "instance_network": "10.7.0.0/24"}, "private_address"),
    ],
)
def test_networks_that_another_node_has_are_refused(fields, field):
    enrol.enrol_node(
        principal=SYSTEM, name="n1", address="192.0.2.1", private_address="10.8.0.9", instance_network="10.8.0.0/22"
    )
    make_node("retired", 5, standing="retired")
    make_node("here", 6, connection="local")
    with pytest.raises(InvalidInput) as caught:
        enrol.enrol_node(principal=SYSTEM, name="n2", address="192.0.2.2", **fields)
    assert caught.value.field == field
    assert "n1" in caught.value.message
    enrol.enrol_node(principal=SYSTEM, name="n3", address="192.0.2.3", instance_network="10.9.0.0/24")
    with pytest.raises(InvalidInput):  # its place was given to another
        set_standing(node=Node.objects.get(name="retired"), standing=Node.ACTIVE, principal=SYSTEM)
    for name in ("l1", "l2"):  # nobody else reaches a machine's loopback
        enrol.enrol_node(principal=SYSTEM, name=name, address="192.0.2.9", instance_network="127.77.128.0/17")


@pytest.mark.django_db(transaction=True)
def test_two_at_once_take_nothing_twice():
    """There is memory for four of six; each thread is a worker with a connection of its own."""
    plan = services.create_plan(slug="basic", name="Basic", memory_mib=512, max_instances=100, principal=SYSTEM)
    node("n1", 1, memory_mib=1024)
    node("n2", 2, memory_mib=1024, instance_network="10.8.0.0/24")
    waiting = []
    for number in range(6):
        organisation = services.create_organisation(slug=f"o{number}", name="O", principal=SYSTEM)
        made = wish(organisation, plan, f"t{number}")
        waiting.append((made, claim("Instance", made.key)))
    start = threading.Barrier(len(waiting))
    outcomes: list[str] = []

    def work(instance: Instance, lease: Any) -> None:
        try:
            start.wait(timeout=20)
            place(instance, lease)
            outcomes.append("placed")
        except Rejected:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=pair) for pair in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(outcomes) == ["placed"] * 4 + ["refused"] * 2
    rows = Placement.objects.all()
    assert len({row.proxy65_port for row in rows}) == 4
    assert len({(row.address, row.base_port) for row in rows}) == 4
    assert sorted(row.node.name for row in rows) == ["n1", "n1", "n2", "n2"]
