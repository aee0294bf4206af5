"""What clients and the public are told: of incidents and planned work, in plain words, and of nobody else's."""

from __future__ import annotations

import datetime

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.fleet.models import Node, Placement
from controlplane.monitoring import incidents, maintenance, outage, status
from controlplane.monitoring.causes import CAUSES
from controlplane.monitoring.models import CheckState, Incident, Notice, SampleHour, Subscription
from controlplane.monitoring.wording import wording
from controlplane.values.errors import InvalidInput
from tenants import services as tenants
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_cache():
    from django.core.cache import cache

    cache.clear()


def made(slug: str, plan) -> Instance:
    organisation = tenants.create_organisation(slug=slug, name=slug.title(), principal=SYSTEM)
    return tenants.create_instance(
        organisation=organisation, domain=f"{slug}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def world():
    """(acme, globex), both on the node n1."""
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    node = Node.objects.create(
        name="n1", address="127.0.0.1", instance_network="127.1.0.0/24", root="/srv", state_dir="/srv"
    )
    found = [made(slug, plan) for slug in ("acme", "globex")]
    for number, instance in enumerate(found):
        Placement.objects.create(
            instance=instance, node=node, address=f"127.1.0.{number + 1}", base_port=7000, proxy65_port=20000 + number
        )
    return found


@pytest.fixture
def acme(world) -> Instance:
    return world[0]


@pytest.fixture
def globex(world) -> Instance:
    return world[1]


def begin(instance: Instance, cause: str = "EngineSilent", check: str = "ports", **more: object) -> Incident:
    return incidents.open_incident(
        kind="check",
        subject=f"instance:{instance.key}:{check}",
        cause=cause,
        title="secret-title",
        message="secret-message from 10.1.2.3",
        instance=instance,
        **more,
    )[0]


def past(instance: Instance, start: datetime.datetime, end: datetime.datetime, cause: str = "EngineSilent") -> None:
    Incident.objects.create(
        kind="check",
        subject=f"instance:{instance.key}:ports",
        scope=instance.organisation.slug,
        instance=instance,
        cause=cause,
        title="t",
        started_at=start,
        noticed_at=start,
        ended_at=end,
    )


def looked(instance: Instance, days: int) -> None:
    start = timezone.now().replace(minute=0, second=0, microsecond=0)
    SampleHour.objects.bulk_create(
        SampleHour(instance_key=instance.key, check_name="quick", hour=start - HOUR * n, samples=120)
        for n in range(1, 24 * days)
    )
    CheckState.objects.create(
        place="here", instance=instance, check_name="tls", state="up", last_at=timezone.now(), last_ok_at=timezone.now()
    )


def plan(**more: object):
    now = timezone.now()
    given = {"starts_at": now - HOUR, "ends_at": now + HOUR, "message": "New disks", "principal": SYSTEM, **more}
    return maintenance.plan(**given)


# -- XEP-0455


def test_the_outage_status_follows_the_incident(acme):
    assert outage.document(acme) == {}
    sign = timezone.now() - datetime.timedelta(minutes=3)
    incident = begin(acme, started_at=sign)
    told = outage.document(acme)
    assert told["planned"] is False
    assert told["beginning"] == sign.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told["message"]["default"].startswith("The server does not answer")
    assert "secret" not in str(told)
    incidents.end_incident(incident.subject, "well")
    assert outage.document(acme) == {}


def test_planned_work_is_told_before_and_while_it_lasts(acme, globex):
    now = timezone.now()
    work = plan(starts_at=now + DAY, ends_at=now + DAY + HOUR, instance=acme)
    told = outage.document(acme)
    assert told["planned"] is True
    assert told["expected_end"] == (now + DAY + HOUR).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told["message"] == {"default": "New disks"}
    assert outage.document(globex) == {}
    assert outage.document(acme, now + DAY + HOUR / 2)["beginning"] == told["beginning"]
    assert outage.document(acme, now + DAY + HOUR * 2) == {}
    maintenance.cancel(maintenance=work, principal=SYSTEM)
    assert outage.document(acme) == {}


def test_a_machine_that_is_away_is_its_instances_outage(world):
    node = Node.objects.get()
    incidents.open_incident(
        kind="node", subject="node:n1", cause="NotReached", title="n1 is away", message="m", node=node
    )
    for instance in world:
        assert outage.document(instance)["message"]["default"].startswith("The server is not reached")


@pytest.mark.parametrize(("kind", "cause"), [("link", "PeerDown"), ("data", "RoomsLost"), ("check", "ClockOff")])
def test_what_the_public_is_not_told(acme, kind, cause):
    incidents.open_incident(
        kind=kind, subject=f"{kind}:x", cause=cause, title="with peer.example", message="m", instance=acme
    )
    assert outage.document(acme) == {}
    assert status.of_instance(acme).open == []


def test_every_cause_has_words():
    unknown = [cause for cause in CAUSES if (said := wording("check", cause)) and said.sentence.endswith("disturbed")]
    assert sorted(unknown) == ["CheckFails", "RoomsFail"]


def test_the_file_is_at_the_providers_address(client: Client, acme):
    begin(acme)
    answer = client.get("/status/acme.roost.example/outage.json")
    assert answer.status_code == 200
    assert answer.json()["planned"] is False
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert answer["Content-Type"] == "application/json"
    assert client.get("/status/nobody.example/outage.json").status_code == 404


# -- pages


def test_a_page_tells_how_it_is(client: Client, acme):
    looked(acme, 3)
    assert "Everything works" in client.get("/status/acme.roost.example/").content.decode()


def test_a_page_names_nobody_else_and_nothing_inside(client: Client, acme, globex):
    looked(acme, 2)
    begin(acme)
    begin(globex, "TurnUnreachable", "turn")
    plan(instance=globex, message="Only for globex")
    plan(message="For all", starts_at=timezone.now() + HOUR, ends_at=timezone.now() + 2 * HOUR)
    page = client.get("/status/acme.roost.example/").content.decode()
    assert "The server does not answer" in page
    assert "For all" in page
    for hidden in ("globex", "Globex", "Calls may not", "secret", "10.1.2.3", "n1", acme.key):
        assert hidden not in page
    provider = client.get("/status/").content.decode()
    assert "The server does not answer" in provider
    assert "Calls may not connect" in provider
    for hidden in ("acme", "globex", "secret", "n1", "Only for globex"):
        assert hidden not in provider


def test_pages_are_for_proven_domains_that_are_served(client: Client, acme):
    assert client.get("/status/ACME.roost.example/").status_code == 200
    assert client.get("/status/nobody.example/").status_code == 404
    assert client.get("/status/not a name/").status_code == 404
    plan_ = acme.plan
    tenants.create_instance(
        organisation=acme.organisation, domain="own.example", engine="prosody", plan=plan_, principal=SYSTEM
    )
    assert client.get("/status/own.example/").status_code == 404
    tenants.terminate_instance(instance=acme, principal=SYSTEM)
    assert client.get("/status/acme.roost.example/").status_code == 404


def test_pages_are_cheap(client: Client, acme, django_assert_max_num_queries):
    looked(acme, 5)
    with django_assert_max_num_queries(6):
        first = client.get("/status/acme.roost.example/")
    assert "public" in first["Cache-Control"]
    assert "max-age" in first["Cache-Control"]
    assert not first.has_header("Vary") or "Cookie" not in first["Vary"]
    assert not first.cookies
    with django_assert_max_num_queries(1):
        again = client.get("/status/acme.roost.example/", headers={"If-None-Match": first["ETag"]})
    assert again.status_code == 304
    with django_assert_max_num_queries(8):
        assert client.get("/status/").status_code == 200


def test_days_are_judged_by_incidents_and_by_whether_anybody_looked(acme):
    looked(acme, 10)
    now = timezone.now()
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
    past(acme, noon - 2 * DAY, noon - 2 * DAY + HOUR)
    past(acme, noon - 2 * DAY + HOUR / 2, noon - 2 * DAY + HOUR)  # at the same time: counts once
    past(acme, noon - 3 * DAY, noon - 3 * DAY + HOUR, "TurnUnreachable")
    past(acme, noon - 4 * DAY, noon - 4 * DAY + HOUR / 60)
    days = {day.date: day for day in status.of_instance(acme).days}
    assert len(days) == 90
    levels = [days[(noon - n * DAY).date()].level for n in (1, 2, 3, 4, 5, 40)]
    assert levels == ["ok", "down", "partial", "partial", "ok", "none"]
    assert days[(noon - 2 * DAY).date()].down_s == 3600
    found = status.of_instance(acme)
    assert found.level == "ok"
    assert 0.97 < found.uptime < 1.0


def test_an_incident_over_midnight_is_split(acme):
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0) - 3 * DAY
    past(acme, midnight - HOUR, midnight + 2 * HOUR)
    days = {day.date: day.down_s for day in status.of_instance(acme).days}
    assert days[(midnight - DAY).date()] == 3600
    assert days[midnight.date()] == 7200


