"""Routes of instances at several edges: two real HAProxys that are other machines (over lines), and what DNS says."""

from __future__ import annotations

import datetime

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.fleet import routes
from controlplane.fleet.admission import set_standing
from controlplane.fleet.edges import OVERLAP_S
from controlplane.fleet.enrol import update_node
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.provisioning.steps.dns_published import DnsPublished
from controlplane.provisioning.steps.edge_routed import EdgeRouted, EdgeUnrouted
from controlplane.provisioning.steps.verified import Verified
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.models import Condition, Event, WorkItem
from controlplane.values.errors import Conflict, Rejected, Unavailable
from controlplane.values.outcome import Done, Outcome, Stalled, Wait
from tenants import services as tenants
from tenants.models import Instance, Plan
from tenants.principal import SYSTEM
from tests.db.fleet.driven import claim, make_node
from tests.servers.haproxy import Haproxy
from tests.servers.line import PlainLine

pytestmark = [pytest.mark.db, pytest.mark.servers, pytest.mark.django_db]

DOMAIN = "acme.roost.example"
AT = Backend("10.9.0.1", 7000)


@pytest.fixture(scope="module")
def machines():
    with Haproxy("127.65.210.1") as one, Haproxy("127.65.210.2") as two:
        yield {"e1": one, "e2": two}


@pytest.fixture
def lines(monkeypatch):
    made: dict[str, PlainLine] = {}
    monkeypatch.setattr(wiring, "line", lambda target: made.setdefault(target.name, PlainLine()))
    wiring.edge_driver.cache_clear()
    yield made
    wiring.edge_driver.cache_clear()


@pytest.fixture
def edges(db, machines, lines, settings):
    """Two shared edges with empty tables, and a node of each connection behind them."""
    settings.ROOST = {**settings.ROOST, "EDGE_SOURCES": ["127.0.0.1"], "PROXY65_PORTS": (20000, 20009)}
    for number, (name, machine) in enumerate(machines.items(), start=101):
        edge = make_node(
            name,
            number,
            edge="shared",
            carries_instances=False,
            edge_socket=str(machine.socket),
            edge_map_dir=str(machine.directory),
            prepared="digest",
        )
        driver = routes.driver_of(edge)
        driver.sync(driver.table(), {}, {})
    make_node("n1", 1, edge="none")
    make_node("n2", 2, edge="none")
    return Node.objects.in_bulk(["e1", "e2"], field_name="name")


@pytest.fixture
def acme(edges) -> Instance:
    return make("acme")


