"""A node's address changes: who says so, what is written at once, and how the incident goes on to its end."""

from __future__ import annotations

import datetime
import itertools

import pytest
from django.utils import timezone

from controlplane import wiring
from controlplane.fleet.models import Node, Placement
from controlplane.monitoring import addresses, incidents, moving
from controlplane.monitoring.models import AddressSighting, Incident
from controlplane.provisioning import rebind
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import InvalidInput, Unavailable
from controlplane.zones import services as zones
from controlplane.zones.models import DnsRecord
from tenants import services as tenants
from tenants.models import AuditEvent, Instance
from tenants.principal import SYSTEM
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]

OLD, NEW, OTHER = "198.51.100.7", "198.51.100.8", "198.51.100.9"
OLD6, NEW6 = "2001:db8:1::7", "2001:db8:1::8"
STUN = ["stun1.example", "stun2.example"]


class Far:
    """The node's side: what its interfaces have, and what each server outside says. ``rebound``: files it took."""

    def __init__(self) -> None:
        self.interface: list[str] = [OLD, OLD6]
        self.outside: dict[tuple[str, int], str] = {}
        self.rebound: list[list[dict]] = []
        self.trouble = ""
        self.away = False

    def ask(self, source, argument, *, timeout_s=20.0):
        if self.away:
            raise Unavailable("The node is not reached.")
        if "files" in argument:
            if not self.trouble:
                self.rebound.append(argument["files"])
            return {"changed": ["HAProxy"], "error": self.trouble, "took_s": 0.1}
        own = {"4": [a for a in self.interface if ":" not in a], "6": [a for a in self.interface if ":" in a]}
        if argument["unless"] and set(argument["unless"]) <= set(self.interface):
            return {"interfaces": own, "sources": [], "took_s": 0.0}
        said = [
            {"source": f"stun:{server}", "family": family, "address": self.outside[server, family]}
            if (server, family) in self.outside
            else {"source": f"stun:{server}", "family": family, "error": "no answer"}
            for server in argument["stun"]
            for family in (4, 6)
        ]
        return {"interfaces": own, "sources": said, "took_s": 0.1}


@pytest.fixture
def far(monkeypatch, settings):
    found = Far()
    monkeypatch.setattr(wiring, "line", lambda target: found)
    monkeypatch.setattr(moving, "PUBLISH_S", 0.2)
    networks = ["198.51.100.0/24", "2001:db8::/32"]
    settings.ROOST = {**settings.ROOST, "STUN_SERVERS": STUN, "PUBLIC_NETWORKS": networks, "ADDRESS_S": 30.0}
    return found


@pytest.fixture
def acme() -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def node(acme, far) -> Node:
    """As it was prepared, with the records of its one instance published."""
    row = make_node("n1", 11, public_addresses=[OLD, OLD6])
    row.prepared = rebind._digest(row)
    row.save()
    Placement.objects.create(instance=acme, node=row, address="10.9.0.11", base_port=7000, proxy65_port=20000)
    zones.sync_records(instance=acme, wanted=zones.records_for(acme, [OLD, OLD6]), lease=None)
    DnsRecord.objects.update(published=True)
    return row


def look(node: Node):
    """One pass, whatever is due; what it returned."""
    watch.touch(addresses.KIND, node.name)
    WorkItem.objects.filter(kind=addresses.KIND).update(leased_until=None)
    WorkItem.objects.exclude(kind=addresses.KIND).update(due_at=timezone.now() + datetime.timedelta(hours=1))
    [lease] = leases.claim(["heal"], holder="test")
    return addresses.reconcile(lease)


def moved(far: Far, *there: str) -> None:
    far.interface = list(there)
    far.outside = {(server, 6 if ":" in one else 4): one for server in STUN for one in there}


def published() -> set[str]:
    rows = DnsRecord.objects.filter(wanted=True, type__in=("A", "AAAA"))
    return set(itertools.chain.from_iterable(row.rdatas for row in rows))


