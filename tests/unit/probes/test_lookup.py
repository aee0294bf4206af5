"""In which order a client tries what DNS names (RFC 2782, XEP-0368)."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from controlplane.probes.lookup import CLIENT_SERVICES, SrvRecord, order_by_weight, split_resolver

RECORDS = st.lists(
    st.builds(
        SrvRecord,
        st.sampled_from(CLIENT_SERVICES),
        st.integers(0, 3),
        st.integers(0, 65535),
        st.integers(1, 65535),
        st.sampled_from(["a.example", "b.example"]),
    )
)


@given(RECORDS)
def test_order_keeps_every_record_and_goes_by_priority_then_service(records: list[SrvRecord]) -> None:
    ordered = order_by_weight(records, CLIENT_SERVICES)
    assert sorted(map(repr, ordered)) == sorted(map(repr, records))
    keys = [(r.priority, CLIENT_SERVICES.index(r.service)) for r in ordered]
    assert keys == sorted(keys)


def test_weight_decides_how_often_a_record_is_first() -> None:
    random.seed(1)
    heavy, light = (SrvRecord("xmpp-client", 0, weight, 5222, "t") for weight in (90, 10))
    firsts = [order_by_weight([light, heavy], CLIENT_SERVICES)[0] for _ in range(2000)]
    assert 0.85 < firsts.count(heavy) / len(firsts) < 0.95


def test_a_record_without_weight_is_tried_after_those_with() -> None:
    none, some = (SrvRecord("xmpp-client", 0, weight, 5222, "t") for weight in (0, 1))
    assert order_by_weight([none, some], CLIENT_SERVICES) == [some, none]


def test_a_resolver_may_have_a_port() -> None:
    assert split_resolver("192.0.2.53") == ("192.0.2.53", 53)
    assert split_resolver("2001:db8::53@5353") == ("2001:db8::53", 5353)
