"""What every DNS driver that writes has to do, against a real server. A new driver is one file that passes this."""

from __future__ import annotations

import dns.message
import dns.query
import dns.rdatatype
import pytest

from controlplane.drivers.dns.base import DnsDriver
from controlplane.values.errors import Conflict, Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.rdata import of_rdata
from controlplane.values.records import Change, RecordSet, txt

ZONE = DomainName.parse("roost.example")
TARGET = "k1.edge.roost.example."


def upsert(name: str, type: str, *rdatas: str, ttl_s: int = 300) -> Change:
    return Change("upsert", RecordSet.of(f"{name}.roost.example", type, ttl_s, rdatas))


def create(name: str, type: str, *rdatas: str) -> Change:
    return Change("create", upsert(name, type, *rdatas).record_set)


def delete(name: str, type: str) -> Change:
    # A deletion names a key; what data it carries makes no difference.
    return Change("delete", RecordSet.of(f"{name}.roost.example", type, 0, ["anything"]))


def served(address: str, name: str, type: str) -> set[str]:
    """What the name server itself answers a stranger."""
    answer = dns.query.udp(dns.message.make_query(f"{name}.roost.example.", type), address, timeout=3)
    wanted = dns.rdatatype.from_text(type)
    return {of_rdata(type, rdata) for rrset in answer.answer if rrset.rdtype == wanted for rdata in rrset}


TENANT = (
    create("k1.edge", "A", "192.0.2.1", "192.0.2.2"),
    create("k1.edge", "AAAA", "2001:db8::1"),
    create("_xmpp-client._tcp.acme", "SRV", f"0 5 5222 {TARGET}"),
    create("_xmpps-client._tcp.acme", "SRV", f"0 5 5223 {TARGET}"),
    create("_xmpp-server._tcp.conference.acme", "SRV", f"0 5 5269 {TARGET}"),
    create("acme", "CAA", '0 issue "ca.example.net"'),
    create("_acme-challenge.acme", "TXT", txt("gfj9Xq-Rg85nM_"), txt("second-value")),
)


