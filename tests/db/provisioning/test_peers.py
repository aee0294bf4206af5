"""With whom an instance's walk talks, and who is told that there is somebody to talk with now."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node, Placement
from controlplane.provisioning.models import Walk
from controlplane.provisioning.steps import verified
from controlplane.reconcile.models import Condition
from tenants import services
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def make(db):
    """Makes a Ready instance of an organisation of its own."""
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)

    def one(name: str, **more) -> Instance:
        organisation = services.create_organisation(slug=name, name=name, principal=SYSTEM)
        made = services.create_instance(
            organisation=organisation,
            domain=f"{name}.roost.example",
            engine="prosody",
            plan=plan,
            principal=SYSTEM,
            **more,
        )
        since = timezone.now() + datetime.timedelta(seconds=Condition.objects.count())
        Condition.objects.create(
            kind="Instance", object_id=made.key, type="Ready", status="True", last_transition=since
        )
        return made

    return one


def peer(instance: Instance, attempt: int = 0) -> str:
    found = verified.peer_of(instance, attempt=attempt)
    return found.ascii.partition(".")[0] if found else ""


def test_the_one_that_is_ready_longest_and_after_a_failure_the_next(make):
    acme, _, _ = make("acme"), make("globex"), make("initech")
    assert [peer(acme, attempt) for attempt in range(3)] == ["globex", "initech", "globex"]


def test_whoever_blocks_the_other_is_no_peer(make):
    make("hostile", s2s_blocked=["acme.roost.example"])
    acme = make("acme", s2s_blocked=["globex.roost.example"])
    make("globex")
    assert peer(acme) == ""
    make("initech")
    assert peer(acme) == "initech"


def test_suspended_ones_are_no_peers(make):
    acme, globex = make("acme"), make("globex")
    services.suspend_instance(instance=globex, principal=SYSTEM)
    assert peer(acme) == ""


def test_the_lonely_are_those_whose_walk_lacked_a_peer(make):
    acme, globex, initech = make("acme"), make("globex"), make("initech")
    for instance, skipped in ((acme, False), (globex, True), (initech, True)):
        steps = [{"name": "login", "ok": True, "skipped": False}, {"name": "s2s", "ok": True, "skipped": skipped}]
        Walk.objects.create(instance=instance, ok=True, steps=steps)
    assert verified.lonely(initech) == [globex.key]


def test_a_node_takes_those_first_that_wait_longest(make):
    node = Node.objects.create(
        name="n1", address="127.0.0.1", instance_network="127.1.0.0/24", root="/srv", state_dir="/srv"
    )
    now = timezone.now()
    for number, (name, at) in enumerate((("acme", now), ("globex", None), ("initech", now - datetime.timedelta(1)))):
        Placement.objects.create(
            instance=make(name),
            node=node,
            address=f"127.1.0.{number + 1}",
            base_port=7000,
            proxy65_port=20000 + number,
            wanted_digest="new",
            applied_digest="old",
            applied_at=at,
        )
    found = [row.instance.organisation.slug for row in fleet.stale_placements(node, limit=2)]
    assert found == ["globex", "initech"]