def test_a_change_is_written_at_once_and_told_to_the_end(node, far, acme):
    look(node)
    assert Incident.objects.count() == 0
    moved(far, NEW, NEW6)
    assert addresses.interface_addresses("n1", {4: [NEW, "10.9.0.11"], 6: [NEW6]})
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [NEW, NEW6]
    assert published() == {NEW, NEW6}
    assert not DnsRecord.objects.filter(type__in=("A", "AAAA"), published=True).exists()
    assert WorkItem.objects.filter(kind="Zone", due_at__lte=timezone.now()).exists()
    [event] = AuditEvent.objects.filter(action="node.set-addresses")
    assert event.data["before"] == [OLD, OLD6]
    incident = Incident.objects.get()
    assert (incident.kind, incident.cause, incident.scope) == ("address", "AddressChanged", "")
    assert incident.is_open
    assert incident.details["rebound"]
    assert not incident.details["published"]
    [[file]] = far.rebound
    assert NEW in file["content"]
    assert OLD + ":" not in file["content"]

    DnsRecord.objects.update(published=True)
    look(node)
    incident.refresh_from_db()
    assert not incident.is_open
    assert {"detect_s", "rebind_s", "publish_s", "heal_s"} <= incident.details.keys()
    types = [entry.type for entry in incident.entries.all()]
    assert types == ["Noticed", "Acted", "Taken", "Published", "LinksAsked", "Ended"]


def test_the_machine_counts_as_prepared_when_it_has_taken_the_address(node, far):
    moved(far, NEW, OLD6)
    look(node)
    node.refresh_from_db()
    assert rebind.is_as_prepared(node)


def test_a_machine_that_was_not_as_prepared_does_not_become_so_by_it(node, far):
    Node.objects.update(prepared="0" * 64)
    node.refresh_from_db()
    moved(far, NEW, OLD6)
    look(node)
    node.refresh_from_db()
    assert node.prepared == "0" * 64


def test_one_source_alone_changes_nothing(node, far):
    far.interface = [NEW, OLD6]
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD, OLD6]
    assert "one source alone" in node.address_watch.message
    assert Incident.objects.count() == 0


def test_behind_a_translator_the_servers_outside_decide(node, far):
    far.interface = ["192.168.7.2"]
    Node.objects.update(public_addresses=[OLD])
    far.outside = {(STUN[0], 4): NEW, (STUN[1], 4): OTHER}
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD]
    far.outside = {(server, 4): NEW for server in STUN}
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [NEW]


def test_what_is_pinned_wins_and_what_is_switched_off_is_only_seen(node, far):
    addresses.set_watch(node=node, follows=False, principal=SYSTEM)
    moved(far, NEW, OLD6)
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD, OLD6]
    assert AddressSighting.objects.get(source="interface", family=4).addresses == [NEW]
    addresses.set_watch(node=node, pinned=[OTHER], principal=SYSTEM)
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OTHER, OLD6]
    with pytest.raises(InvalidInput):
        addresses.set_watch(node=node, pinned=["acme.example"], principal=SYSTEM)


def test_all_that_named_the_old_address_names_the_new_one(node, far):
    variables = {
        "edge_addresses": [OLD],
        "coturn_arguments": ["--listen", OLD, "--realm", "turn.example", "--database", "/var/lib/turn/turn.sqlite"],
        "other": OLD,
    }
    Node.objects.update(address=OLD, variables=variables, prepared="x")
    node.refresh_from_db()
    moved(far, NEW, OLD6)
    look(node)
    node.refresh_from_db()
    assert node.address == NEW
    assert node.variables["edge_addresses"] == [NEW]
    assert node.variables["coturn_arguments"][1] == NEW
    assert node.variables["other"] == OLD
    [[edge, turn]] = far.rebound
    assert (edge["name"], turn["name"]) == ("HAProxy", "coturn")
    assert f"listening-ip={NEW}\n" in turn["content"]
    assert OLD not in turn["content"]


def test_a_machine_that_does_not_take_it_is_named_and_tried_again(node, far):
    far.trouble = "HAProxy: it refuses"
    moved(far, NEW, OLD6)
    look(node)
    again = look(node)
    incident = incidents.open_for(moving.subject_of(node.name))
    assert incident is not None
    assert [e.type for e in incident.entries.all()].count("NotTaken") == 1
    assert again is not None
    assert again.after_s <= 1
    far.trouble = ""
    DnsRecord.objects.update(published=True)
    look(node)
    assert incidents.open_for(moving.subject_of(node.name)) is None


def test_it_may_change_again_before_the_first_change_is_healed(node, far):
    moved(far, NEW, OLD6)
    look(node)
    moved(far, OTHER, OLD6)
    addresses.interface_addresses(node, {4: [OTHER], 6: [OLD6]})
    look(node)
    incident = Incident.objects.get()
    assert incident.details["from"] == [OLD, OLD6]
    assert incident.details["to"] == [OTHER, OLD6]
    assert published() == {OTHER, OLD6}
    assert len(far.rebound) == 2


