"""A zone's pass against PostgreSQL and PowerDNS: batching, ownership, drift, removal, faults."""

from __future__ import annotations

import datetime

import pytest
from django.db import transaction
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.dns.powerdns import PowerDns
from controlplane.reconcile import conditions
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import WorkItem
from controlplane.values.errors import Conflict
from controlplane.values.records import Change
from controlplane.values.secret import Secret
from controlplane.zones import reconciler, services
from controlplane.zones.models import DnsRecord, Zone
from tests.servers.dns import API_KEY, PowerDnsServer

pytestmark = [pytest.mark.db, pytest.mark.servers, pytest.mark.django_db]

SRV = "_xmpp-client._tcp.acme.roost.example"


def published(instance) -> bool:
    return services.summary(instance).all_published


def zone_condition():
    return conditions.of("Zone", "roost.example")["Published"]


def due(key: str) -> bool:
    return WorkItem.objects.get(kind="Instance", object_id=key).nudged


def test_all_records_of_ten_instances_are_one_request(world, make):
    instances = [make(f"t{number}.roost.example") for number in range(10)]
    for instance in instances:
        assert world.sync(instance) is True
        assert not published(instance)
    before = world.server.requests("PATCH")
    outcome = world.zone_pass()
    assert world.server.requests("PATCH") == before + 1
    assert not outcome.failed
    for instance in instances:
        assert published(instance)
        assert world.served(f"_xmpps-client._tcp.{instance.domain.name}", "SRV") == {
            f"0 5 5223 {instance.key}.edge.roost.example."
        }
    assert zone_condition().status == "True"
    assert all(WorkItem.objects.get(kind="Instance", object_id=i.key).nudged for i in instances)


def test_a_second_pass_asks_little_and_changes_nothing(world, make):
    instance = make("acme.roost.example")
    world.sync(instance)
    world.zone_pass()
    before = world.server.requests("PATCH")
    assert world.sync(instance) is False
    world.zone_pass()
    services.recheck_zone(wiring.provider_zone())
    world.zone_pass()
    assert world.server.requests("PATCH") == before
    assert published(instance)


def test_the_pass_makes_the_zone_itself(world):
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    assert world.served("roost.example", "NS") == {"ns1.roost.example."}
    assert zone_condition().reason == "Published"


def test_what_others_made_is_never_overwritten_and_hinders_nothing_else(world, make):
    instance = make("acme.roost.example")
    world.sync(instance)
    services.ensure_zone(wiring.provider_zone())
    PowerDns(world.server.url, Secret(API_KEY)).create_zone(wiring.provider_zone(), ["ns1.roost.example"])
    world.by_hand("acme.roost.example", "A", "198.51.100.7")
    world.zone_pass()
    assert world.served("acme.roost.example", "A") == {"198.51.100.7"}
    assert world.served(SRV, "SRV")
    state = services.summary(instance)
    assert not state.all_published
    assert len(state.conflicts) == 1
    assert "198.51.100.7" in state.conflicts[0]
    assert (zone_condition().reason, zone_condition().stalled) == ("Conflict", True)
    # Terminated: what is not ours stays, and does not hold up the end.
    assert world.retire(instance) is False
    world.zone_pass()
    assert world.retire(instance) is True
    assert world.served("acme.roost.example", "A") == {"198.51.100.7"}
    assert world.served(SRV, "SRV") == set()


def test_a_conflict_that_a_person_clears_heals_by_itself(world, make):
    instance = make("acme.roost.example")
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    world.by_hand("acme.roost.example", "CNAME", "elsewhere.example.net.")
    world.sync(instance)
    world.zone_pass()
    assert "CNAME" in services.summary(instance).conflicts[0]
    world.by_hand("acme.roost.example", "CNAME")
    world.zone_pass()
    assert published(instance)


def test_one_record_that_the_server_refuses_does_not_hold_up_the_others(world, make):
    instance = make("acme.roost.example")
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    world.sync(instance)
    DnsRecord.objects.filter(name="upload.acme.roost.example", type="A").update(name="a..b.roost.example")
    world.zone_pass()
    refused = [row for row in services.status(instance) if row["problem"]]
    assert len(refused) == 1
    assert "refused" in refused[0]["problem"]
    assert services.summary(instance).problems
    assert world.served(SRV, "SRV")


