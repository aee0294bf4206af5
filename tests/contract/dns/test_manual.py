"""The manual driver: sees through a resolver what a person published, and writes nothing."""

from __future__ import annotations

import pytest

from controlplane.drivers.dns.manual import Manual
from controlplane.drivers.dns.powerdns import PowerDns
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from tests.contract.dns.conftest import NOBODY
from tests.contract.dns.suite import TENANT, ZONE, upsert
from tests.servers.dns import API_KEY, PowerDnsServer

pytestmark = pytest.mark.servers


@pytest.fixture
def manual(powerdns: PowerDnsServer) -> Manual:
    return Manual(f"{powerdns.address}@53")


def test_it_sees_what_was_published(manual: Manual, powerdns: PowerDnsServer) -> None:
    PowerDns(powerdns.url, Secret(API_KEY)).apply(ZONE, TENANT)
    seen = manual.read(ZONE, [change.record_set.key for change in TENANT] + [("nothing.roost.example", "A")])
    assert {k: v.rdatas for k, v in seen.items()} == {c.record_set.key: c.record_set.rdatas for c in TENANT}
    assert manual.zone_exists(ZONE)
    assert manual.create_zone(ZONE, []) is False


def test_it_writes_nothing_and_says_what_to_do(manual: Manual) -> None:
    assert not manual.can_write
    with pytest.raises(Rejected) as caught:
        manual.apply(ZONE, [upsert("x", "A", "192.0.2.1")])
    assert "Publish" in caught.value.remedy
    with pytest.raises(Rejected):
        manual.create_zone(DomainName.parse("none.roost.example"), [])


def test_a_dead_resolver_is_unavailable() -> None:
    driver = Manual(NOBODY)
    driver._resolver.lifetime = 0.5  # the test need not wait as long as a user may
    with pytest.raises(Unavailable):
        driver.read(ZONE, [("x.roost.example", "A")])