def make(name: str, node: str = "n1", port: int = 20001, **where: object) -> Instance:
    """An instance that is placed, and all but routed."""
    plan = Plan.objects.first() or tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug=name, name=name, principal=SYSTEM)
    made = tenants.create_instance(
        organisation=organisation, domain=f"{name}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    at = Node.objects.get(name=node)
    fields = {"address": f"10.9.0.{node[1:]}", "base_port": 7000 + 10 * (port - 20001), **where}
    Placement.objects.create(instance=made, node=at, proxy65_port=port, **fields)
    return made


def bring(step, instance: Instance) -> Outcome:
    """What one pass does for this condition."""
    instance = Instance.objects.whole().get(pk=instance.pk)
    subject, lease = Subject(instance), claim("Instance", instance.key)
    return step.observe(subject, lease) or step.act(subject, lease)


def away(name: str, *, back: bool = False) -> None:
    """What the node's own pass writes."""
    status = "True" if back else "False"
    Condition.objects.update_or_create(kind="Node", object_id=name, type="Reachable", defaults={"status": status})


def is_due(instance: Instance) -> bool:
    due_at = WorkItem.objects.get(kind="Instance", object_id=instance.key).due_at
    return due_at < timezone.now() + datetime.timedelta(seconds=5)


def leads_to(edge: Node) -> Backend | None:
    machine = HaproxyEdge(edge.edge_socket, edge.edge_map_dir)
    found = set(machine.routes().values())
    assert len(found) <= 1
    assert set(machine.tcp_ports().values()) == {at.address for at in found}
    return next(iter(found), None)


def records(instance: Instance) -> dict[str, list[str]]:
    """The addresses that DNS is to have: at the instance's own name, which SRV records point to, and at its domain."""
    assert isinstance(bring(DnsPublished(), instance), Wait)
    rows = instance.dns_records.filter(type="A", wanted=True)
    return {row.name: sorted(row.rdatas) for row in rows}


def test_two_shared_edges_lead_to_an_instance_and_both_are_in_dns(acme, edges):
    addresses = records(acme)
    assert set(map(tuple, addresses.values())) == {("192.0.2.101", "192.0.2.102")}
    assert any(name.endswith(".edge.roost.example") for name in addresses)
    outcome = bring(EdgeRouted(), acme)
    assert outcome == Done("Routed", "e1 and e2 lead 4 names to 10.9.0.1:7000 on n1.")
    assert [leads_to(edge) for edge in edges.values()] == [AT, AT]
    assert {row.edge.name for row in EdgeRoute.objects.exclude(routed_at=None)} == {"e1", "e2"}
    assert records(acme) == addresses


def test_an_idle_pass_asks_one_query_and_no_process_over_there(acme, edges, lines):
    bring(EdgeRouted(), acme)
    subject, lease = Subject(Instance.objects.whole().get(pk=acme.pk)), claim("Instance", acme.key)
    assert subject.placement is not None
    assert len(subject.edges) == 2
    asked = sum(line.asked for line in lines.values())
    with CaptureQueriesContext(connection) as captured:
        assert isinstance(EdgeRouted().observe(subject, lease), Done)
    assert len(captured) == 1
    assert sum(line.asked for line in lines.values()) == asked


def test_new_rows_cost_few_queries(acme, edges):
    subject, lease = Subject(acme), claim("Instance", acme.key)
    edge_list, placement = subject.edges, subject.placement
    with CaptureQueriesContext(connection) as captured:
        routes.route(acme, subject.server_names, placement, lease, edges=edge_list, rows=[])
    assert len([query for query in captured if "SAVEPOINT" not in query["sql"]]) <= 3


def test_a_move_behind_shared_edges_changes_no_record(acme, edges):
    before = records(acme)
    bring(EdgeRouted(), acme)
    Placement.objects.filter(instance=acme).update(node=Node.objects.get(name="n2"), address="10.9.0.2", base_port=7010)
    assert records(acme) == before
    assert isinstance(bring(EdgeRouted(), acme), Done)
    assert [leads_to(edge) for edge in edges.values()] == [Backend("10.9.0.2", 7010)] * 2
    assert records(acme) == before


def test_an_edge_that_is_away_holds_nobody_up_and_gets_what_it_missed(acme, edges, lines):
    lines["e2"].cut = True
    away("e2")
    outcome = bring(EdgeRouted(), acme)
    assert isinstance(outcome, Done)
    assert outcome.message == (
        "e1 leads 4 names to 10.9.0.1:7000 on n1. Not reached, and given its routes when it is back: e2."
    )
    assert [leads_to(edge) for edge in edges.values()] == [AT, None]
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}  # e2 does not lead there

    lines["e2"].cut = False
    away("e2", back=True)
    WorkItem.objects.filter(kind="Instance").update(due_at=timezone.now() + datetime.timedelta(hours=1))
    assert routes.serving(edges["e2"], claim("Node", "e2")).status == "True"
    assert leads_to(edges["e2"]) == AT
    assert is_due(acme)
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101", "192.0.2.102")}
    assert bring(EdgeRouted(), acme).message == "e1 and e2 lead 4 names to 10.9.0.1:7000 on n1."


def test_a_move_while_an_edge_is_away_is_made_up_for(acme, edges, lines):
    bring(EdgeRouted(), acme)
    before = records(acme)
    lines["e2"].cut = True
    away("e2")
    Placement.objects.filter(instance=acme).update(address="10.9.0.2", node=Node.objects.get(name="n2"))
    assert isinstance(bring(EdgeRouted(), acme), Done)
    assert [leads_to(edge) for edge in edges.values()] == [Backend("10.9.0.2", 7000), AT]
    lines["e2"].cut = False
    synced = routes.sync_edge(edges["e2"], claim("Node", "e2"))
    assert (synced.added, synced.changed, synced.removed) == (0, 5, 0)
    assert leads_to(edges["e2"]) == Backend("10.9.0.2", 7000)
    assert records(acme) == before


