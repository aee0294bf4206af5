"""Scratches beside instances: addresses, memory and keys of their own, their place in a node's run, and their end."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from controlplane import wiring
from controlplane.backups import switch
from controlplane.backups.models import Backup, Place, Restore
from controlplane.backups.repositories import ensure
from controlplane.fleet import placing, scratches
from controlplane.fleet.models import Node, Placement, Scratch
from controlplane.fleet.placing import place
from controlplane.provisioning import scratch as bundles
from controlplane.provisioning.nodes.converge import converge
from controlplane.provisioning.steps.node_assigned import NodeAssigned
from controlplane.provisioning.subject import Subject, adoption_of
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.models import WorkItem
from controlplane.values.bundle import ABSENT, RUNNING, STOPPED
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.outcome import Wait
from tenants import services
from tenants.models import Instance, Organisation, Plan
from tenants.principal import SYSTEM
from tests.db.fleet.driven import Machines, make_node
from tests.db.fleet.driven import claim as claimed
from tests.servers.little_ca import LittleCa

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines()
    monkeypatch.setattr(wiring, "node_driver", lambda: made)
    return made


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instance has a certificate; how it comes by one is tested elsewhere."""
    from controlplane.values.secret import Secret

    chain, key = LittleCa().issue(["acme.roost.example"])
    monkeypatch.setattr(bundles.certificates, "material", lambda *_: (chain, Secret(key)))
    monkeypatch.setattr(bundles, "all_roots", lambda: chain)


@pytest.fixture
def plan(db: None) -> Plan:
    return services.create_plan(slug="basic", name="Basic", memory_mib=512, max_instances=100, principal=SYSTEM)


@pytest.fixture
def acme(db: None) -> Organisation:
    return services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)


def node(name: str, number: int, **more: Any) -> Node:
    return make_node(name, number, **{"prepared": "digest", **more})