class DnsDriverContract:
    """Fixtures ``driver`` (on a server whose zone ``roost.example`` exists) and ``address`` come from each module."""

    def read(self, driver: DnsDriver, *names_and_types: tuple[str, str]) -> dict[tuple[str, str], RecordSet]:
        return driver.read(ZONE, [(f"{name}.roost.example", type) for name, type in names_and_types])

    def test_it_says_that_it_writes(self, driver: DnsDriver) -> None:
        assert driver.can_write
        assert driver.name

    def test_the_zone_exists_and_another_does_not(self, driver: DnsDriver) -> None:
        assert driver.zone_exists(ZONE)
        assert not driver.zone_exists(DomainName.parse("elsewhere.example"))
        assert driver.create_zone(ZONE, ["ns1.roost.example"]) is False

    def test_a_tenants_records_are_written_read_back_and_served(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, TENANT)
        seen = driver.read(ZONE, [change.record_set.key for change in TENANT] + [("nothing.roost.example", "A")])
        assert {k: v.rdatas for k, v in seen.items()} == {c.record_set.key: c.record_set.rdatas for c in TENANT}
        for change in TENANT:
            name = change.record_set.name.removesuffix(".roost.example")
            assert served(address, name, change.record_set.type) == change.record_set.rdatas

    def test_applying_twice_changes_nothing(self, driver: DnsDriver) -> None:
        driver.apply(ZONE, TENANT)
        driver.apply(ZONE, TENANT)
        seen = driver.read(ZONE, [change.record_set.key for change in TENANT])
        assert {k: v.rdatas for k, v in seen.items()} == {c.record_set.key: c.record_set.rdatas for c in TENANT}

    def test_an_upsert_replaces_the_whole_set(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, [upsert("swap", "A", "192.0.2.1", "192.0.2.2")])
        driver.apply(ZONE, [upsert("swap", "A", "192.0.2.2", "192.0.2.3")])
        assert served(address, "swap", "A") == {"192.0.2.2", "192.0.2.3"}

    def test_a_ttl_is_kept_and_changed(self, driver: DnsDriver) -> None:
        driver.apply(ZONE, [upsert("ttl", "A", "192.0.2.1", ttl_s=120)])
        assert self.read(driver, ("ttl", "A"))["ttl.roost.example", "A"].ttl_s == 120
        if driver.exact_ttl:
            driver.apply(ZONE, [upsert("ttl", "A", "192.0.2.1", ttl_s=60)])
            assert self.read(driver, ("ttl", "A"))["ttl.roost.example", "A"].ttl_s == 60

    def test_a_delete_takes_one_type_and_leaves_the_others(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, [upsert("both", "A", "192.0.2.1"), upsert("both", "TXT", txt("stays"))])
        driver.apply(ZONE, [delete("both", "A"), delete("never-was", "A")])
        driver.apply(ZONE, [delete("both", "A")])
        assert served(address, "both", "A") == set()
        assert list(self.read(driver, ("both", "A"), ("both", "TXT"))) == [("both.roost.example", "TXT")]

    def test_a_cname_and_addresses_take_each_others_place_in_one_batch(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, [upsert("swing", "A", "192.0.2.1")])
        driver.apply(ZONE, [upsert("swing", "CNAME", TARGET), delete("swing", "A")])
        assert served(address, "swing", "CNAME") == {TARGET}
        driver.apply(ZONE, [upsert("swing", "A", "192.0.2.9"), delete("swing", "CNAME")])
        assert served(address, "swing", "A") == {"192.0.2.9"}

    def test_reading_does_not_follow_a_cname(self, driver: DnsDriver) -> None:
        driver.apply(ZONE, [upsert("k2.edge", "A", "192.0.2.7"), upsert("alias", "CNAME", "k2.edge.roost.example.")])
        assert list(self.read(driver, ("alias", "A"), ("alias", "CNAME"))) == [("alias.roost.example", "CNAME")]

    def test_what_a_wildcard_makes_up_does_not_exist(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, [upsert("*.wild", "A", "192.0.2.66"), upsert("real.wild", "A", "192.0.2.1")])
        assert served(address, "made-up.wild", "A") == {"192.0.2.66"}
        seen = self.read(driver, ("made-up.wild", "A"), ("real.wild", "A"))
        assert list(seen) == [("real.wild.roost.example", "A")]
        driver.apply(ZONE, [create("made-up.wild", "A", "192.0.2.1")])
        assert served(address, "made-up.wild", "A") == {"192.0.2.1"}

    def test_many_changes_at_once(self, driver: DnsDriver) -> None:
        changes = [create(f"n{number}.many", "A", f"192.0.2.{number % 200}") for number in range(self.many)]
        driver.apply(ZONE, changes)
        assert len(driver.read(ZONE, [change.record_set.key for change in changes])) == self.many

    many = 250

    def test_an_empty_batch_asks_nobody(self, driver: DnsDriver) -> None:
        driver.apply(ZONE, [])
        assert driver.read(ZONE, []) == {}

    def test_a_record_outside_the_zone_is_rejected(self, driver: DnsDriver) -> None:
        with pytest.raises(Rejected):
            driver.apply(ZONE, [Change("upsert", RecordSet.of("www.other.example", "A", 300, ["192.0.2.1"]))])

    def test_an_unknown_zone_is_rejected(self, driver: DnsDriver) -> None:
        with pytest.raises(Rejected):
            driver.apply(
                DomainName.parse("elsewhere.example"),
                [Change("upsert", RecordSet.of("www.elsewhere.example", "A", 300, ["192.0.2.1"]))],
            )

    def test_wrong_credentials_are_rejected_without_showing_them(self, intruder: DnsDriver) -> None:
        with pytest.raises(Rejected) as caught:
            intruder.apply(ZONE, [upsert("evil", "A", "192.0.2.6")])
        assert "wrong" not in f"{caught.value} {caught.value.remedy}"

    def test_a_server_that_is_not_there_is_unavailable(self, nobody: DnsDriver) -> None:
        with pytest.raises(Unavailable):
            nobody.apply(ZONE, [upsert("lost", "A", "192.0.2.6")])
        with pytest.raises(Unavailable):
            nobody.read(ZONE, [("lost.roost.example", "A")])


class PreconditionContract:
    """For drivers whose protocol can refuse to overwrite."""

    def test_create_refuses_what_is_there_with_other_data(self, driver: DnsDriver, address: str) -> None:
        driver.apply(ZONE, [upsert("theirs", "A", "192.0.2.50")])
        with pytest.raises(Conflict):
            driver.apply(ZONE, [create("theirs", "A", "192.0.2.51")])
        assert served(address, "theirs", "A") == {"192.0.2.50"}


class HostileTextContract:
    """For drivers that carry any TXT."""

    def test_any_text_comes_back(self, driver: DnsDriver, address: str) -> None:
        hostile = [txt('a "quoted" \\ back; slash'), txt("ünïcödé\x00\x1f"), txt("x" * 300)]
        driver.apply(ZONE, [upsert("hostile", "TXT", *hostile)])
        assert served(address, "hostile", "TXT") == set(hostile)
        assert read_texts(driver, "hostile") == set(hostile)


def read_texts(driver: DnsDriver, name: str) -> set[str]:
    return set(driver.read(ZONE, [(f"{name}.roost.example", "TXT")])[f"{name}.roost.example", "TXT"].rdatas)
