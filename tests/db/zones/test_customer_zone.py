"""A customer's own domain: what is shown, what is checked through the resolver, and the proof of control."""

from __future__ import annotations

import pytest

from controlplane import wiring
from controlplane.drivers.dns.powerdns import PowerDns
from controlplane.values.errors import Unavailable
from controlplane.values.names import DomainName
from controlplane.values.records import Change, RecordSet, txt
from controlplane.values.secret import Secret
from controlplane.zones import proof, services
from tests.servers.dns import API_KEY

pytestmark = [pytest.mark.db, pytest.mark.servers, pytest.mark.django_db]


@pytest.fixture
def instance(world, make):
    made = make("chat.acme.org", "own")
    PowerDns(world.server.url, Secret(API_KEY)).create_zone(DomainName("acme.org"), ["ns1.roost.example"])
    return made


@pytest.fixture
def customer(world, instance):
    """The customer at work in the own zone."""
    driver = PowerDns(world.server.url, Secret(API_KEY))

    def publish(name: str, type: str, *rdatas: str) -> None:
        action = "upsert" if rdatas else "delete"
        driver.apply(DomainName("acme.org"), [Change(action, RecordSet.of(name, type, 60, rdatas or ["x"]))])

    return publish


def publish_all(instance, customer, *, but: tuple[str, ...] = ()) -> None:
    for row in services.status(instance):
        if row["publisher"] == "customer" and not row["optional"] and row["name"] not in but:
            customer(row["name"], row["type"], *row["rdatas"])


def test_ours_is_written_and_the_customers_is_only_watched(world, instance, customer):
    world.sync(instance)
    world.zone_pass()
    assert world.served(f"{instance.key}.edge.roost.example", "A") == {"192.0.2.1"}
    services.check_customer_records(instance, ["192.0.2.1"])
    state = services.summary(instance)
    assert not state.all_published
    assert not state.problems
    line = f"_xmpp-client._tcp.chat.acme.org. SRV 0 5 5222 {instance.key}.edge.roost.example. (not there yet)"
    assert line in state.missing_customer
    publish_all(instance, customer)
    services.check_customer_records(instance, ["192.0.2.1"])
    state = services.summary(instance)
    assert state.missing_customer == []
    assert state.all_published


def test_addresses_instead_of_a_cname_do(world, instance, customer):
    world.sync(instance)
    world.zone_pass()
    publish_all(instance, customer, but=("upload.chat.acme.org",))
    customer("upload.chat.acme.org", "A", "198.51.100.9")
    services.check_customer_records(instance, ["192.0.2.1"])
    assert "leads to 198.51.100.9" in services.summary(instance).missing_customer[0]
    customer("upload.chat.acme.org", "A", "192.0.2.1")
    services.check_customer_records(instance, ["192.0.2.1"])
    assert services.summary(instance).all_published


def test_a_caa_record_that_forbids_our_ca_is_told(world, instance, customer):
    world.sync(instance)
    world.zone_pass()
    publish_all(instance, customer)
    customer("chat.acme.org", "CAA", '0 issue "other.example"')
    services.check_customer_records(instance, ["192.0.2.1"])
    state = services.summary(instance)
    assert not state.all_published
    assert "forbid" in state.missing_customer[0]
    customer("chat.acme.org", "CAA", '0 issue "other.example"', '0 issue "ca.example.net"')
    services.check_customer_records(instance, ["192.0.2.1"])
    assert services.summary(instance).all_published


def test_the_end_touches_nothing_of_the_customers(world, instance, customer):
    world.sync(instance)
    world.zone_pass()
    publish_all(instance, customer)
    world.retire(instance)
    world.zone_pass()
    assert world.retire(instance) is True
    assert world.served("_xmpp-client._tcp.chat.acme.org", "SRV")
    assert world.served(f"{instance.key}.edge.roost.example", "A") == set()


def test_a_token_proves_control(world, instance, customer):
    verdict = proof.is_proven(instance.domain)
    assert not verdict.proven
    assert instance.domain.proof_token in verdict.message
    customer("_roost-challenge.chat.acme.org", "TXT", txt("somebody else's"))
    assert not proof.is_proven(instance.domain).proven
    customer("_roost-challenge.chat.acme.org", "TXT", txt("somebody else's"), txt(instance.domain.proof_token))
    proven, method, _ = proof.is_proven(instance.domain)
    assert (proven, method) == (True, "txt")


def test_a_delegation_proves_control_only_to_the_own_instance(world, instance, customer, make):
    (zone, place) = services.challenge_targets(instance)["chat.acme.org"]
    assert zone == "roost.example"
    customer("_acme-challenge.chat.acme.org", "CNAME", place.replace(instance.key, "k7777777") + ".")
    assert not proof.is_proven(instance.domain).proven
    customer("_acme-challenge.chat.acme.org", "CNAME", f"{place}.")
    assert proof.is_proven(instance.domain)[:2] == (True, "delegation")


def test_below_the_providers_zone_nothing_has_to_be_proven(world, make):
    assert proof.is_proven(make("acme.roost.example").domain)[:2] == (True, "provider")
    assert not proof.is_proven(make("elsewhere.example", "provider").domain).proven


def test_without_a_resolver_nothing_is_claimed(world, instance, settings):
    settings.ROOST = {**settings.ROOST, "RESOLVER": "127.63.0.97"}
    with pytest.raises(Unavailable):
        proof.is_proven(instance.domain)
    assert wiring.resolver() == "127.63.0.97"
