"""The PowerDNS driver against PowerDNS."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from controlplane.drivers.dns.powerdns import NAMES, PowerDns
from controlplane.values.errors import Rejected
from controlplane.values.names import DomainName
from controlplane.values.records import txt
from controlplane.values.secret import Secret
from tests.contract.dns.conftest import NOBODY
from tests.contract.dns.suite import (
    TENANT,
    ZONE,
    DnsDriverContract,
    HostileTextContract,
    create,
    served,
    upsert,
)
from tests.servers.dns import API_KEY, PowerDnsServer

pytestmark = pytest.mark.servers


class TestPowerDns(DnsDriverContract, HostileTextContract):
    @pytest.fixture
    def address(self, powerdns: PowerDnsServer) -> str:
        return powerdns.address

    @pytest.fixture
    def driver(self, powerdns: PowerDnsServer) -> PowerDns:
        return PowerDns(powerdns.url, Secret(API_KEY))

    @pytest.fixture
    def intruder(self, powerdns: PowerDnsServer) -> PowerDns:
        return PowerDns(powerdns.url, Secret("wrong"))

    @pytest.fixture
    def nobody(self) -> PowerDns:
        return PowerDns(f"http://{NOBODY}:8081", Secret(API_KEY))

    def test_a_batch_is_one_request(self, driver: PowerDns, powerdns: PowerDnsServer) -> None:
        before = powerdns.requests("PATCH")
        driver.apply(ZONE, TENANT)
        assert powerdns.requests("PATCH") == before + 1

    def test_a_batch_with_one_bad_record_changes_nothing(self, driver: PowerDns, address: str) -> None:
        driver.apply(ZONE, [upsert("taken", "CNAME", "k1.edge.roost.example.")])
        with pytest.raises(Rejected):
            driver.apply(ZONE, [create("good", "A", "192.0.2.1"), create("taken", "A", "192.0.2.1")])
        assert served(address, "good", "A") == set()

    def test_a_disabled_record_exists_and_equals_nothing(self, driver: PowerDns, powerdns: PowerDnsServer) -> None:
        record = {"content": "192.0.2.1", "disabled": True}
        body = {"name": "off.roost.example.", "type": "A", "ttl": 60, "changetype": "REPLACE", "records": [record]}
        url = f"{powerdns.url}/api/v1/servers/localhost/zones/roost.example."
        requests.patch(url, json={"rrsets": [body]}, headers={"X-API-Key": API_KEY}, timeout=5).raise_for_status()
        seen = driver.read(ZONE, [("off.roost.example", "A")], unserved=True)
        assert not create("off", "A", "192.0.2.1").record_set.same_data(seen["off.roost.example", "A"])

    def test_a_few_names_are_asked_for_and_not_the_whole_zone(
        self, driver: PowerDns, powerdns: PowerDnsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver.apply(ZONE, [upsert(f"n{number}", "A", "192.0.2.1") for number in range(NAMES + 1)])
        driver.apply(ZONE, [upsert("n0", "TXT", txt("beside")), upsert("sub.n0", "A", "192.0.2.3")])
        asked: list[str] = []
        real = requests.Session.request

        def noting(session: requests.Session, method: str, url: str, **more: Any) -> requests.Response:
            answer = real(session, method, url, **more)
            asked.append(answer.text)
            return answer

        monkeypatch.setattr(requests.Session, "request", noting)
        few = [("n0.roost.example", "A"), ("n0.roost.example", "TXT"), ("absent.roost.example", "A")]
        assert set(driver.read(ZONE, few)) == set(few[:2])
        assert len(asked) == 2  # one for each name
        assert not any("n1.roost.example" in text or "sub.n0" in text for text in asked)
        asked.clear()
        many = [(f"n{number}.roost.example", "A") for number in range(NAMES + 1)]
        assert set(driver.read(ZONE, many)) == set(many)
        assert len(asked) == 1

    def test_names_are_found_as_they_are_written(self, driver: PowerDns) -> None:
        driver.apply(ZONE, [upsert("*.wild", "A", "192.0.2.1"), upsert("_srv._tcp.w", "SRV", "0 5 1 a.example.net.")])
        keys = [("*.wild.roost.example", "A"), ("_srv._tcp.w.roost.example", "SRV"), ("a.wild.roost.example", "A")]
        assert set(driver.read(ZONE, keys)) == set(keys[:2])

    def test_it_creates_a_zone_that_answers(self, driver: PowerDns, address: str) -> None:
        zone = DomainName.parse("fresh.roost.example")
        assert driver.create_zone(zone, ["ns1.roost.example."]) is True
        assert driver.zone_exists(zone)
        assert served(address, "fresh", "NS") == {"ns1.roost.example."}
        with pytest.raises(Rejected, match="name servers"):
            driver.create_zone(DomainName.parse("bare.roost.example"), [])

    def test_it_goes_on_after_a_restart_of_the_server(self, driver: PowerDns, powerdns: PowerDnsServer) -> None:
        driver.apply(ZONE, [upsert("lasting", "A", "192.0.2.1")])
        powerdns.stop()
        powerdns.start()
        assert driver.read(ZONE, [("lasting.roost.example", "A")])