def test_an_edge_that_breaks_unnoticed_keeps_no_other_from_its_route(acme, edges, lines):
    lines["e1"].cut = True
    with pytest.raises(Unavailable, match="e1: The line is cut"):
        bring(EdgeRouted(), acme)
    assert leads_to(edges["e2"]) == AT


def test_without_any_edge_that_is_reached_it_is_not_routed(acme, edges):
    for name in edges:
        away(name)
    outcome = bring(EdgeRouted(), acme)
    assert isinstance(outcome, Wait)
    assert outcome.reason == "EdgeUnreachable"
    assert "e1 and e2" in outcome.message


def test_a_changed_host_key_counts_as_away(acme, edges):
    Condition.objects.create(kind="Node", object_id="e2", type="HostKeyTrusted", status="False")
    assert "Not reached, and given its routes when it is back: e2." in bring(EdgeRouted(), acme).message


def test_a_retired_edge_leaves(acme, edges, lines):
    bring(EdgeRouted(), acme)
    Node.objects.filter(name="e2").update(standing="draining")
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}
    bring(EdgeRouted(), acme)
    assert leads_to(edges["e2"]) == AT  # who has its address still is served
    Node.objects.filter(name="e2").update(standing="retired")
    lines["e2"].cut = True  # it may be gone for good
    assert isinstance(bring(EdgeRouted(), acme), Done)
    assert [row.edge.name for row in EdgeRoute.objects.all()] == ["e1"]
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}


def test_edges_that_are_drained_are_named_if_there_are_no_others(acme, edges):
    bring(EdgeRouted(), acme)
    Node.objects.filter(edge="shared").update(standing="draining")
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101", "192.0.2.102")}


def test_a_new_edge_is_waited_for_by_nobody_and_named_once_it_leads(acme, edges):
    Node.objects.filter(name="e2").update(prepared="")
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}
    outcome = bring(EdgeRouted(), acme)
    assert isinstance(outcome, Done)
    assert outcome.message.endswith("Not prepared yet: e2.")
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}
    Node.objects.filter(name="e2").update(prepared="digest")
    assert routes.serving(Node.objects.get(name="e2"), claim("Node", "e2")).status == "True"
    assert leads_to(edges["e2"]) == AT
    assert set(map(tuple, records(acme).values())) == {("192.0.2.101", "192.0.2.102")}


def test_a_node_that_gets_an_edge_of_its_own_leaves_the_shared_ones(acme, edges):
    bring(EdgeRouted(), acme)
    # e2 becomes n1's own: the same machine, so that there is a HAProxy.
    Node.objects.filter(name="e2").update(edge="own", carries_instances=True)
    Placement.objects.filter(instance=acme).update(node=edges["e2"])
    outcome = bring(EdgeRouted(), acme)
    assert isinstance(outcome, Done)
    assert outcome.message.endswith("Forwarding still, until the others have taken over: e1.")
    # Those who know the old address are served, by an engine that believes the old edge; DNS names the new one only.
    assert [leads_to(edge) for edge in edges.values()] == [AT, AT]
    assert set(map(tuple, records(acme).values())) == {("192.0.2.102",)}
    over = Subject(Instance.objects.whole().get(pk=acme.pk))
    assert {"10.9.0.101", "10.9.0.102"} <= set(over.spec.edge_addresses)
    _long_ago()
    assert "still" not in bring(EdgeRouted(), acme).message
    assert [leads_to(edge) for edge in edges.values()] == [None, AT]
    after = Subject(Instance.objects.whole().get(pk=acme.pk))
    assert "10.9.0.101" not in after.spec.edge_addresses


def test_new_edges_wait_until_the_nodes_firewall_lets_them_in(acme, edges):
    """Changing the topology has the machines prepared; until then nobody is led by a way that is closed."""
    Node.objects.filter(name="e2").update(edge="none")
    bring(EdgeRouted(), acme)
    Node.objects.filter(name="e1").update(edge="none")
    Node.objects.filter(name="e2").update(edge="shared")
    Node.objects.filter(name="n1").update(prepare_wanted=F("prepare_wanted") + 1)
    outcome = bring(EdgeRouted(), acme)
    assert [leads_to(edge) for edge in edges.values()] == [AT, None]
    assert outcome.resync_s < 5
    Node.objects.filter(name="n1").update(prepare_done=F("prepare_wanted"))
    bring(EdgeRouted(), acme)
    assert [leads_to(edge) for edge in edges.values()] == [AT, AT]
    assert set(map(tuple, records(acme).values())) == {("192.0.2.102",)}


