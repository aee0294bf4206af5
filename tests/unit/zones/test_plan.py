"""The plan of an instance's records: which, where, by whom."""

from __future__ import annotations

from dataclasses import replace

import dns.name
import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.values.names import DomainName
from controlplane.values.records import txt
from controlplane.values.spec import Components
from controlplane.zones import plan
from controlplane.zones.plan import Need, TurnService

ZONE = DomainName.parse("roost.example")
TURN = TurnService(DomainName.parse("turn.roost.example"), 3478, 5349)
ACME = DomainName.parse("acme.roost.example")
OWN = DomainName.parse("chat.acme.org")


def need(domain: DomainName = ACME, mode: str = "provider", **more: object) -> Need:
    fields = {
        "key": "k2345678",
        "domain": domain,
        "components": Components.below(domain),
        "mode": mode,
        "zone": ZONE,
        "ttl_s": 300,
        "edge_addresses": ["192.0.2.1", "2001:DB8::1"],
        "turn": TURN,
        "caa_issuer": "ca.example.net",
        "proof_token": "t-o_ken",
    }
    return Need(**(fields | more))


def by_key(records):
    assert len({w.record_set.key for w in records}) == len(records)
    return {w.record_set.key: w for w in records}


def rdatas(records, name: str, type: str) -> set[str]:
    return set(records[name, type].record_set.rdatas)


def test_below_the_providers_zone_everything_is_ours():
    records = by_key(plan.wanted_records(need()))
    assert {w.publisher for w in records.values()} == {"ours"}
    assert {w.zone for w in records.values()} == {ZONE}
    assert all(DomainName(w.record_set.name).is_within(ZONE) for w in records.values())
    for service, port in {"xmpp-client": 5222, "xmpps-client": 5223, "xmpp-server": 5269, "xmpps-server": 5270}.items():
        assert rdatas(records, f"_{service}._tcp.acme.roost.example", "SRV") == {
            f"0 5 {port} k2345678.edge.roost.example."
        }
    for name in ("acme", "conference.acme", "upload.acme", "proxy.acme", "k2345678.edge"):
        assert rdatas(records, f"{name}.roost.example", "A") == {"192.0.2.1"}
        assert rdatas(records, f"{name}.roost.example", "AAAA") == {"2001:db8::1"}
    assert rdatas(records, "acme.roost.example", "CAA") == {'0 issue "ca.example.net"'}


@pytest.mark.parametrize("mode", ["provider", "own"])
def test_components_have_server_records_and_no_client_records(mode):
    domain = ACME if mode == "provider" else OWN
    names = set(by_key(plan.wanted_records(need(domain, mode))))
    for component in ("conference", "upload", "proxy"):
        assert (f"_xmpp-server._tcp.{component}.{domain}", "SRV") in names
        assert (f"_xmpps-server._tcp.{component}.{domain}", "SRV") in names
        assert (f"_xmpp-client._tcp.{component}.{domain}", "SRV") not in names


def test_stun_and_turn_lead_to_the_relay_and_go_with_it():
    records = by_key(plan.wanted_records(need()))
    assert rdatas(records, "_stun._udp.acme.roost.example", "SRV") == {"0 5 3478 turn.roost.example."}
    assert rdatas(records, "_turn._tcp.acme.roost.example", "SRV") == {"0 5 3478 turn.roost.example."}
    assert rdatas(records, "_turns._tcp.acme.roost.example", "SRV") == {"0 5 5349 turn.roost.example."}
    without_tls = by_key(plan.wanted_records(need(turn=TurnService(TURN.host, 3478))))
    assert ("_turns._tcp.acme.roost.example", "SRV") not in without_tls
    without = by_key(plan.wanted_records(need(turn=None)))
    assert not [key for key in without if "turn" in key[0] or "stun" in key[0]]


def test_of_an_own_domain_only_the_target_is_ours():
    records = by_key(plan.wanted_records(need(OWN, "own")))
    ours = {key for key, w in records.items() if w.publisher == "ours"}
    target = "k2345678.edge.roost.example"
    assert ours == {(target, "A"), (target, "AAAA"), (target, "CAA")}
    theirs = [w for w in records.values() if w.publisher == "customer"]
    assert all(w.zone is None and DomainName(w.record_set.name).is_within(OWN) for w in theirs)
    assert rdatas(records, "upload.chat.acme.org", "CNAME") == {f"{target}."}
    assert rdatas(records, "_roost-challenge.chat.acme.org", "TXT") == {txt("t-o_ken")}


def test_no_address_is_written_into_a_customers_zone():
    for wanted in plan.wanted_records(need(OWN, "own")):
        if wanted.publisher == "customer":
            assert not any("192.0.2.1" in text or "2001:db8" in text for text in wanted.record_set.rdatas)


def test_what_a_customer_may_leave_out():
    records = by_key(plan.wanted_records(need(OWN, "own")))
    optional = {key for key, w in records.items() if w.optional}
    assert ("chat.acme.org", "CNAME") in optional  # an apex often has a website
    assert ("chat.acme.org", "CAA") in optional
    assert ("_stun._udp.chat.acme.org", "SRV") in optional
    for key in (
        ("_xmpp-client._tcp.chat.acme.org", "SRV"),
        ("upload.chat.acme.org", "CNAME"),
        ("_acme-challenge.conference.chat.acme.org", "CNAME"),
        ("_roost-challenge.chat.acme.org", "TXT"),
    ):
        assert key not in optional
    proven = by_key(plan.wanted_records(need(OWN, "own", proven=True)))
    assert proven["_roost-challenge.chat.acme.org", "TXT"].optional


def test_challenges_are_delegated_to_where_the_certificate_room_writes():
    wanted = need(OWN, "own")
    records, targets = by_key(plan.wanted_records(wanted)), plan.challenge_targets(wanted)
    assert set(targets) == {name.ascii for name in wanted.names}
    assert len({tuple(place) for place in targets.values()}) == 4
    for name, (zone, place) in targets.items():
        assert zone == "roost.example"
        assert DomainName(place).is_within(ZONE)
        assert rdatas(records, f"_acme-challenge.{name}", "CNAME") == {f"{place}."}
    provider = plan.challenge_targets(need())
    assert provider["upload.acme.roost.example"] == ["roost.example", "_acme-challenge.upload.acme.roost.example"]
    without = by_key(plan.wanted_records(replace(wanted, delegate_acme=False)))
    assert not [key for key in without if key[0].startswith("_acme")]


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError):
        plan.wanted_records(need(edge_addresses=["edge.example"]))


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.lists(labels, min_size=2, max_size=5), st.sampled_from(["provider", "own"]))
def test_every_record_of_any_domain_parses_and_fits(parts, mode):
    domain = DomainName(".".join(parts) + (".roost.example" if mode == "provider" else ".org"))
    for wanted in plan.wanted_records(need(domain, mode)):
        dns.name.from_text(wanted.record_set.name + ".")
        for text in wanted.record_set.rdatas:
            assert dns.rdata.from_text("IN", wanted.record_set.type, text, relativize=False).to_text()
