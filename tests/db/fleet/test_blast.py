"""What goes with a machine, counted, and what one more instance would change of it."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.fleet import blast
from controlplane.fleet.models import Node, Placement
from controlplane.values.errors import InvalidInput
from tenants import services
from tenants.models import Organisation, Plan
from tenants.principal import SYSTEM
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def plan(db) -> Plan:
    return services.create_plan(slug="basic", name="Basic", memory_mib=512, max_accounts=50, principal=SYSTEM)


@pytest.fixture
def fleet(plan) -> dict[str, Node]:
    """n1 with an edge of its own, n2 and n3 behind the shared edge e1. acme is on n1 and n2, globex on n2 alone."""
    nodes = {
        "n1": make_node("n1", 1, prepared="d"),
        "n2": make_node("n2", 2, prepared="d", edge="none"),
        "n3": make_node("n3", 3, prepared="d", edge="none"),
        "e1": make_node("e1", 4, prepared="d", edge="shared", carries_instances=False),
    }
    for slug, where in (("acme", ("n1", "n2")), ("globex", ("n2",))):
        organisation = services.create_organisation(slug=slug, name=slug, principal=SYSTEM)
        for name in where:
            put(organisation, plan, nodes[name])
    return nodes


def put(organisation: Organisation, plan: Plan, node: Node) -> None:
    number = Placement.objects.count()
    made = services.create_instance(
        organisation=organisation, domain=f"i{number}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    Placement.objects.create(
        instance=made, node=node, address=f"10.0.0.{number}", base_port=7000, proxy65_port=20000 + number
    )


def test_who_is_on_it_and_who_is_nowhere_else(fleet):
    found = blast.blast_radius(fleet["n2"])
    assert (found.instances, found.organisations, found.wholly) == (2, ["acme", "globex"], ["globex"])
    assert (found.accounts, found.memory_mib, found.led, found.only_here) == (100, 1024, 0, 0)
    own = blast.blast_radius(fleet["n1"])
    assert (own.instances, own.wholly, own.led, own.only_here) == (1, [], 1, 1)


def test_an_edge_carries_what_it_leads_to(fleet):
    edge = blast.blast_radius(fleet["e1"])
    assert (edge.instances, edge.organisations, edge.accounts, edge.led, edge.only_here) == (0, [], 0, 2, 2)
    make_node("e2", 5, edge="shared", carries_instances=False, prepared="d")
    assert blast.blast_radius(fleet["e1"]).only_here == 0


def test_it_costs_the_same_however_many_there_are(fleet, plan):
    def cost() -> int:
        with CaptureQueriesContext(connection) as seen:
            blast.blast_radius(fleet["n2"])
        return len(seen)

    before = cost()
    for number in range(3):
        more = services.create_organisation(slug=f"more{number}", name="More", principal=SYSTEM)
        put(more, plan, fleet["n2"])
    assert cost() == before <= 5


def test_a_preview_shows_the_node_before_and_after_and_places_nothing(fleet, plan):
    acme = Organisation.objects.get(slug="acme")
    found = blast.preview(organisation=acme, plan=plan, engine="prosody")
    assert found.node == fleet["n3"]
    assert "fewest instances on it (0)" in found.explanation
    assert [(c.node.name, c.reason) for c in found.candidates][-1] == ("e1", "EdgeOnly")
    assert found.before is not None
    assert found.after is not None
    assert (found.before.instances, found.after.instances) == (0, 1)
    assert (found.after.organisations, found.after.wholly, found.after.accounts) == (["acme"], [], 50)
    assert Placement.objects.count() == 3


def test_a_new_organisation_is_wholly_where_it_begins(fleet, plan):
    found = blast.preview(organisation=None, plan=plan, engine="ejabberd")
    assert found.after is not None
    assert found.after.wholly == ["(a new one)"]


def test_the_edge_of_the_node_counts_the_new_one(fleet, plan):
    fleet["n1"].labels = {"disk": "nvme"}
    fleet["n1"].save()
    acme = Organisation.objects.get(slug="acme")
    found = blast.preview(organisation=acme, plan=plan, engine="prosody", labels={"disk": "nvme"})
    assert found.after is not None
    assert (found.after.node, found.after.led, found.after.only_here, found.after.wholly) == ("n1", 2, 2, [])


def test_a_preview_of_what_does_not_fit_says_what_to_add(fleet, plan):
    found = blast.preview(organisation=None, plan=plan, engine="prosody", labels={"region": "mars"})
    assert (found.node, found.before, found.after) == (None, None, None)
    assert "region=mars" in found.remedy
    with pytest.raises(InvalidInput) as caught:
        blast.preview(organisation=None, plan=plan, engine="icq")
    assert caught.value.field == "engine"
