"""Rollouts: one node after the other, each well again before the next; the first that is not stops the rest."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane import wiring
from controlplane.fleet import rollouts
from controlplane.fleet.admission import set_standing
from controlplane.fleet.models import Node, Placement, Rollout
from controlplane.fleet.services import RESTART, stale_placements
from controlplane.provisioning import rollout as passes
from controlplane.provisioning.models import Walk
from controlplane.provisioning.prepare import prepared
from controlplane.reconcile import conditions, watch
from controlplane.reconcile.models import Condition, Event
from controlplane.reconcile.step import Finding
from controlplane.values.errors import Conflict, InvalidInput, Rejected, Unavailable
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.db.fleet.driven import Machines, claim, make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


class World:
    """Three nodes with two tenants each, one of either engine; it does what nodes' and instances' passes would do."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.restarted: list[str] = []
        self.sick: set[str] = set()
        plan = tenants.create_plan(slug="basic", name="Basic", max_instances=9, principal=SYSTEM)
        organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
        for number, name in enumerate(("n1", "n2", "n3"), 1):
            node = make_node(
                name, number, prepared="x", facts={"versions": {"prosody": "0.12.3-1", "ejabberd": "23.01"}}
            )
            machines.installed[name] = {"prosody": "0.12.3-1", "ejabberd": "23.01"}
            for engine in ("prosody", "ejabberd"):
                made = tenants.create_instance(
                    organisation=organisation,
                    domain=f"{engine}{number}.roost.example",
                    engine=engine,
                    plan=plan,
                    principal=SYSTEM,
                )
                self._place(made, node)

    def _place(self, instance: Instance, node: Node) -> None:
        number = Placement.objects.count()
        Placement.objects.create(
            instance=instance,
            node=node,
            address=node.private_address,
            base_port=7000 + 10 * number,
            proxy65_port=20000 + number,
            wanted_digest="d",
            applied_digest="d",
            applied_at=timezone.now(),
        )
        self._walk(instance.key)

    def _walk(self, key: str) -> None:
        instance = Instance.objects.get(key=key)
        Walk.objects.update_or_create(
            instance=instance,
            defaults={"at": timezone.now(), "ok": True, "subject": "s", "steps": [], "duration_s": 1.0},
        )
        lease = claim("Instance", key)
        conditions.write(lease, [Finding("Ready", "True", "Ready")], generation=instance.verify_generation)

    def prepare(self, name: str) -> None:
        """The node's pass, as far as it prepares."""
        lease = claim("Node", name)
        conditions.write(lease, [prepared(Node.objects.get(name=name), lease)], generation=0)

    def converge(self, name: str) -> None:
        """The node's pass, as far as it applies: what is to be restarted is."""
        for placement in stale_placements(Node.objects.get(name=name), limit=50):
            assert placement.applied_digest == RESTART
            self.restarted.append(placement.instance.key)
            Placement.objects.filter(pk=placement.pk).update(applied_digest="d", applied_at=timezone.now())

    def walk(self, name: str) -> None:
        """The passes of all instances there whose engine is well."""
        for placement in Placement.objects.filter(node__name=name).select_related("instance"):
            if placement.instance.key not in self.sick:
                self._walk(placement.instance.key)

    def keys(self, name: str, engine: str = "") -> set[str]:
        rows = Instance.objects.filter(placement__node__name=name)
        return set((rows.filter(engine=engine) if engine else rows).values_list("key", flat=True))


@pytest.fixture
def world(monkeypatch) -> World:
    machines = Machines(newest={"prosody": "0.12.4-1"})
    monkeypatch.setattr(wiring, "node_driver", lambda: machines)
    return World(machines)


def step(row: Rollout) -> Rollout:
    """One pass over the rollout."""
    assert passes.reconcile(claim("Rollout", row.pk)) is not None
    row.refresh_from_db()
    return row


def states(row: Rollout) -> list[str]:
    return [row.results[name]["state"] for name in row.nodes]