def test_nobody_looked(acme):
    found = status.of_instance(acme)
    assert found.uptime is None
    assert found.level == "none"
    assert {day.level for day in found.days} == {"none"}


def test_the_provider_counts_servers(acme, globex):
    looked(acme, 5)
    begin(acme)
    found = status.of_provider()
    assert found.numbers == {"servers": 2, "down": 1}
    begin(globex)
    assert [one.servers for one in status.of_provider().open] == [2]
    assert status.of_provider().level == "down"


def test_one_of_many_for_a_moment_is_no_disturbance_of_all(acme, globex):
    looked(acme, 10)
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    past(acme, noon - 2 * DAY, noon - 2 * DAY + datetime.timedelta(seconds=60))
    past(acme, noon - 3 * DAY, noon - 3 * DAY + datetime.timedelta(seconds=120))
    past(acme, noon - 4 * DAY, noon - 4 * DAY + HOUR)
    days = {day.date: day for day in status.of_provider().days}
    levels = [days[(noon - n * DAY).date()].level for n in (1, 2, 3, 4)]
    assert levels == ["ok", "ok", "partial", "down"]
    assert days[(noon - 4 * DAY).date()].down_s == 1800


def test_a_suspended_service_is_paused_and_says_no_reason(client: Client, acme):
    tenants.suspend_instance(instance=acme, reason="did not pay", principal=SYSTEM)
    page = client.get("/status/acme.roost.example/").content.decode()
    assert "paused" in page
    assert "did not pay" not in page


