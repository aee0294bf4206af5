"""What counts as published in a customer's zone."""

from __future__ import annotations

import pytest

from controlplane.values.records import RecordSet, txt
from controlplane.zones.customer import judge

EDGE = frozenset({"192.0.2.1", "2001:db8::1"})


def made(type: str, *rdatas: str) -> RecordSet:
    return RecordSet.of("x.acme.org", type, 300, rdatas)


@pytest.mark.parametrize(
    ("wanted", "seen", "ok", "harmful"),
    [
        (made("SRV", "0 5 5222 t.example."), made("SRV", "0 5 5222 t.example."), True, False),
        (made("SRV", "0 5 5222 t.example."), made("SRV", "0 5 5222 old.example."), False, False),
        (made("SRV", "0 5 5222 t.example."), made("SRV", "0 5 5222 t.example.", "0 5 5222 old."), False, False),
        (made("SRV", "0 5 5222 t.example."), None, False, False),
        (made("TXT", txt("token")), made("TXT", txt("token"), txt("v=spf1 -all")), True, False),
        (made("TXT", txt("token")), made("TXT", txt("other")), False, False),
        (made("CAA", '0 issue "ca.net"'), made("CAA", '0 issue "ca.net"', '0 issue "b.net"'), True, False),
        (made("CAA", '0 issue "ca.net"'), made("CAA", '0 issue "b.net"'), False, True),
        (made("CAA", '0 issue "ca.net"'), None, False, False),
    ],
)
def test_verdicts(wanted, seen, ok, harmful):
    verdict = judge(wanted, seen)
    assert (verdict.ok, verdict.harmful) == (ok, harmful)
    assert bool(verdict.problem) is not ok


def test_addresses_that_lead_to_the_edge_do_as_well_as_a_cname():
    wanted = made("CNAME", "k1.edge.roost.example.")
    assert judge(wanted, None, frozenset({"192.0.2.1"}), EDGE).ok
    elsewhere = judge(wanted, None, frozenset({"192.0.2.1", "198.51.100.1"}), EDGE)
    assert not elsewhere.ok
    assert "198.51.100.1" in elsewhere.problem
    assert not judge(wanted, None, frozenset(), EDGE).ok
