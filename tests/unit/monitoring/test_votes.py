"""Which public addresses a node has: a majority of the sources that answered, and never one alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.monitoring.votes import CONFIRM_S, WITHDRAW_S, Seen, judge

OLD, NEW, OTHER = "198.51.100.7", "198.51.100.8", "203.0.113.9"


def outside(*addresses: str) -> dict[str, str]:
    return {f"stun:{number}": address for number, address in enumerate(addresses)}


def test_what_the_machine_still_has_stays_whatever_others_say():
    verdict = judge([OLD], Seen((OLD,), outside(NEW, NEW, NEW), 3))
    assert (verdict.addresses, verdict.settled) == (None, True)


def test_behind_a_translator_the_majority_settles_that_nothing_changed():
    verdict = judge([OLD], Seen((), outside(OLD, OLD), 2))
    assert (verdict.addresses, verdict.settled) == (None, True)
    assert not judge([OLD], Seen((), outside(OLD), 2)).settled


@pytest.mark.parametrize(
    ("interface", "others", "wanted"),
    [
        ((NEW,), (NEW, NEW), (NEW,)),
        ((NEW,), (NEW, OTHER), (NEW,)),  # two of three
        ((NEW,), (NEW,), (NEW,)),  # the second server does not answer
        ((), (NEW, NEW), (NEW,)),  # behind NAT
        ((), (NEW,), None),  # one alone
        ((NEW,), (), None),
        ((), (NEW, OTHER), None),  # each says something else
        ((), (NEW, NEW, OTHER, OTHER), None),  # no majority
        ((NEW,), (OTHER, OTHER), None),  # a tunnel, perhaps: nothing would reach the machine there
    ],
)
def test_a_majority_of_those_that_answered_decides(interface, others, wanted):
    assert judge([OLD], Seen(interface, outside(*others), configured=2)).addresses == wanted


def test_with_one_source_outside_the_same_has_to_be_seen_twice():
    seen = Seen((NEW,), outside(NEW), configured=1)
    first = judge([OLD], seen)
    assert (first.addresses, first.candidate) == (None, (NEW,))
    assert first.again_s is not None
    assert first.again_s >= CONFIRM_S
    assert judge([OLD], seen, candidate=[NEW], candidate_age_s=CONFIRM_S - 0.5).addresses is None
    assert judge([OLD], seen, candidate=[OTHER], candidate_age_s=CONFIRM_S).addresses is None
    assert judge([OLD], seen, candidate=[NEW], candidate_age_s=CONFIRM_S).addresses == (NEW,)


def test_one_source_outside_is_not_believed_about_a_translator():
    verdict = judge([OLD], Seen((), outside(NEW), configured=1), candidate=[NEW], candidate_age_s=99)
    assert (verdict.addresses, verdict.candidate) == (None, None)


def test_of_several_addresses_only_those_that_are_gone_are_replaced():
    assert judge([OLD, OTHER], Seen((OTHER, NEW), outside(NEW, NEW), 2)).addresses == (OTHER, NEW)


def test_of_ipv6_the_network_counts_since_privacy_changes_the_rest():
    stable, temporary = "2001:db8:2::7", "2001:db8:2::dead:beef"
    seen = Seen((stable,), outside(temporary, temporary), configured=2)
    assert judge(["2001:db8:1::7"], seen).addresses == (stable,)
    assert judge([stable], seen).addresses is None


def test_a_family_that_nobody_sees_is_withdrawn_late_and_only_if_the_machine_had_it():
    assert judge([OLD], Seen()).candidate is None
    first = judge([OLD], Seen(), withdraw=True)
    assert (first.addresses, first.candidate) == (None, ())
    assert judge([OLD], Seen(), candidate=[], candidate_age_s=WITHDRAW_S - 1, withdraw=True).addresses is None
    assert judge([OLD], Seen(), candidate=[], candidate_age_s=WITHDRAW_S, withdraw=True).addresses == ()


@given(
    st.lists(st.sampled_from([OLD, NEW, OTHER]), max_size=2, unique=True),
    st.lists(st.sampled_from([OLD, NEW, OTHER]), max_size=4),
    st.integers(min_value=0, max_value=4),
)
def test_no_source_alone_ever_brings_a_new_address(interface, others, configured):
    verdict = judge([OLD], Seen(tuple(interface), outside(*others), configured), candidate=[NEW], candidate_age_s=99)
    for address in set(verdict.addresses or ()) - {OLD}:
        assert (address in interface) + others.count(address) >= 2
