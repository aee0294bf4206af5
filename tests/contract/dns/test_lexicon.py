"""The lexicon driver against PowerDNS, by lexicon's own module for it."""

from __future__ import annotations

import pytest

from controlplane.drivers.dns.lexicon import Lexicon
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.records import txt
from controlplane.values.secret import Secret
from tests.contract.dns.conftest import NOBODY
from tests.contract.dns.suite import ZONE, DnsDriverContract, PreconditionContract, upsert
from tests.servers.dns import API_KEY, PowerDnsServer

pytestmark = pytest.mark.servers


def lexicon(url: str, key: str) -> Lexicon:
    return Lexicon("powerdns", {"auth_token": Secret(key), "pdns_server": Secret(url)})


class TestLexicon(DnsDriverContract, PreconditionContract):
    many = 5  # a record costs lexicon's module two readings of the zone

    @pytest.fixture
    def address(self, powerdns: PowerDnsServer) -> str:
        return powerdns.address

    @pytest.fixture
    def driver(self, powerdns: PowerDnsServer) -> Lexicon:
        return lexicon(powerdns.url, API_KEY)

    @pytest.fixture
    def intruder(self, powerdns: PowerDnsServer) -> Lexicon:
        return lexicon(powerdns.url, "wrong")

    @pytest.fixture
    def nobody(self) -> Lexicon:
        return lexicon(f"http://{NOBODY}:8081", API_KEY)

    def test_a_text_that_modules_quote_differently_is_refused_before_anything_is_sent(self, driver: Lexicon) -> None:
        with pytest.raises(Rejected, match="TXT"):
            driver.apply(ZONE, [upsert("quoted", "TXT", txt('a "b"'))])
        assert driver.read(ZONE, [("quoted.roost.example", "TXT")]) == {}

    @pytest.mark.parametrize("provider", ["dinahosting", "route53", "no-such", "../powerdns"])
    def test_a_provider_without_srv_is_refused_by_name(self, provider: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            Lexicon(provider, {})
        assert caught.value.field == "ROOST_LEXICON_PROVIDER"