def test_a_changed_edge_has_the_machines_prepared(acme, edges):
    Node.objects.exclude(connection="local").update(prepared="digest")

    def wanted() -> dict[str, int]:
        return dict(Node.objects.values_list("name", "prepare_wanted"))

    update_node(node=edges["e2"], changes={"labels": {"rack": "2"}}, principal=SYSTEM)
    assert set(wanted().values()) == {0}
    update_node(node=edges["e2"], changes={"private_address": "10.9.0.202"}, principal=SYSTEM)
    assert wanted() == {"e1": 0, "e2": 1, "n1": 1, "n2": 1}
    update_node(node=Node.objects.get(name="n1"), changes={"edge": "own"}, principal=SYSTEM)
    assert wanted() == {"e1": 0, "e2": 1, "n1": 2, "n2": 1}


def test_nobody_walks_by_the_old_records_and_calls_it_the_new_way(acme, edges):
    """Routes and records change in two passes; the first must not verify what only the second can show."""
    Node.objects.filter(name="e2").update(edge="none")
    bring(EdgeRouted(), acme)
    records(acme)
    acme.dns_records.update(published=True)
    Node.objects.filter(name="e2").update(edge="shared")
    subject, lease = Subject(Instance.objects.whole().get(pk=acme.pk)), claim("Instance", acme.key)
    assert isinstance(DnsPublished().observe(subject, lease), Done)
    assert subject.published_addresses == subject.edge_addresses
    assert EdgeRouted().observe(subject, lease) is None
    assert isinstance(EdgeRouted().act(subject, lease), Done)
    outcome = Verified().act(subject, lease)
    assert isinstance(outcome, Wait)
    assert outcome.reason == "RecordsFollow"


def _long_ago() -> None:
    long_ago = timezone.now() - datetime.timedelta(seconds=OVERLAP_S + 1)
    EdgeRoute.objects.exclude(routed_at=None).update(routed_at=long_ago)


def test_an_edge_goes_on_until_a_new_machine_can_take_over(acme, edges):
    Node.objects.filter(name="e2").update(edge="none")
    bring(EdgeRouted(), acme)
    _long_ago()
    Node.objects.filter(name="e1").update(edge="none")
    Node.objects.filter(name="e2").update(edge="shared", prepared="")
    for _ in range(2):  # however long it takes
        assert isinstance(bring(EdgeRouted(), acme), Done)
        assert [leads_to(edge) for edge in edges.values()] == [AT, None]
        assert set(map(tuple, records(acme).values())) == {("192.0.2.101",)}
        _long_ago()
    Node.objects.filter(name="e2").update(prepared="digest")
    bring(EdgeRouted(), acme)
    assert [leads_to(edge) for edge in edges.values()] == [AT, AT]
    assert set(map(tuple, records(acme).values())) == {("192.0.2.102",)}
    _long_ago()
    bring(EdgeRouted(), acme)
    assert [leads_to(edge) for edge in edges.values()] == [None, AT]


def test_suspended_and_terminated_ones_are_taken_out(acme, edges):
    bring(EdgeRouted(), acme)
    tenants.suspend_instance(instance=acme, reason="unpaid", principal=SYSTEM)
    assert bring(EdgeUnrouted(), acme).reason == "Suspended"
    assert [leads_to(edge) for edge in edges.values()] == [None, None]
    assert not EdgeRoute.objects.exists()
    subject, lease = Subject(acme), claim("Instance", acme.key)
    assert isinstance(EdgeRouted().undo(subject, lease), Done)