def test_a_node_without_an_edge_has_its_links_proven_and_no_records_written(node, far):
    Node.objects.update(edge=Node.NO_EDGE, public_addresses=[])
    make_node("e1", 12, edge=Node.SHARED_EDGE, carries_instances=False, public_addresses=[OTHER])
    node.refresh_from_db()
    moved(far, OLD, OLD6)
    look(node)
    assert Incident.objects.count() == 0
    moved(far, NEW, NEW6)
    look(node)
    incident = Incident.objects.get()
    assert incident.details["from"] == [OLD, OLD6]
    assert not incident.is_open
    assert published() == {OLD, OLD6}  # as the instance's own pass left them
    assert far.rebound == []


def test_the_same_said_again_is_no_news(node):
    assert addresses.interface_addresses(node, {4: [OLD], 6: [OLD6]})
    assert not addresses.interface_addresses(node, {4: [OLD], 6: [OLD6]})
    assert not addresses.interface_addresses("nobody", {4: [OLD]})


def test_a_node_that_is_away_keeps_what_it_had(node, far):
    far.away = True
    again = look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD, OLD6]
    assert again is not None
    assert "not reached" in node.address_watch.message
    assert not Event.objects.filter(type="AddressesChanged").exists()


def test_a_family_that_comes_or_goes_makes_or_removes_its_records(node, far):
    far.interface = [NEW]
    far.outside = {(server, 4): NEW for server in STUN}
    addresses.set_watch(node=node, pinned=[NEW, OTHER], principal=SYSTEM)
    look(node)
    assert published() == {NEW, OTHER, OLD6}
    addresses.set_watch(node=node, pinned=[], principal=SYSTEM)
    Node.objects.update(public_addresses=[NEW])
    DnsRecord.objects.filter(type="AAAA").delete()
    node.refresh_from_db()
    moved(far, OTHER, NEW6)
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OTHER, NEW6]
    assert published() == {OTHER, NEW6}


def test_a_machine_that_lost_its_address_is_asked_again_soon_until_the_sources_agree(node, far):
    look(node)
    far.interface = [NEW, OLD6]
    addresses.interface_addresses(node, {4: [NEW], 6: [OLD6]})
    again = look(node)
    assert again is not None
    assert again.after_s <= addresses.SOON_S
    sign = node.address_watch.candidate_at
    assert sign is not None
    moved(far, NEW, OLD6)
    look(node)
    assert Incident.objects.get().started_at == sign
    node.address_watch.refresh_from_db()
    assert node.address_watch.candidate_at is None


def test_nothing_is_waited_for_of_a_node_that_is_out_of_use(node, far):
    moved(far, NEW, OLD6)
    look(node)
    Node.objects.update(standing=Node.RETIRED)
    look(node)
    assert not Incident.objects.get().is_open


def test_many_instances_are_rewritten_in_few_questions(node, far, acme, django_assert_max_num_queries):
    acme.plan.max_instances = 100
    acme.plan.save()
    for number in range(20):
        one = tenants.create_instance(
            organisation=acme.organisation,
            domain=f"t{number}.roost.example",
            engine="prosody",
            plan=acme.plan,
            principal=SYSTEM,
        )
        Placement.objects.create(
            instance=one, node=node, address="10.9.0.11", base_port=7100 + 10 * number, proxy65_port=20100 + number
        )
        zones.sync_records(instance=one, wanted=zones.records_for(one, [OLD, OLD6]), lease=None)
    moved(far, NEW, NEW6)
    with django_assert_max_num_queries(75):
        look(node)
    assert published() == {NEW, NEW6}


def test_a_machine_without_any_public_address_keeps_what_it_had(node, far, monkeypatch):
    look(node)
    monkeypatch.setattr("controlplane.monitoring.votes.WITHDRAW_S", 0.0)
    far.interface, far.outside = ["10.9.0.11"], {}
    for _ in range(3):
        look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD, OLD6]


@pytest.mark.parametrize("there", [OLD, "192.168.7.2"])
def test_a_family_that_the_machine_lost_is_withdrawn(node, far, monkeypatch, there):
    """Also one that is behind a translator now, which has the other family's address."""
    look(node)
    monkeypatch.setattr("controlplane.monitoring.votes.WITHDRAW_S", 0.0)
    far.interface, far.outside = [there], {(server, 4): OLD for server in STUN}
    look(node)
    look(node)
    node.refresh_from_db()
    assert node.public_addresses == [OLD]
    assert published() == {OLD}
