"""Each family says what the rows say, of running instances only, in every way of naming tenants."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.backups.models import Backup, Drill, Place, Repository
from controlplane.certificates.models import Certificate
from controlplane.metrics.facts import names
from controlplane.monitoring import incidents
from controlplane.monitoring.models import CheckState, Incident, ProbePlace, ProbePlan, S2sLink
from controlplane.reconcile.models import Condition, WorkItem
from controlplane.zones.models import DnsRecord, Zone
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

HOUR = datetime.timedelta(hours=1)


def say(kind: str, object_id: str, type: str, status: str, reason: str = "Because", **more: object) -> None:
    Condition.objects.create(kind=kind, object_id=object_id, type=type, status=status, reason=reason, **more)


def test_conditions(instances: list[Instance], scrape) -> None:
    acme, globex = instances
    say("Instance", acme.key, "Ready", "True", "Ready")
    say("Instance", globex.key, "Ready", "False", "EngineSilent")
    say("Instance", globex.key, "ServerRunning", "False", "EngineSilent", stalled=True)
    say("Node", "n1", "Reachable", "False", "Unreachable")
    seen = scrape()
    assert seen.of("roost_instances", engine="prosody", desired="running") == 1
    assert seen.of("roost_instance_ready", instance=acme.key, node="n1") == 1
    assert seen.of("roost_instance_ready", instance=globex.key, node="n1") == 0
    ((labels, _),) = seen.all("roost_instance_condition_not_true", condition="ServerRunning")
    assert (labels["instance"], labels["reason"], labels["stalled"]) == (globex.key, "EngineSilent", "true")
    assert seen.of("roost_conditions", kind="Instance", condition="Ready", status="True", reason="Ready") == 1
    assert seen.of("roost_node_condition", node="n1", condition="Reachable", reason="Unreachable") == 0
    ((info, _),) = seen.all("roost_instance_info", instance=acme.key)
    assert (info["organisation"], info["domain"], info["engine"]) == ("acme", "acme.roost.example", "prosody")


def test_who_should_not_run_is_no_trouble(instances: list[Instance], scrape) -> None:
    acme, _ = instances
    say("Instance", acme.key, "Ready", "False", "Suspended")
    say("Instance", acme.key, "ServerRunning", "False", "Suspended")
    tenants.suspend_instance(instance=acme, reason="unpaid", principal=SYSTEM)
    seen = scrape()
    assert not seen.all("roost_instance_ready", instance=acme.key)
    assert not seen.all("roost_instance_condition_not_true", instance=acme.key)
    assert seen.of("roost_instances", engine="prosody", desired="suspended") == 1


def test_queue(scrape) -> None:
    now = timezone.now()
    for number, (due, leased) in enumerate(((now - HOUR, None), (now - HOUR, now + HOUR), (now + HOUR, None))):
        WorkItem.objects.create(
            kind="Toy", object_id=str(number), queue="heal", due_at=due, leased_until=leased, attempts=number
        )
    seen = scrape()
    said = {
        name: seen.of(f"roost_work_{name}", queue="heal", kind="Toy") for name in ("items", "due", "leased", "failing")
    }
    assert said == {"items": 3, "due": 1, "leased": 1, "failing": 2}
    assert 3600 <= seen.of("roost_work_oldest_due_seconds", queue="heal", kind="Toy") < 3700


def test_nodes(instances: list[Instance], scrape) -> None:
    seen = scrape()
    mib = 1024 * 1024
    assert seen.of("roost_node_capacity_bytes", node="n1") == 800 * mib
    assert seen.of("roost_node_committed_bytes", node="n1") == 1024 * mib
    assert seen.of("roost_node_instances", node="n1") == 2
    assert seen.of("roost_node_instances_behind", node="n1") == 1
    assert seen.of("roost_node_disk_free_bytes", node="n1") == 100 * mib
    assert not seen.all("roost_node_load")  # it never said it


def test_dns_drift(instances: list[Instance], scrape) -> None:
    acme, globex = instances
    zone = Zone.objects.create(name="roost.example", checked_at=timezone.now() - HOUR)
    for number, more in enumerate(({"published": True}, {"optional": True}, {}, {"conflict": True, "published": True})):
        name = f"{number}.roost.example"
        DnsRecord.objects.create(
            zone=zone, instance=acme, publisher="ours", name=name, type="A", ttl_s=60, rdatas=["192.0.2.1"], **more
        )
    seen = scrape()
    assert seen.of("roost_instance_dns_drift", instance=acme.key, node="n1") == 2
    assert not seen.all("roost_instance_dns_drift", instance=globex.key)
    assert seen.of("roost_instances_dns_drift") == 1
    assert seen.of("roost_dns_records", publisher="ours", state="missing") == 1
    assert seen.of("roost_dns_records", publisher="ours", state="conflict") == 1
    assert 3600 <= seen.of("roost_zone_compared_age_seconds_max") < 3700


def test_certificates(instances: list[Instance], scrape) -> None:
    acme, globex = instances
    now = timezone.now()
    Certificate.objects.create(
        instance=acme, not_before=now - 24 * HOUR, not_after=now + 48 * HOUR, renew_at=now - HOUR
    )
    Certificate.objects.create(instance=globex)
    seen = scrape()
    end = seen.of("roost_certificate_not_after_seconds", instance=acme.key, node="n1")
    assert end == pytest.approx((now + 48 * HOUR).timestamp())
    assert seen.of("roost_certificate_life_seconds", instance=acme.key, node="n1") == pytest.approx(72 * 3600)
    assert seen.of("roost_certificate_days_left_min") == pytest.approx(2, abs=0.01)
    assert [seen.of("roost_certificates", state=s) for s in ("good", "due", "expired", "missing")] == [0, 1, 0, 1]


def watch(*instances: Instance) -> None:
    ProbePlace.objects.create(name="here", seen_at=timezone.now() + HOUR)  # it has a vote however long this takes
    for instance in instances:
        ProbePlan.objects.create(place="here", instance=instance)


def fails(instance: Instance, check: str, cause: str = "EngineDown", **details: object) -> Incident:
    return incidents.open_incident(
        kind="check",
        subject=f"instance:{instance.key}:{check}",
        cause=cause,
        title="x",
        message="x",
        instance=instance,
        details={"check": check, **details},
    )[0]


def levels(seen, instance: Instance) -> dict[str, float]:
    return {labels["level"]: value for labels, value in seen.all("roost_instance_level_met", instance=instance.key)}


def test_service_levels_follow_what_they_need(instances: list[Instance], scrape) -> None:
    acme, globex = instances
    watch(acme, globex)
    well = {"login": 1, "delivery": 1, "federation": 1, "calls": 1}
    assert levels(scrape(), acme) == well
    fails(acme, "turn")
    assert levels(scrape(), acme) == {**well, "calls": 0}
    assert levels(scrape(), globex) == well
    fails(globex, "ports")  # without ports nothing works
    assert levels(scrape(), globex) == dict.fromkeys(well, 0)
    seen = scrape()
    assert seen.of("roost_level_instances", level="login", engine="ejabberd", state="missed") == 1
    assert seen.of("roost_level_instances", level="login", engine="prosody", state="met") == 1
    assert seen.of("roost_incidents_open", kind="check", cause="EngineDown") == 2
    assert seen.of("roost_instance_incident_open", instance=acme.key, node="n1", kind="check", cause="EngineDown") == 1


def test_what_follows_from_a_fault_counts_too(instances: list[Instance], scrape) -> None:
    acme, _ = instances
    watch(acme)
    fails(acme, "clock", follows=["archive"])
    assert levels(scrape(), acme) == {"login": 1, "delivery": 0, "federation": 1, "calls": 1}


def test_a_broken_link_is_federation(instances: list[Instance], scrape) -> None:
    acme, _ = instances
    watch(acme)
    S2sLink.objects.create(instance=acme, remote="remote.example", state="down")
    incidents.open_incident(
        kind="link",
        subject=f"link:{acme.key}:remote.example",
        cause="LinkSilent",
        title="x",
        message="x",
        instance=acme,
    )
    seen = scrape()
    assert levels(seen, acme) == {"login": 1, "delivery": 1, "federation": 0, "calls": 1}
    assert seen.of("roost_instance_s2s_links_down", instance=acme.key, node="n1") == 1
    assert seen.of("roost_s2s_links", state="down") == 1


def test_nobody_who_looks_says_nothing(instances: list[Instance], scrape) -> None:
    watch(*instances)
    ProbePlace.objects.update(cut_off=True)
    seen = scrape()
    assert not seen.all("roost_instance_level_met")
    assert seen.of("roost_prober_cut_off", place="here", shard="0") == 1


def test_checks(instances: list[Instance], scrape) -> None:
    acme, globex = instances
    for instance, state, ms in ((acme, "up", 100.0), (globex, "down", 300.0)):
        CheckState.objects.create(
            place="here", instance=instance, check_name="tls", state=state, duration_ms=ms, cause="TlsFails"
        )
    seen = scrape()
    assert seen.of("roost_checks", check="tls", place="here", state="down") == 1
    assert seen.of("roost_check_duration_seconds", check="tls", place="here", quantile="0.5") == pytest.approx(0.2)
    ((labels, _),) = seen.all("roost_instance_check_down")
    assert (labels["instance"], labels["cause"]) == (globex.key, "TlsFails")


def test_time_to_heal(instances: list[Instance], scrape) -> None:
    now = timezone.now()
    for seconds in (7, 45):
        start = now - datetime.timedelta(seconds=seconds)
        Incident.objects.create(
            kind="check", subject=str(seconds), cause="x", title="x", started_at=start, ended_at=now
        )
    seen = scrape()
    bucket = "roost_incident_heal_seconds_bucket"
    assert [seen.of(bucket, kind="check", le=le) for le in ("5.0", "10.0", "60.0", "+Inf")] == [0, 1, 2, 2]
    assert seen.of("roost_incident_heal_seconds_sum", kind="check") == pytest.approx(52, abs=0.1)


def test_backups(instances: list[Instance], scrape) -> None:
    acme, _ = instances
    now = timezone.now()
    repository = Repository.objects.create(
        place=Place.objects.create(name="p", url="local:/x"),
        instance=acme,
        organisation=acme.organisation,
        instance_key=acme.key,
        domain="acme.roost.example",
        organisation_slug="acme",
        url="local:/x/acme",
        key_sealed="x",
        oracle_key_sealed="x",
        proven_at=now - HOUR,
        rpo_s=60.0,
        rto_s=30.0,
    )
    for hours in (1, 5):
        Backup.objects.create(
            repository=repository, kind="full", trigger="manual", state="done", moment=now - hours * HOUR
        )
    Drill.objects.create(repository=repository, state="failed")
    say("Backups", acme.key, "BackedUp", "False", "Late")
    say("Backups", acme.key, "BackupProven", "True")
    seen = scrape()
    age = seen.of("roost_instance_backup_age_seconds", instance=acme.key, node="n1", kind="full")
    assert age == pytest.approx(3600, abs=60)
    assert seen.of("roost_instance_backup_rto_seconds", instance=acme.key, node="n1") == 30
    assert seen.of("roost_instance_backup_drill_failed", instance=acme.key, node="n1", state="failed") == 1
    ((labels, _),) = seen.all("roost_instance_backup_condition_not_true")
    assert (labels["instance"], labels["condition"], labels["reason"]) == (acme.key, "BackedUp", "Late")
    assert seen.of("roost_level_instances_backup", engine="prosody", state="met") == 1
    assert seen.of("roost_backup_runs", run="backup", state="done") == 2


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_tenants_can_be_hidden(instances: list[Instance], scrape, mode: str) -> None:
    acme, _ = instances
    watch(acme)
    say("Instance", acme.key, "Ready", "False", "EngineSilent")
    fails(acme, "login")
    seen = scrape(mode)
    for secret in (acme.key, "acme"):
        assert secret not in seen.text
    assert bool(seen.all("roost_instance_ready")) == (mode == "hash")
    assert seen.of("roost_incidents_open", kind="check", cause="EngineDown") == 1


def test_a_part_that_fails_takes_no_other_with_it(instances: list[Instance], scrape, monkeypatch) -> None:
    monkeypatch.setattr(names, "_RECORDS", "SELECT nothing FROM nowhere")
    seen = scrape()
    assert seen.of("roost_scrape_part_failed", part="dns") == 1
    assert seen.of("roost_scrape_part_failed", part="certificates") == 0
    assert seen.of("roost_instances", engine="prosody", desired="running") == 1


def test_a_question_that_takes_too_long_is_given_up(scrape, monkeypatch) -> None:
    monkeypatch.setattr("controlplane.metrics.collect.STATEMENT_S", 0.05)
    monkeypatch.setattr(names, "_RECORDS", "SELECT pg_sleep(20), 1, 1")
    assert scrape().of("roost_scrape_part_failed", part="dns") == 1
