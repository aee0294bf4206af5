"""States of places become incidents: all that may speak have to agree, one for each root cause, and none in quiet."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.fleet.models import Node, Placement
from controlplane.monitoring import states
from controlplane.monitoring.models import CheckState, Incident, Maintenance, ProbePlace, ProbePlan
from controlplane.monitoring.prober import records, subjects
from controlplane.monitoring.prober.references import Standing
from controlplane.reconcile.models import Condition, WorkItem
from controlplane.zones.models import Zone
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def acme() -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


def place(name: str, *, ago_s: float = 0.0, **more: object) -> ProbePlace:
    seen = timezone.now() - datetime.timedelta(seconds=ago_s)
    return ProbePlace.objects.update_or_create(name=name, shard=0, defaults={"seen_at": seen, **more})[0]


def say(instance: Instance, at: str, check: str, state: str, cause: str = "") -> None:
    since = timezone.now() - datetime.timedelta(seconds=20)
    CheckState.objects.update_or_create(
        place=at,
        instance=instance,
        check_name=check,
        defaults={"state": state, "since": since, "cause": cause, "message": f"{check} is {state}."},
    )


def open_now() -> list[tuple[str, str]]:
    return [
        (row.subject.rpartition(":")[2], row.cause) for row in Incident.objects.filter(ended_at=None).order_by("pk")
    ]


def test_one_place_alone_speaks_for_itself(acme):
    place("here")
    say(acme, "here", "tls", "down", "CertificateExpired")
    states.judge([acme.key])
    incident = Incident.objects.get()
    assert (incident.kind, incident.cause, incident.instance) == ("check", "CertificateExpired", acme)
    assert incident.subject == f"instance:{acme.key}:tls"
    assert 19 < (incident.noticed_at - incident.started_at).total_seconds() < 30
    assert [entry.type for entry in incident.entries.all()] == ["Noticed", "Acted"]
    states.judge([acme.key])
    assert Incident.objects.count() == 1
    assert incident.entries.count() == 2
    say(acme, "here", "tls", "up")
    states.judge([acme.key])
    incident.refresh_from_db()
    assert incident.ended_at is not None


def test_the_reconciler_is_woken_and_told_what_to_do(acme):
    place("here")
    Zone.objects.update_or_create(name="roost.example", defaults={"checked_at": timezone.now()})
    WorkItem.objects.all().delete()
    say(acme, "here", "resolve", "down", "DnsMissing")
    states.judge([acme.key])
    assert set(WorkItem.objects.values_list("kind", "object_id")) >= {
        ("Instance", acme.key),
        ("Zone", "roost.example"),
    }
    assert Zone.objects.get(name="roost.example").checked_at is None
    before = acme.verify_generation
    say(acme, "here", "resolve", "up")
    say(acme, "here", "tls", "down", "WrongCertificate")
    states.judge([acme.key])
    acme.refresh_from_db()
    assert acme.verify_generation == before + 1
    states.judge([acme.key])
    acme.refresh_from_db()
    assert acme.verify_generation == before + 1  # once for each incident


def test_two_places_have_to_agree(acme):
    place("here")
    place("there")
    ProbePlan.objects.create(place="there", instance=acme)
    say(acme, "here", "ports", "down", "PortClosed")
    say(acme, "there", "ports", "up")
    states.judge([acme.key], turned=[acme.key])
    assert open_now() == []
    assert ProbePlan.objects.get().wanted_at is not None  # the other is asked to look at once
    say(acme, "there", "ports", "down", "PortClosed")
    states.judge([acme.key])
    assert open_now() == [("ports", "PortClosed")]
    assert Incident.objects.get().details["places"] == ["here", "there"]
    say(acme, "there", "ports", "up")
    states.judge([acme.key])
    assert open_now() == []
    assert "still fails from here" in Incident.objects.get().entries.last().message


@pytest.mark.parametrize("why", [{"cut_off": True}, {"ago_s": 120.0}])
def test_who_is_cut_off_or_gone_has_no_vote(acme, why):
    place("here")
    place("there", **why)
    say(acme, "here", "ports", "down", "PortClosed")
    say(acme, "there", "ports", "up")
    states.judge([acme.key])
    assert open_now() == [("ports", "PortClosed")]
    say(acme, "here", "ports", "up")
    say(acme, "there", "ports", "down", "PortClosed")
    states.judge([acme.key])
    assert open_now() == []


def test_without_a_voter_nothing_is_judged(acme):
    place("here", cut_off=True)
    say(acme, "here", "ports", "down", "PortClosed")
    states.judge([acme.key])
    assert open_now() == []


def test_what_follows_is_told_and_not_opened(acme):
    place("here")
    say(acme, "here", "ports", "down", "EngineDown")
    say(acme, "here", "clock", "down", "ClockOff")
    say(acme, "here", "turn", "down", "TurnFails")
    say(acme, "here", "login", "down", "LoginFails")
    states.judge([acme.key])
    assert sorted(open_now()) == [("clock", "ClockOff"), ("ports", "EngineDown")]
    incident = Incident.objects.get(cause="EngineDown")
    assert incident.details["follows"] == ["login", "turn"]
    states.judge([acme.key])
    assert incident.entries.filter(type="Follows").count() == 2
    say(acme, "here", "ports", "up")
    states.judge([acme.key])
    # Calls follow from nothing that fails but the login now.
    assert sorted(open_now()) == [("clock", "ClockOff"), ("login", "LoginFails")]


def test_another_cause_is_told(acme):
    place("here")
    say(acme, "here", "ports", "down", "EngineDown")
    states.judge([acme.key])
    say(acme, "here", "ports", "down", "EngineSilent")
    states.judge([acme.key])
    assert open_now() == [("ports", "EngineSilent")]
    assert "CauseChanged" in Incident.objects.get().entries.values_list("type", flat=True)


@pytest.mark.parametrize("covers", ["instance", "organisation", "node", "everything", "another"])
def test_planned_work_opens_nothing(acme, covers):
    place("here")
    node = Node.objects.create(name="n1", address="n1.example", instance_network="127.9.0.0/24")
    Placement.objects.create(instance=acme, node=node, address="127.9.0.1", base_port=7000, proxy65_port=20000)
    other = Node.objects.create(name="n2", address="n2.example", instance_network="127.8.0.0/24")
    what = {
        "instance": {"instance": acme},
        "organisation": {"organisation": acme.organisation},
        "node": {"node": node},
        "everything": {},
        "another": {"node": other},
    }[covers]
    now = timezone.now()
    minute = datetime.timedelta(minutes=1)
    work = Maintenance.objects.create(starts_at=now - minute, ends_at=now + minute, message="work", **what)
    say(acme, "here", "ports", "down", "PortClosed")
    states.judge([acme.key])
    assert bool(open_now()) == (covers == "another")
    Maintenance.objects.filter(pk=work.pk).update(ends_at=now - minute / 2)
    states.judge([acme.key])
    assert open_now() == [("ports", "PortClosed")]


def test_a_suspended_instance_is_not_watched_any_more(acme):
    place("here")
    Condition.objects.create(kind="Instance", object_id=acme.key, type="Ready", status="False")
    assert subjects.load("here", 0, 1) == {}  # it was never Ready
    Condition.objects.filter(object_id=acme.key, type="Ready").update(status="True")
    assert [t.quick.domain for t in subjects.load("here", 0, 1).values()] == ["acme.roost.example"]
    Condition.objects.filter(object_id=acme.key, type="Ready").update(status="False")
    assert subjects.load("here", 0, 1).keys() == {acme.key}  # from then on it is watched
    assert subjects.load("there", 0, 1).keys() == {acme.key}  # by every place
    say(acme, "here", "ports", "down", "PortClosed")
    states.judge([acme.key])
    assert open_now() == [("ports", "PortClosed")]
    tenants.suspend_instance(instance=acme, principal=SYSTEM)
    assert subjects.load("here", 0, 1) == {}
    assert open_now() == []
    assert not CheckState.objects.exists()
    tenants.unsuspend_instance(instance=acme, principal=SYSTEM)
    assert subjects.load("here", 0, 1) == {}  # until it is Ready again


def test_who_is_asked_for_is_asked_for_once(acme):
    Condition.objects.create(kind="Instance", object_id=acme.key, type="Ready", status="True")
    subjects.load("here", 0, 1)
    ProbePlan.objects.update(wanted_at=timezone.now())
    assert subjects.load("here", 0, 1)[acme.key].asked
    assert not subjects.load("here", 0, 1)[acme.key].asked
    shard = states.shard_of(acme.key, 2)
    assert subjects.load("here", shard, 2).keys() == {acme.key}
    assert subjects.load("here", 1 - shard, 2) == {}


def test_a_prober_says_that_it_is_cut_off_and_when_it_is_back():
    records.say_standing("here", 0, 1, Standing(True, 0.0, "None is reached."))
    row = ProbePlace.objects.get()
    assert row.cut_off
    since = row.cut_off_since
    records.say_standing("here", 0, 1, Standing(True, 0.0, "None is reached."))
    row.refresh_from_db()
    assert row.cut_off_since == since
    incident = Incident.objects.get()
    assert (incident.kind, incident.cause, incident.scope) == ("prober", "ProberCutOff", "")
    records.say_standing("here", 0, 1, Standing())
    incident.refresh_from_db()
    row.refresh_from_db()
    assert incident.ended_at is not None
    assert not row.cut_off


def test_a_wrong_clock_is_said_and_judges_nothing():
    records.say_standing("here", 0, 1, Standing(False, -3600.0, "This prober's clock is 3600 s behind."))
    assert ProbePlace.objects.get().cut_off
    assert Incident.objects.get().cause == "ClockOff"
    records.say_standing("here", 0, 1, Standing())
    assert Incident.objects.get().ended_at is not None