# -- maintenance


def test_who_is_covered(acme, globex):
    keys = [acme.key, globex.key]
    assert maintenance.covered(keys) == set()
    one = plan(instance=acme)
    assert maintenance.covered(keys) == {acme.key}
    assert maintenance.covering(acme) == one
    assert maintenance.covering(globex) is None
    two = plan(organisation=globex.organisation, ends_at=timezone.now() + 2 * HOUR)
    assert maintenance.covered(keys) == set(keys)
    assert maintenance.covering(globex) == two
    maintenance.cancel(maintenance=one, principal=SYSTEM)
    maintenance.cancel(maintenance=two, principal=SYSTEM)
    assert maintenance.covered(keys) == set()
    for wider in ({"node": Node.objects.get()}, {}):
        work = plan(**wider)
        assert maintenance.covered(keys) == set(keys)
        maintenance.cancel(maintenance=work, principal=SYSTEM)
    assert maintenance.covered(keys) == set()


def test_times_are_checked(acme):
    now = timezone.now()
    for starts, ends in (
        (now + HOUR, now),
        (now - 2 * HOUR, now - HOUR),
        (now, now + 30 * DAY),
        (now + 500 * DAY,) * 2,
    ):
        with pytest.raises(InvalidInput):
            plan(starts_at=starts, ends_at=ends)
    with pytest.raises(InvalidInput):
        plan(instance=acme, organisation=acme.organisation)
    with pytest.raises(InvalidInput):
        plan(message="a\x00b")


def test_those_concerned_are_told_of_their_own(acme, globex):
    for organisation in (acme.organisation, globex.organisation, None):
        Subscription.objects.create(organisation=organisation, kind="webhook", target="https://hooks.example/")
    work = plan(instance=acme)
    told = {row.subscription.organisation_id: row.payload for row in Notice.objects.select_related("subscription")}
    assert set(told) == {None, acme.organisation_id}
    assert told[acme.organisation_id]["domains"] == ["acme.roost.example"]
    assert told[acme.organisation_id]["event"] == "maintenance.planned"
    Notice.objects.all().delete()
    maintenance.change(maintenance=work, changes={"ends_at": work.ends_at + HOUR}, principal=SYSTEM)
    maintenance.change(maintenance=work, changes={"ends_at": work.ends_at + HOUR}, principal=SYSTEM)
    maintenance.cancel(maintenance=work, principal=SYSTEM)
    events = list(Notice.objects.filter(subscription__organisation=None).order_by("pk").values_list("event", flat=True))
    assert events == ["maintenance.changed", "maintenance.ended"]
    with pytest.raises(WrongState):
        maintenance.change(maintenance=work, changes={"message": "x"}, principal=SYSTEM)


def test_a_node_is_not_named_to_tenants(acme):
    Subscription.objects.create(organisation=acme.organisation, kind="webhook", target="https://hooks.example/")
    plan(node=Node.objects.get())
    assert "n1" not in str(Notice.objects.get().payload)
