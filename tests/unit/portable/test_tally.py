"""The comparison finds what differs, and nothing else."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.portable import facts
from controlplane.portable.facts import Fact, instant
from controlplane.portable.tally import Difference, Tally
from controlplane.values.errors import InvalidInput
from tests.unit.portable.samples import ALICE, ROOM, result

words = st.sampled_from(["a", "b", "ü", ""])
some = st.lists(st.builds(Fact, words, words, words, words), max_size=12)


def compared(left, right, **more):
    with Tally(**more) as one, Tally(**more) as two:
        one.add(left)
        two.add(right)
        return list(one.differences(two))


@settings(deadline=None, max_examples=50)
@given(some, some, st.randoms())
def test_it_is_empty_exactly_if_the_multisets_are_equal(left, right, random):
    shuffled = list(left)
    random.shuffle(shuffled)
    assert compared(left, shuffled) == []
    assert (compared(left, right) == []) == (sorted(map(repr, left)) == sorted(map(repr, right)))


def test_it_says_what_is_missing_added_and_changed():
    left = [Fact("contact", "a", "x@y", "1"), Fact("contact", "a", "z@y", "1"), Fact("vCard", "a", "", "v")]
    right = [Fact("contact", "a", "x@y", "2"), Fact("contact", "b", "z@y", "1"), Fact("vCard", "a", "", "v")]
    found = compared(left, right)
    assert [(d.verdict, d.owner, d.what) for d in found] == [
        ("changed", "a", "x@y"), ("missing", "a", "z@y"), ("added", "b", "z@y")
    ]  # fmt: skip
    assert found[0] == Difference("contact", "a", "x@y", 1, 1)


def test_doubles_count():
    one = Fact("PEP item", "a", "n 1", "x")
    assert compared([one], [one, one]) == [Difference("PEP item", "a", "n 1", 1, 2)]


def test_only_the_kinds_that_are_asked_for():
    with Tally() as one, Tally() as two:
        one.add([Fact("vCard", "a", "", "v"), Fact("block", "a", "x", "")])
        assert [d.kind for d in one.differences(two, kinds={"block"})] == ["block"]


def test_rolled_messages_are_few_rows_and_differ_all_the_same(tmp_path):
    messages = [facts.of_message(result(n), owner="alice") for n in range(3000)]
    assert compared(messages, messages[::-1], rolled=True) == []
    (one_missing,) = compared(messages, messages[:-1], rolled=True)
    assert (one_missing.left, one_missing.right, one_missing.owner) == (3000, 2999, "alice")
    (other_text,) = compared(
        messages, [*messages[:-1], facts.of_message(result(2999, "x"), owner="alice")], rolled=True
    )
    assert other_text.verdict == "changed"
    swapped = [facts.of_message(result(n).replace("'m1'", "'m0'"), owner="alice") for n in range(3000)]
    assert compared(messages, swapped, rolled=True)
    with Tally(tmp_path / "t", rolled=True) as tally:
        tally.add(messages)
    rows = sqlite3.connect(tmp_path / "t").execute("SELECT count(*) FROM facts").fetchone()[0]
    assert rows == 1


def test_it_lasts_and_keeps_no_content(tmp_path):
    with Tally(tmp_path / "t", key=b"secret") as tally:
        tally.add(facts.of_user(ALICE))
        tally.add([facts.of_message(result(1, "very private"), owner="alice")])
    data = (tmp_path / "t").read_bytes()
    assert b"very private" not in data
    assert b"SbybblGCZz8" not in data
    with Tally(tmp_path / "t", key=b"secret") as tally, Tally(key=b"secret") as other:
        assert tally.counts()["contact"] == 2
        other.add(facts.of_user(ALICE))
        assert [d.kind for d in tally.differences(other)] == ["user message"]
    with pytest.raises(InvalidInput):
        Tally(tmp_path / "t", key=b"other")
    with Tally(key=b"other") as tally, Tally() as other, pytest.raises(InvalidInput):
        list(tally.differences(other))


def test_order_and_spelling_that_mean_nothing_are_equal():
    for one, two in [
        (("<group>A</group><group>Ü 😀</group>"), ("<group>Ü 😀</group><group>A</group>")),
        (("jid='x@y' subscription='none' ask='subscribe'"), ("ask='subscribe' jid='x@y'")),
        (("<salt>c2FsdA==</salt>"), ("<salt>\n c2Fs\ndA== </salt>")),
        (("<item id='1'><k xmlns='k'/></item>"), ("<item id='1'>\n <p:k xmlns:p='k'></p:k></item>")),
    ]:
        assert one in ALICE
        assert compared(facts.of_user(ALICE), facts.of_user(ALICE.replace(one, two))) == []
    true = ROOM.replace("<value>1</value>", "<value>true</value>")
    assert compared(facts.of_room(ROOM), facts.of_room(true)) == []


@pytest.mark.parametrize(
    ("one", "two", "kind"),
    [
        ("subscription='both'", "subscription='to'", "contact"),
        ("<group>A</group>", "", "contact"),
        ("c2FsdA==", "c2FsdB==", "credentials"),
        ("<FN>Alice</FN>", "<FN>alice</FN>", "vCard"),
        ("<value>open</value>", "<value>whitelist</value>", "PEP setting"),
        (">two<", ">2<", "PEP item"),
        ("spam.example", "spam2.example", "block"),
        ("<body>hi</body>", "<body>hi </body>", "offline message"),
        ("from='c@d'", "from='c@e'", "request"),
    ],
)
def test_each_change_of_an_account_is_found(one, two, kind):
    assert one in ALICE
    found = compared(facts.of_user(ALICE), facts.of_user(ALICE.replace(one, two)))
    assert {d.kind for d in found} == ({kind} if one != "c2FsdA==" else set())


@pytest.mark.parametrize(
    ("one", "two", "kind"),
    [
        ("<value>1</value>", "<value>0</value>", "room setting"),
        ("'owner'", "'admin'", "affiliation"),
        ("<reason>r</reason>", "", "affiliation"),
        (">S<", ">T<", "subject"),
        ("name='team'", "name='teem'", "room"),
    ],
)
def test_each_change_of_a_room_is_found(one, two, kind):
    assert kind in {d.kind for d in compared(facts.of_room(ROOM), facts.of_room(ROOM.replace(one, two)))}


def test_times_are_the_same_instant_however_they_are_written():
    assert (
        instant("2026-11-25T12:00:00Z") == instant("2026-11-25T12:00:00.000Z") == instant("2026-11-25T13:00:00+01:00")
    )
    assert instant("2026-11-25T12:00:00.5Z") - instant("2026-11-25T12:00:00Z") == 500_000
    assert instant("1469-07-21T00:32:29Z") > 0
    assert instant("yesterday") != instant("tomorrow")
    assert instant("2026-02-30T00:00:00Z") < 0


def test_hostile_xml_is_refused():
    for xml in ("<!DOCTYPE a [<!ENTITY b 'c'>]><user>&b;</user>", "<user", ""):
        with pytest.raises(InvalidInput):
            list(facts.of_user(xml))