def test_drift_is_repaired_at_the_resync(world, make, settings):
    instance = make("acme.roost.example")
    world.sync(instance)
    world.zone_pass()
    world.by_hand(SRV, "SRV", "0 5 5222 evil.example.net.")
    world.by_hand("upload.acme.roost.example", "A")
    world.by_hand("conference.acme.roost.example", "A", "192.0.2.1", ttl_s=9)
    services.recheck_zone(wiring.provider_zone())
    world.zone_pass()
    assert world.served(SRV, "SRV") == {f"0 5 5222 {instance.key}.edge.roost.example."}
    assert world.served("upload.acme.roost.example", "A") == {"192.0.2.1"}
    held = wiring.dns_driver().read(wiring.provider_zone(), [("conference.acme.roost.example", "A")])
    assert held["conference.acme.roost.example", "A"].ttl_s == settings.ROOST["RECORD_TTL_S"]
    assert published(instance)


def test_a_resync_goes_in_slices_and_what_is_new_goes_first(world, make, monkeypatch):
    for number in range(4):
        world.sync(make(f"t{number}.roost.example"))
    world.zone_pass()
    total = DnsRecord.objects.count()
    names = [row.name for row in DnsRecord.objects.filter(type="SRV")]
    for name in names:
        world.by_hand(name, "SRV", "0 5 1 evil.example.net.")
    fresh = make("fresh.roost.example")
    world.sync(fresh)
    services.recheck_zone(wiring.provider_zone())
    monkeypatch.setattr(reconciler, "SLICE", total // 3)
    outcome = world.zone_pass()
    assert published(fresh)
    assert (outcome.after_s, outcome.failed) == (reconciler.SLICE_S, False)
    assert Zone.objects.get().checked_at is None
    since = Zone.objects.get().resync_from
    assert DnsRecord.objects.filter(checked_at__gte=since).exclude(instance=fresh).count() == total // 3
    passes = 1
    while outcome.after_s == reconciler.SLICE_S:
        outcome = world.zone_pass()
        passes += 1
    assert passes == -(-total // (total // 3))
    assert outcome.after_s > 100
    assert (Zone.objects.get().checked_at, Zone.objects.get().resync_from) == (since, None)
    assert [name for name in names if any("evil" in rdata for rdata in world.served(name, "SRV"))] == []


def test_a_resync_comes_round_by_itself_and_only_then(world, make, settings):
    world.sync(make("acme.roost.example"))
    world.zone_pass()
    world.by_hand(SRV, "SRV", "0 5 1 evil.example.net.")
    world.zone_pass()
    assert world.served(SRV, "SRV") == {"0 5 1 evil.example.net."}
    long_ago = timezone.now() - datetime.timedelta(seconds=settings.ROOST["RESYNC_S"])
    Zone.objects.update(checked_at=long_ago)
    world.zone_pass()
    assert world.served(SRV, "SRV") != {"0 5 1 evil.example.net."}


def test_a_wish_to_compare_all_during_a_resync_is_not_lost(world, make, monkeypatch):
    world.sync(make("acme.roost.example"))
    world.zone_pass()
    services.recheck_zone(wiring.provider_zone())
    real = reconciler.recordsets.at_server

    def meanwhile(server, keys):
        services.recheck_zone(wiring.provider_zone())
        return real(server, keys)

    with monkeypatch.context() as patch:
        patch.setattr(reconciler.recordsets, "at_server", meanwhile)
        world.zone_pass()
    assert Zone.objects.get().checked_at is None
    world.zone_pass()
    assert Zone.objects.get().checked_at is not None


def test_a_disabled_record_of_others_is_in_the_way(world, make):
    instance = make("acme.roost.example")
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    record = {"content": "198.51.100.7", "disabled": True}
    change = {"name": "acme.roost.example.", "type": "A", "ttl": 60, "changetype": "REPLACE", "records": [record]}
    world.api("PATCH", "/roost.example.", json={"rrsets": [change]}).raise_for_status()
    world.sync(instance)
    world.zone_pass()
    assert len(services.summary(instance).conflicts) == 1
    held = world.api("GET", "/roost.example.").json()["rrsets"]
    assert [r["records"] for r in held if (r["name"], r["type"]) == ("acme.roost.example.", "A")] == [[record]]


def test_a_changed_address_changes_addresses_only(world, make, settings):
    instance = make("acme.roost.example")
    world.sync(instance)
    world.zone_pass()
    settings.ROOST = {**settings.ROOST, "EDGE_ADDRESSES": ["192.0.2.2"]}
    assert world.sync(instance) is True
    assert not published(instance)
    open_types = {r.type for r in DnsRecord.objects.filter(published=False)}
    assert open_types == {"A", "AAAA"}
    world.zone_pass()
    assert published(instance)
    assert world.served(f"{instance.key}.edge.roost.example", "A") == {"192.0.2.2"}
    assert world.served("acme.roost.example", "AAAA") == set()
    assert not DnsRecord.objects.filter(type="AAAA").exists()


def test_a_terminated_instance_leaves_nothing_and_others_stay(world, make):
    acme, globex = make("acme.roost.example"), make("globex.roost.example")
    world.sync(acme)
    world.sync(globex)
    world.zone_pass()
    world.by_hand("_acme-challenge.acme.roost.example", "TXT", '"not of this room"')
    names = [(row["name"], row["type"]) for row in services.status(acme)]
    assert world.retire(acme) is False
    assert services.summary(acme).all_published is False
    world.zone_pass()
    assert world.retire(acme) is True
    assert not DnsRecord.objects.filter(instance=acme).exists()
    assert [key for key in names if world.served(*key)] == []
    assert published(globex)
    assert world.served("globex.roost.example", "A") == {"192.0.2.1"}
    assert world.served("_acme-challenge.acme.roost.example", "TXT") == {'"not of this room"'}


def test_a_name_server_that_is_down_is_waited_for(world, make):
    instance = make("acme.roost.example")
    world.sync(instance)
    world.server.stop()
    try:
        outcome = world.zone_pass()
    finally:
        world.server.start()
    assert outcome.failed
    assert (zone_condition().reason, zone_condition().stalled) == ("Unavailable", False)
    assert "does not answer" in services.summary(instance).problems[0]
    world.zone_pass()
    assert published(instance)
    assert services.summary(instance).problems == []


def test_an_authoritative_server_that_is_down_keeps_records_unpublished(world, make, settings):
    instance = make("acme.roost.example")
    world.sync(instance)
    both = settings.ROOST
    settings.ROOST = {**both, "DNS_AUTHORITATIVE": ["127.63.0.11", "127.63.0.98"]}
    outcome = world.zone_pass()
    assert outcome.failed
    assert not published(instance)
    assert "127.63.0.98" in services.summary(instance).problems[0]
    settings.ROOST = both
    world.zone_pass()
    assert published(instance)
    assert not DnsRecord.objects.filter(created_by_us=False).exists()


def test_what_a_second_server_still_has_is_not_called_gone(world, make, settings, tmp_path_factory):
    instance = make("acme.roost.example")
    world.sync(instance)
    world.zone_pass()
    with PowerDnsServer(tmp_path_factory.mktemp("second"), "127.63.0.12") as second:
        driver = PowerDns(second.url, Secret(API_KEY))
        driver.create_zone(wiring.provider_zone(), ["ns1.roost.example"])
        old = [row.record_set() for row in instance.dns_records.all()]
        driver.apply(wiring.provider_zone(), [Change("upsert", record_set) for record_set in old])
        settings.ROOST = {**settings.ROOST, "DNS_AUTHORITATIVE": ["127.63.0.11", "127.63.0.12"]}
        world.retire(instance)
        for _ in range(2):
            assert world.zone_pass().failed
            assert world.retire(instance) is False
        assert world.served(SRV, "SRV") == set()
        assert "is still at 127.63.0.12:53" in zone_condition().message
        driver.apply(wiring.provider_zone(), [Change("delete", record_set) for record_set in old])
        world.zone_pass()
    assert world.retire(instance) is True


def test_killed_after_the_server_took_the_records_they_are_still_ours(world, make, monkeypatch):
    instance = make("acme.roost.example")
    world.sync(instance)

    def die(name: str) -> None:
        if name == "after-zone-apply":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconciler.faults, "point", die)
        with pytest.raises(KeyboardInterrupt):
            reconciler.reconcile(world.lease("Zone", "roost.example"))
    assert world.served(SRV, "SRV")
    assert not DnsRecord.objects.filter(created_by_us=True).exists()
    WorkItem.objects.filter(kind="Zone").update(leased_until=None)
    world.zone_pass()
    assert published(instance)
    assert not DnsRecord.objects.filter(created_by_us=False).exists()
    world.retire(instance)
    world.zone_pass()
    assert world.served(SRV, "SRV") == set()


def test_killed_before_the_server_was_asked_it_is_done_later(world, make, monkeypatch):
    instance = make("acme.roost.example")
    world.sync(instance)

    def die(name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconciler.faults, "point", die)
        with pytest.raises(KeyboardInterrupt):
            reconciler.reconcile(world.lease("Zone", "roost.example"))
    WorkItem.objects.filter(kind="Zone").update(leased_until=None)
    world.zone_pass()
    assert published(instance)


def test_a_pass_that_lost_its_lease_writes_nothing(world, make):
    instance = make("acme.roost.example")
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    world.sync(instance)
    lease = world.lease("Zone", "roost.example")
    WorkItem.objects.filter(pk=lease.item_id).update(fence=lease.fence + 1)
    with pytest.raises(LeaseLost):
        reconciler.reconcile(lease)
    assert not DnsRecord.objects.filter(published=True).exists()
    assert wiring.dns_driver().read(wiring.provider_zone(), [(SRV, "SRV")]) == {}


def test_a_change_during_the_pass_is_not_called_published(world, make, settings, monkeypatch):
    instance = make("acme.roost.example")
    world.sync(instance)
    real = reconciler.recordsets.at_server

    def meanwhile(server, keys):
        seen = real(server, keys)
        DnsRecord.objects.filter(name=SRV).update(revision=99, ttl_s=77)
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(reconciler.recordsets, "at_server", meanwhile)
        world.zone_pass()
    row = DnsRecord.objects.get(name=SRV)
    assert (row.published, row.created_by_us) == (False, True)
    world.zone_pass()
    assert DnsRecord.objects.get(name=SRV).published


def test_a_name_that_another_instance_has_is_refused(world, make):
    first, second = make("acme.roost.example"), make("globex.roost.example")
    world.sync(first)
    lease = world.lease("Instance", second.key)
    with pytest.raises(Conflict):
        services.sync_records(instance=second, wanted=services.records_for(first, ["192.0.2.1"]), lease=lease)
    assert not second.dns_records.exists()


def test_a_zone_without_a_row_leaves_the_queue(world):
    Zone.objects.all().delete()
    assert world.zone_pass() is None
    assert not WorkItem.objects.filter(kind="Zone").exists()


def test_by_hand_roost_only_looks(world, make, settings):
    instance = make("acme.roost.example")
    services.ensure_zone(wiring.provider_zone())
    world.zone_pass()
    settings.ROOST = {**settings.ROOST, "DNS_DRIVER": "manual"}
    wiring.dns_driver.cache_clear()
    world.sync(instance)
    world.zone_pass()
    state = services.summary(instance)
    assert f"Publish {SRV}. SRV" in " ".join(state.problems)
    assert world.served(SRV, "SRV") == set()
    for row in services.status(instance):
        world.by_hand(row["name"], row["type"], *row["rdatas"])
    world.zone_pass()
    assert published(instance)
    world.retire(instance)
    world.zone_pass()
    assert world.retire(instance) is True
    assert world.served(SRV, "SRV")


MOVED = ["192.0.2.9", "2001:db8::9"]


def test_many_instances_get_other_addresses_in_one_go(world, make):
    one, two, far = make("acme.roost.example"), make("globex.roost.example"), make("initech.roost.example")
    for instance in (one, two, far):
        world.sync(instance)
    world.zone_pass()
    with transaction.atomic():
        changed, others = services.readdress({one.pk: MOVED, two.pk: MOVED, far.pk: MOVED[:1]})
    assert (changed, others) == (2, {far.pk})
    assert not published(one)
    world.zone_pass()
    assert published(one)
    for instance, address in ((one, "192.0.2.9"), (two, "192.0.2.9"), (far, "192.0.2.1")):
        assert world.served(f"{instance.key}.edge.roost.example", "A") == {address}
        assert world.served(f"conference.{instance.domain.name}", "A") == {address}
    with transaction.atomic():
        assert services.readdress({one.pk: MOVED}) == (0, set())
