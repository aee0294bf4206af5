"""The RFC 2136 driver against Knot."""

from __future__ import annotations

import base64

import pytest

from controlplane.drivers.dns.rfc2136 import CHANGES_PER_MESSAGE, Rfc2136
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from tests.contract.dns.conftest import NOBODY
from tests.contract.dns.suite import (
    ZONE,
    DnsDriverContract,
    HostileTextContract,
    PreconditionContract,
    create,
    served,
    upsert,
)
from tests.servers.dns import TSIG_NAME, TSIG_SECRET, KnotServer

pytestmark = pytest.mark.servers


class TestRfc2136(DnsDriverContract, PreconditionContract, HostileTextContract):
    many = CHANGES_PER_MESSAGE + 10

    @pytest.fixture
    def address(self, knot: KnotServer) -> str:
        return knot.address

    @pytest.fixture
    def driver(self, knot: KnotServer) -> Rfc2136:
        return Rfc2136(f"{knot.address}@53", key_name=TSIG_NAME, key_secret=Secret(TSIG_SECRET))

    @pytest.fixture
    def intruder(self, knot: KnotServer) -> Rfc2136:
        wrong = Secret(base64.b64encode(b"some other octets, thirty-two...").decode())
        return Rfc2136(knot.address, key_name=TSIG_NAME, key_secret=wrong)

    @pytest.fixture
    def nobody(self) -> Rfc2136:
        return Rfc2136(NOBODY, key_name=TSIG_NAME, key_secret=Secret(TSIG_SECRET))

    def test_a_key_that_the_server_does_not_know_is_rejected(self, knot: KnotServer) -> None:
        stranger = Rfc2136(knot.address, key_name="stranger", key_secret=Secret(TSIG_SECRET))
        with pytest.raises(Rejected):
            stranger.apply(ZONE, [upsert("evil", "A", "192.0.2.6")])

    def test_a_secret_that_is_no_base64_is_named_and_not_shown(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            Rfc2136("127.0.0.1", key_name="k", key_secret=Secret("not base64!"))
        assert caught.value.field == "ROOST_RFC2136_TSIG_SECRET"
        assert "not base64!" not in str(caught.value)

    def test_it_cannot_create_a_zone_and_says_what_to_do(self, driver: Rfc2136) -> None:
        with pytest.raises(Rejected) as caught:
            driver.create_zone(DomainName.parse("fresh.example"), ["ns1.roost.example"])
        assert "configuration" in caught.value.remedy

    def test_of_a_batch_what_was_created_before_is_passed_over(self, driver: Rfc2136, address: str) -> None:
        driver.apply(ZONE, [create("half1", "A", "192.0.2.1")])
        driver.apply(ZONE, [create("half1", "A", "192.0.2.1"), create("half2", "A", "192.0.2.2")])
        assert served(address, "half2", "A") == {"192.0.2.2"}
