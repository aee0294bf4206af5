"""What a node's news come to: suspect links of its own tenants, sightings of its addresses, and nothing else."""

from __future__ import annotations

import pytest

from controlplane.fleet.models import Node, Placement
from controlplane.monitoring import links
from controlplane.monitoring.models import AddressSighting, S2sLink
from controlplane.monitoring.watcher import reports
from controlplane.reconcile.models import WorkItem
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]

PEER = "198.51.100.7"


@pytest.fixture
def node() -> Node:
    return make_node("n1", 11)


@pytest.fixture
def acme(node: Node) -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    made = tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    Placement.objects.create(instance=made, node=node, address="10.9.0.11", base_port=7000, proxy65_port=20000)
    return made


def linked(instance: Instance, remote: str, address: str) -> S2sLink:
    stream = {"direction": "out", "local": instance.domain.name, "remote": remote, "address": address}
    return S2sLink.objects.create(
        instance=instance, remote=remote, state=S2sLink.UP, directions={"out": stream}, streams=[stream]
    )


def news(instance: Instance, address: str = PEER, **more: object) -> dict[str, object]:
    return {
        "type": "suspect",
        "user": f"r-{instance.key}",
        "local": ["192.0.2.11", 40000],
        "remote": [address, 5269],
        "timer": "retransmit",
        "count": 3,
        "queued": 512,
        **more,
    }


def suspects() -> list[str]:
    return sorted(S2sLink.objects.filter(state=S2sLink.SUSPECT).values_list("remote", flat=True))


def test_all_links_through_the_connection_are_looked_at_and_no_other(acme):
    one, other = linked(acme, "one.example", PEER), linked(acme, "two.example", f"::ffff:{PEER}")
    linked(acme, "elsewhere.example", "198.51.100.8")
    incoming = {"direction": "in", "address": PEER}
    S2sLink.objects.create(instance=acme, remote="in.example", directions={"in": incoming}, streams=[incoming])
    assert reports.suspect("n1", news(acme)) == ["one.example", "two.example"]
    assert suspects() == ["one.example", "two.example"]
    due = WorkItem.objects.filter(kind="S2sLink", queue="heal").values_list("object_id", flat=True)
    assert set(due) == {str(one.pk), str(other.pk)}
    one.refresh_from_db()
    assert one.suspect_by == "watcher"
    assert one.message == (
        "The kernel of n1 sees a dead connection to 198.51.100.7 port 5269: "
        "sent 3 times more without an answer, 512 bytes wait."
    )


def test_a_node_is_believed_about_its_own_tenants_only(acme):
    linked(acme, "one.example", PEER)
    make_node("n2", 12)
    assert reports.suspect("n2", news(acme)) == []
    assert reports.suspect("n1", news(acme, user="prosody")) == []
    assert reports.suspect("n1", news(acme, user="r-nobody00")) == []
    assert suspects() == []


def test_what_makes_no_sense_is_nothing(acme, monkeypatch):
    linked(acme, "one.example", PEER)
    monkeypatch.setattr(links, "collect", lambda instance: [])
    for remote in (None, [], ["here", 5269], [PEER], "198.51.100.7", [["198.51.100.7"], 1]):
        assert reports.suspect("n1", news(acme, remote=remote)) == []
    assert reports.suspect("n1", news(acme, timer=[], count="many", queued=None)) == ["one.example"]


def test_a_connection_that_nobody_has_written_down_is_asked_for(acme, monkeypatch):
    asked = []

    def collect(instance: Instance) -> list[S2sLink]:
        asked.append(instance)
        return [linked(instance, "fresh.example", PEER), linked(instance, "other.example", "198.51.100.9")]

    monkeypatch.setattr(links, "collect", collect)
    assert reports.suspect("n1", news(acme)) == ["fresh.example"]
    assert asked == [acme]
    # One that is no link, such as a push gateway's, leads to none.
    monkeypatch.setattr(links, "collect", lambda instance: list(S2sLink.objects.filter(instance=instance)))
    assert reports.suspect("n1", news(acme, address="203.0.113.1")) == []


def test_addresses_become_a_sighting(node):
    found = reports.plain_addresses({"4": ["11.22.33.44", "no address"], "6": ["2A00:0:0::1", None]})
    assert found == {4: ["11.22.33.44"], 6: ["2a00::1"]}
    reports.addresses("n1", found)
    rows = AddressSighting.objects.filter(node=node, source="interface").order_by("family")
    assert [(row.family, row.addresses) for row in rows] == [(4, ["11.22.33.44"]), (6, ["2a00::1"])]
    reports.addresses("nobody", found)
    Node.objects.update(standing=Node.RETIRED)
    reports.addresses("n1", {4: ["11.22.33.55"], 6: []})
    assert not AddressSighting.objects.filter(addresses=["11.22.33.55"]).exists()


def test_nodes_in_use_are_listened_to(node):
    make_node("n2", 12, standing=Node.RETIRED)
    make_node("n3", 13, key_sealed="sealed with another key")
    assert list(reports.targets()) == ["n1"]