def test_an_upgrade_goes_from_node_to_node(world) -> None:
    canary = Node.objects.get(name="n2")
    row = rollouts.start_rollout(kind="upgrade", canary=canary, principal=SYSTEM)
    assert row.nodes == ["n2", "n1", "n3"]
    for number, name in enumerate(row.nodes):
        step(row)
        assert states(row) == ["done"] * number + ["running"] + ["waiting"] * (2 - number)
        assert Node.objects.get(name=name).standing == Node.CORDONED
        assert [run["node"] for run in world.machines.runs] == row.nodes[:number]
        world.prepare(name)
        assert world.machines.runs[-1]["upgrade"] is True
        step(row)
        assert step(row).results[name]["state"] == "running", "nobody was walked through since"
        world.walk(name)
        assert step(row).results[name]["state"] == "running", "Prosody is not restarted yet"
        world.converge(name)
        assert step(row).results[name]["state"] == "running", "the walk was through the engine before its restart"
        world.walk(name)
        assert step(row).results[name]["state"] == "done"
        assert Node.objects.get(name=name).standing == Node.ACTIVE
        assert row.results[name]["versions"] == {
            "before": {"prosody": "0.12.3-1", "ejabberd": "23.01"},
            "after": {"prosody": "0.12.4-1", "ejabberd": "23.01"},
        }
    assert row.state == Rollout.RUNNING
    assert step(row).state == Rollout.DONE
    assert set(world.restarted) == {key for name in row.nodes for key in world.keys(name, "prosody")}
    known = conditions.of("Rollout", row.pk)
    assert (known["Succeeded"].status, known["Progressing"].status) == ("True", "False")
    told = list(Event.objects.filter(kind="Rollout", object_id=str(row.pk)).values_list("type", flat=True))
    assert told.count("NodePrepared") == 3
    assert told.count("NodeDone") == 3
    assert {"Started", "Done"} <= set(told)


def test_a_preparation_that_fails_stops_the_rest(world) -> None:
    world.machines.trouble["n1"] = Rejected("apt-get install failed")
    row = step(rollouts.start_rollout(kind="upgrade", principal=SYSTEM))
    world.prepare("n1")
    step(row)
    assert (row.state, states(row)) == (Rollout.STOPPED, ["failed", "waiting", "waiting"])
    assert "apt-get install failed" in row.reason
    assert {run["node"] for run in world.machines.runs} == {"n1"}
    assert Node.objects.get(name="n1").standing == Node.CORDONED, "an operator looks first"
    assert conditions.of("Rollout", row.pk)["Succeeded"].stalled
    world.prepare("n1")
    step(row)
    assert states(row) == ["failed", "waiting", "waiting"], "what has stopped stays so"


def test_an_older_failure_of_the_node_stops_nothing(world) -> None:
    world.machines.trouble["n1"] = Rejected("no space")
    rollouts.ask_prepare(node=Node.objects.get(name="n1"), principal=SYSTEM)
    world.prepare("n1")
    assert conditions.of("Node", "n1")["Prepared"].reason == "Failed"
    world.machines.trouble.clear()
    row = step(rollouts.start_rollout(kind="prepare", principal=SYSTEM))
    assert step(row).state == Rollout.RUNNING
    world.prepare("n1")
    assert step(row).results["n1"]["prepared"] is True
    assert world.machines.runs[-1]["upgrade"] is False


def test_a_tenant_that_does_not_come_back_stops_the_rest(world) -> None:
    sick = min(world.keys("n1", "prosody"))
    world.sick.add(sick)
    row = step(rollouts.start_rollout(kind="upgrade", principal=SYSTEM))
    world.prepare("n1")
    step(row)
    world.converge("n1")
    world.walk("n1")
    assert sick in step(row).results["n1"]["message"]
    late = (timezone.now() - datetime.timedelta(seconds=passes.LIMIT_S + 1)).isoformat()
    row.results["n1"]["started_at"] = late
    row.save()
    step(row)
    assert (row.state, states(row)) == (Rollout.STOPPED, ["failed", "waiting", "waiting"])
    assert "15 minutes" in row.reason
    assert sick in row.reason


def test_a_node_that_is_away_stops_it_when_its_time_is_over(world) -> None:
    world.machines.trouble["n1"] = Unavailable("no route to host")
    row = step(rollouts.start_rollout(kind="upgrade", principal=SYSTEM))
    world.prepare("n1")
    assert "no route to host" in step(row).results["n1"]["message"]
    row.results["n1"]["started_at"] = (timezone.now() - datetime.timedelta(hours=1)).isoformat()
    row.save()
    assert step(row).state == Rollout.STOPPED