def test_an_edge_that_is_away_is_told_of_a_termination_when_it_is_back(acme, edges, lines):
    bring(EdgeRouted(), acme)
    lines["e2"].cut = True
    away("e2")
    tenants.suspend_instance(instance=acme, reason="unpaid", principal=SYSTEM)
    outcome = bring(EdgeUnrouted(), acme)
    assert outcome.message.endswith("Not reached, and still leading to it until then: e2.")
    assert [leads_to(edge) for edge in edges.values()] == [None, AT]
    waiting = EdgeRouted().undo(Subject(acme), claim("Instance", acme.key))
    assert isinstance(waiting, Wait)  # its address is not given to another meanwhile
    lines["e2"].cut = False
    away("e2", back=True)
    assert routes.serving(edges["e2"], claim("Node", "e2")).status == "True"
    assert leads_to(edges["e2"]) is None
    assert isinstance(EdgeRouted().undo(Subject(acme), claim("Instance", acme.key)), Done)


def test_one_that_is_resumed_meanwhile_is_routed_again(acme, edges, lines):
    bring(EdgeRouted(), acme)
    away("e2")
    routes.remove_routes(acme, claim("Instance", acme.key))
    bring(EdgeRouted(), acme)
    away("e2", back=True)
    assert routes.serving(edges["e2"], claim("Node", "e2")).message.endswith("leads 4 names to 1 instances.")
    assert [leads_to(edge) for edge in edges.values()] == [AT, AT]


def test_strangers_are_removed_and_it_is_told(acme, edges):
    bring(EdgeRouted(), acme)
    driver = routes.driver_of(edges["e1"])
    driver.publish([routes.DomainName("stranger.example")], Backend("10.9.9.9", 7000), 20009)
    driver.delete_routes([routes.DomainName(DOMAIN)])
    finding = routes.serving(edges["e1"], claim("Node", "e1"))
    assert (finding.type, finding.status, finding.reason) == ("EdgeServing", "True", "Serving")
    assert leads_to(edges["e1"]) == AT
    assert set(driver.routes()) == set(EdgeRoute.objects.first().hosts)
    event = Event.objects.get(kind="Node", object_id="e1", type="EdgeCorrected")
    assert event.message == "1 added, 0 changed, 2 removed."


def test_one_that_serves_is_asked_one_question(acme, edges, lines):
    bring(EdgeRouted(), acme)
    asked, lease = lines["e1"].asked, claim("Node", "e1")
    with CaptureQueriesContext(connection) as captured:
        finding = routes.serving(edges["e1"], lease)
    assert finding.status == "True"
    assert finding.message.startswith("HAProxy 2.")
    assert lines["e1"].asked == asked + 1
    assert len(captured) == 1


def test_a_silent_haproxy_is_said(acme, edges, machines):
    machines["e1"].stop()
    try:
        finding = routes.serving(edges["e1"], claim("Node", "e1"))
        assert (finding.status, finding.reason) == ("False", "EdgeSilent")
        assert str(machines["e1"].socket) in finding.message
    finally:
        machines["e1"].start()


def test_nothing_is_forwarded_to_another_machines_loopback(edges):
    placed = make("beta", address="127.77.128.5")
    with pytest.raises(Rejected, match=r"e1 cannot reach 127\.77\.128\.5"):
        bring(EdgeRouted(), placed)
    assert [leads_to(edge) for edge in edges.values()] == [None, None]


def test_whose_word_an_engine_takes(acme, edges):
    placement = Placement.objects.select_related("node").get(instance=acme)
    shared = list(edges.values())
    assert routes.sources_of(placement, shared) == ("10.9.0.101", "10.9.0.102")
    node = placement.node
    assert routes.sources_of(placement, [node]) == ("10.9.0.1",)
    node.private_address = None  # HAProxy comes from the address that it connects to, or from 127.0.0.1
    assert routes.sources_of(placement, [node]) == ("10.9.0.1",)
    placement.address = "127.77.128.5"
    assert routes.sources_of(placement, [node]) == ("127.0.0.1",)
    node.connection = "local"
    placement.address = "10.9.0.1"
    assert routes.sources_of(placement, shared) == ("127.0.0.1", "10.9.0.101", "10.9.0.102")


def test_addresses_of_this_machine_are_the_settings_and_of_no_other(edges, settings):
    settings.ROOST = {**settings.ROOST, "EDGE_ADDRESSES": ["192.0.2.9"]}
    near, far = Node(name="a", connection="local"), Node(name="b", connection="ssh")
    assert routes.addresses_of([near]) == ("192.0.2.9",)
    assert routes.addresses_of([far]) == ()
    assert routes.addresses_of([]) == ()