def placed(organisation: Organisation, plan: Plan, name: str = "acme") -> Instance:
    made = services.create_instance(
        organisation=organisation, domain=f"{name}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    place(made, claimed("Instance", made.key))
    return made


def owner(key: str = "restore01", kind: str = "Restore") -> Lease:
    from controlplane.reconcile import lease as leases

    watch.touch(kind, key)
    WorkItem.objects.filter(kind=kind, object_id=key).update(leased_until=None)
    return next(x for x in leases.claim(["backup"], holder="test", limit=100) if (x.kind, x.object_id) == (kind, key))


def test_it_has_an_address_and_a_key_of_its_own_and_takes_memory(acme: Organisation, plan: Plan) -> None:
    n1 = node("n1", 1, memory_mib=2048, instance_network="10.8.0.0/24")
    instance = placed(acme, plan)
    before = placing.memory_used_mib(n1)
    made = scratches.make(instance, owner(), engine="ejabberd")
    assert made.node == n1
    assert made.address != instance.placement.address
    assert made.key != instance.key
    assert placing.memory_used_mib(n1) == before + plan.memory_mib
    assert scratches.make(instance, owner(), engine="ejabberd") == made
    assert Scratch.objects.count() == 1


def test_nobody_else_gets_its_address_or_its_memory(acme: Organisation, plan: Plan) -> None:
    node("n1", 1, memory_mib=3 * 512, instance_network="10.8.0.0/29")
    first = placed(acme, plan, "one")
    made = scratches.make(first, owner(), engine="prosody")
    second = placed(acme, plan, "two")
    assert len({first.placement.address, made.address, second.placement.address}) == 3
    with pytest.raises(Rejected, match="memory"):
        placed(acme, plan, "three")


def test_on_a_node_of_one_address_it_has_ports_of_its_own(acme: Organisation, plan: Plan) -> None:
    node("n1", 1, instance_network="10.8.0.7/32")
    first = placed(acme, plan, "one")
    made = scratches.make(first, owner(), engine="prosody")
    second = placed(acme, plan, "two")
    assert {first.placement.address, made.address, second.placement.address} == {"10.8.0.7"}
    ports = [first.placement.base_port, made.base_port, second.placement.base_port]
    assert len({port // 10 for port in ports}) == 3


def test_a_full_home_leads_to_another_node_unless_that_one_is_wanted(acme: Organisation, plan: Plan) -> None:
    n1 = node("n1", 1, memory_mib=512)
    instance = placed(acme, plan)
    n2 = node("n2", 2, memory_mib=2048)
    with pytest.raises(Unavailable, match="memory"):
        scratches.make(instance, owner(), engine="prosody", node=n1)
    assert scratches.make(instance, owner(), engine="prosody").node == n2


def test_without_any_room_it_says_so(acme: Organisation, plan: Plan) -> None:
    node("n1", 1, memory_mib=512)
    with pytest.raises(Rejected, match="No node fits"):
        scratches.make(placed(acme, plan), owner(), engine="prosody")


def test_a_lost_lease_makes_none(acme: Organisation, plan: Plan) -> None:
    node("n1", 1)
    instance, lease = placed(acme, plan), owner()
    WorkItem.objects.filter(pk=lease.item_id).update(fence=lease.fence + 1)
    with pytest.raises(LeaseLost):
        scratches.make(instance, lease, engine="prosody")
    assert not Scratch.objects.exists()


@pytest.mark.usefixtures("certified")
def test_it_is_cut_off(acme: Organisation, plan: Plan) -> None:
    node("n1", 1)
    instance = placed(acme, plan)
    made = scratches.make(instance, owner(), engine="prosody")
    spec = bundles.spec_of(made)
    assert (spec.isolated, spec.turn, spec.publish_links, spec.outage_url) == (True, None, False, "")
    assert spec.edge_addresses == (made.address,)
    assert spec.domain.ascii == "acme.roost.example"
    assert str(spec.paths.root).endswith(f"/{made.key}")
    bundle = bundles.bundle_of(made, RUNNING)
    assert bundle.user == f"r-{made.key}"
    config = next(file.content.decode() for file in bundle.files if file.path.endswith("prosody.cfg.lua"))
    assert "s2s_ports = {}" in config.replace("{ }", "{}")


@pytest.mark.usefixtures("certified")
def test_its_node_applies_it_in_the_same_run_and_wakes_its_owner(
    acme: Organisation, plan: Plan, machines: Machines
) -> None:
    n1 = node("n1", 1)
    instance = placed(acme, plan)
    lease = owner()
    made = scratches.make(instance, lease, engine="prosody")
    waits = bundles.bring_to(made, STOPPED, lease)
    assert isinstance(waits, Wait)
    WorkItem.objects.filter(kind="Restore").update(due_at="2099-01-01T00:00:00Z", nudged=False)
    found = converge(n1, claimed("Node", "n1"))
    assert found.finding.status == "True", found.finding
    made.refresh_from_db()
    assert made.applied_digest == made.wanted_digest != ""
    assert WorkItem.objects.get(kind="Restore").nudged
    assert bundles.bring_to(made, STOPPED, lease) is None
    assert converge(n1, claimed("Node", "n1")).finding.message == "Nothing waits."


@pytest.mark.usefixtures("certified")
def test_a_failure_is_its_own_and_tried_again(
    acme: Organisation, plan: Plan, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    n1 = node("n1", 1)
    lease = owner()
    made = scratches.make(placed(acme, plan), lease, engine="prosody")
    bundles.bring_to(made, RUNNING, lease)
    honest = Machines.converge

    def failing(self: Machines, target: Any, given: Any, **more: Any) -> Any:
        return {
            key: dataclasses.replace(one, error="No room.") for key, one in honest(self, target, given, **more).items()
        }

    monkeypatch.setattr(Machines, "converge", failing)
    assert converge(n1, claimed("Node", "n1")).finding.reason == "SomeFailed"
    made.refresh_from_db()
    assert (made.error, made.failures) == ("No room.", 1)
    assert made.retry_at is not None
    waits = bundles.bring_to(made, RUNNING, lease)
    assert waits is not None
    assert (waits.reason, waits.failed) == ("ConvergeFailed", True)
    assert converge(n1, claimed("Node", "n1")).finding.reason == "Retrying"


@pytest.mark.usefixtures("certified")
def test_its_row_goes_last(acme: Organisation, plan: Plan, machines: Machines) -> None:
    n1 = node("n1", 1)
    lease = owner()
    made = scratches.make(placed(acme, plan), lease, engine="prosody")
    bundles.bring_to(made, STOPPED, lease)
    with pytest.raises(Rejected, match="still on its node"):
        scratches.release(made, lease)
    converge(n1, claimed("Node", "n1"))
    made.refresh_from_db()
    assert bundles.remove(made, lease) is not None
    made.refresh_from_db()
    assert made.wanted_state == ABSENT
    converge(n1, claimed("Node", "n1"))
    made.refresh_from_db()
    assert bundles.remove(made, lease) is None
    assert not Scratch.objects.exists()
    scratches.release(made, lease)


def test_an_instance_does_not_go_before_its_scratches(acme: Organisation, plan: Plan) -> None:
    node("n1", 1)
    instance = placed(acme, plan)
    lease = owner()
    made = scratches.make(instance, lease, engine="prosody")
    WorkItem.objects.filter(kind="Restore").update(due_at="2099-01-01T00:00:00Z", nudged=False)
    outcome = NodeAssigned().undo(Subject(instance), claimed("Instance", instance.key))
    assert isinstance(outcome, Wait)
    assert WorkItem.objects.get(kind="Restore").nudged
    assert Placement.objects.filter(instance=instance).exists()
    scratches.release(made, lease)
    assert not isinstance(NodeAssigned().undo(Subject(instance), claimed("Instance", instance.key)), Wait)
    assert not Placement.objects.exists()


@pytest.fixture
def restore(acme: Organisation, plan: Plan) -> Restore:
    node("n1", 1)
    instance = placed(acme, plan)
    Place.objects.create(name="here", url="/srv/backups", is_default=True)
    repository = ensure(instance)
    backup = Backup.objects.create(repository=repository, kind="full", trigger="manual", state="done")
    return Restore.objects.create(
        repository=repository,
        backup=backup,
        instance=instance,
        instance_key=instance.key,
        mode="in_place",
        state="running",
    )


def test_the_switch_is_one_step_and_happens_once(restore: Restore) -> None:
    instance, lease = restore.instance, owner(restore.key)
    assert instance is not None
    made = scratches.make(instance, lease, engine="ejabberd")
    switch.switch(restore, made, lease)
    placement = Placement.objects.get(instance=instance)
    assert (placement.adopt_id, placement.adopt_key, placement.kept) == (restore.key, made.key, restore.key)
    instance.refresh_from_db()
    assert instance.engine == "ejabberd"
    generation = instance.generation
    restore.refresh_from_db()
    at = restore.switched_at
    switch.switch(restore, made, lease)
    restore.refresh_from_db()
    instance.refresh_from_db()
    assert (restore.switched_at, instance.generation) == (at, generation)
    adoption = adoption_of(placement)
    assert adoption is not None
    assert (adoption.user, adoption.root) == (f"r-{made.key}", f"{made.node.root}/{made.key}")


def test_onto_another_node_the_former_engine_is_not_forgotten(restore: Restore) -> None:
    instance, lease = restore.instance, owner(restore.key)
    assert instance is not None
    n2 = node("n2", 2)
    before = Placement.objects.get(instance=instance)
    made = scratches.make(instance, lease, engine="prosody", node=n2)
    switch.switch(restore, made, lease)
    after = Placement.objects.get(instance=instance)
    assert (after.node, after.address, after.proxy65_port) == (n2, made.address, before.proxy65_port)
    former = Scratch.objects.get(purpose=Scratch.FORMER)
    assert (former.key, former.node, former.address) == (instance.key, before.node, before.address)
    assert bundles.bundle_of(former, ABSENT).root == f"{before.node.root}/{instance.key}"
    assert scratches.of(lease, Scratch.FORMER) == former
    assert scratches.of(lease) == made


def test_what_was_called_off_is_not_switched(restore: Restore) -> None:
    from django.utils import timezone

    lease = owner(restore.key)
    assert restore.instance is not None
    made = scratches.make(restore.instance, lease, engine="ejabberd")
    Restore.objects.filter(pk=restore.pk).update(cancel_requested_at=timezone.now())
    with pytest.raises(Rejected, match="called off"):
        switch.switch(restore, made, lease)
    restore.instance.refresh_from_db()
    assert restore.instance.engine == "prosody"
    assert Placement.objects.get(instance=restore.instance).adopt_id == ""