def test_who_was_not_ready_before_is_not_waited_for(world) -> None:
    ill = min(world.keys("n1"))
    Condition.objects.filter(kind="Instance", object_id=ill, type="Ready").update(status="False")
    world.sick.add(ill)
    row = step(rollouts.start_rollout(kind="prepare", principal=SYSTEM))
    world.prepare("n1")
    step(row)
    world.walk("n1")
    step(row)
    assert states(row)[0] == "done"
    assert "1 instances were not ready before" in row.results["n1"]["message"]
    assert not world.restarted


def test_a_node_that_an_operator_had_cordoned_stays_so(world) -> None:
    set_standing(node=Node.objects.get(name="n1"), standing=Node.CORDONED, principal=SYSTEM)
    row = step(rollouts.start_rollout(kind="prepare", principal=SYSTEM))
    world.prepare("n1")
    step(row)
    world.walk("n1")
    assert states(step(row))[0] == "done"
    assert Node.objects.get(name="n1").standing == Node.CORDONED


def test_a_run_that_was_killed_half_way_still_restarts_what_it_upgraded(world) -> None:
    """The packages are new already when the second run looks; the rollout knows what was there when it began."""
    row = step(rollouts.start_rollout(kind="upgrade", principal=SYSTEM))
    world.machines.trouble["n1"] = Unavailable("the worker was killed")
    world.prepare("n1")
    world.machines.trouble.clear()
    world.prepare("n1")
    step(row)
    world.converge("n1")
    assert set(world.restarted) == world.keys("n1", "prosody")


@pytest.mark.parametrize("killed_after", ["begin", "prepare", "restart"])
def test_it_goes_on_wherever_it_was_killed(world, monkeypatch, killed_after) -> None:
    """What a pass decided is stored whole or not at all; the next pass goes on from there."""
    row = rollouts.start_rollout(kind="upgrade", principal=SYSTEM)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def die(row: Rollout) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(passes.faults, "point", killed)
            with pytest.raises(KeyboardInterrupt):
                passes.reconcile(claim("Rollout", row.pk))
        row.refresh_from_db()

    (die if killed_after == "begin" else step)(row)
    world.prepare("n1")
    (die if killed_after == "prepare" else step)(row)
    world.converge("n1")
    world.walk("n1")
    (die if killed_after == "restart" else step)(row)
    assert states(row) == ["done", "waiting", "waiting"]
    assert [run["node"] for run in world.machines.runs] == ["n1"]
    assert set(world.restarted) == world.keys("n1", "prosody")
    assert len(world.restarted) == 1


def test_it_can_be_called_off(world) -> None:
    row = step(rollouts.start_rollout(kind="upgrade", principal=SYSTEM))
    rollouts.cancel_rollout(rollout=row, principal=SYSTEM)
    step(row)
    assert (row.state, states(row)) == (Rollout.CANCELLED, ["left", "left", "left"])
    assert Node.objects.get(name="n1").standing == Node.ACTIVE
    world.prepare("n1")
    assert world.machines.runs[-1]["upgrade"] is False, "the node is prepared as it was asked, and not upgraded"
    assert step(row).results["n1"]["state"] == "left"
    assert conditions.of("Rollout", row.pk)["Succeeded"].reason == "Cancelled"
    with pytest.raises(Conflict):
        rollouts.cancel_rollout(rollout=row, principal=SYSTEM)


def test_one_at_a_time_and_only_of_what_roost_prepares(world) -> None:
    here = make_node("here", 9, connection="local")
    n1, n2 = Node.objects.get(name="n1"), Node.objects.get(name="n2")
    with pytest.raises(InvalidInput, match="launcher"):
        rollouts.start_rollout(kind="prepare", nodes=[here], principal=SYSTEM)
    with pytest.raises(InvalidInput):
        rollouts.start_rollout(kind="prepare", nodes=[], principal=SYSTEM)
    with pytest.raises(InvalidInput):
        rollouts.start_rollout(kind="prepare", nodes=[n1], canary=n2, principal=SYSTEM)
    with pytest.raises(InvalidInput):
        rollouts.start_rollout(kind="paint", principal=SYSTEM)
    assert rollouts.start_rollout(kind="prepare", nodes=[n2, n1], principal=SYSTEM).nodes == ["n1", "n2"]
    with pytest.raises(Conflict):
        rollouts.start_rollout(kind="upgrade", principal=SYSTEM)


def test_a_rollout_that_is_gone_leaves_the_queue(world) -> None:
    watch.touch("Rollout", 4711)
    assert passes.reconcile(claim("Rollout", 4711)) is None