def test_edges_without_an_address_are_said(acme, edges):
    Node.objects.filter(edge="shared").update(public_addresses=[])
    outcome = bring(DnsPublished(), acme)
    assert isinstance(outcome, Stalled)
    assert outcome.reason == "NoAddress"
    Node.objects.filter(edge="shared").update(standing="retired")
    assert bring(DnsPublished(), acme).reason == "NoEdge"


def test_a_change_of_an_edge_touches_whom_it_leads_to_and_not_all_at_once(acme, edges):
    own = make("globex", "n2", 20002)
    Node.objects.filter(name="n2").update(edge="own")
    others = [make(f"o{number}", "n1", 20010 + number) for number in range(20)]
    far = timezone.now() + datetime.timedelta(hours=1)
    WorkItem.objects.filter(kind="Instance").update(due_at=far)
    assert routes.touch_led(edges["e1"], spread_s=100.0) == 21
    due = dict(WorkItem.objects.filter(kind="Instance").values_list("object_id", "due_at"))
    assert due[own.key] == far
    soon = sorted((due[i.key] - timezone.now()).total_seconds() for i in [acme, *others])
    assert soon[-1] < 100
    assert soon[-1] - soon[0] > 10
    assert routes.touch_led(Node.objects.get(name="n2")) == 1
    assert is_due(own)


def test_a_pass_under_way_is_followed_by_another(acme, edges):
    WorkItem.objects.filter(object_id=acme.key).update(
        leased_until=timezone.now() + datetime.timedelta(minutes=1), nudged=False
    )
    routes.touch_led(edges["e1"])
    assert WorkItem.objects.get(object_id=acme.key).nudged


def test_whom_nobody_else_leads_to(acme, edges):
    assert routes.left_alone_by(edges["e1"]) == 0
    Node.objects.filter(name="e2").update(standing="retired")
    assert routes.left_alone_by(edges["e1"]) == 1
    Node.objects.filter(name="n1").update(edge="own")
    assert routes.left_alone_by(edges["e1"]) == 0
    assert routes.left_alone_by(Node.objects.get(name="n1")) == 1


def test_the_last_shared_edge_stays_in_use_and_changes_of_others_are_looked_at(acme, edges):
    WorkItem.objects.filter(kind="Instance").update(due_at=timezone.now() + datetime.timedelta(hours=1))
    set_standing(node=edges["e2"], standing=Node.RETIRED, principal=SYSTEM)
    assert is_due(acme)
    with pytest.raises(Conflict, match="No other edge leads to 1 instances"):
        set_standing(node=edges["e1"], standing=Node.RETIRED, principal=SYSTEM)


def test_a_route_that_is_taken_away_while_tables_are_compared_does_not_come_back(acme, edges, monkeypatch):
    """The edge's own pass reads the edge, then rows: what is withdrawn in between stays withdrawn."""
    bring(EdgeRouted(), acme)
    driver = routes.driver_of(edges["e1"])
    seen = driver.table()
    lease = claim("Node", "e1")

    def meanwhile() -> dict:
        monkeypatch.undo()
        routes.remove_routes(acme, claim("Instance", acme.key))
        return seen

    monkeypatch.setattr(driver, "table", meanwhile)
    monkeypatch.setattr(routes, "driver_of", lambda edge: driver)
    routes.sync_edge(edges["e1"], lease)
    assert not HaproxyEdge(edges["e1"].edge_socket, edges["e1"].edge_map_dir).routes()


def test_two_thousand_names_are_compared_in_no_time_and_corrected_in_little(edges):
    """The numbers of a large fleet go through: one statement, one question, and no line of more than HAProxy takes."""
    driver = routes.driver_of(edges["e1"])
    many = {f"i{number}.roost.example": Backend("10.9.0.1", 7000) for number in range(2000)}
    synced = driver.sync(driver.table(), many, {})
    assert synced.added == 2000
    assert driver.health().digest == driver.digest(many, {})
    assert driver.sync(driver.table(), {}, {}).removed == 2000
