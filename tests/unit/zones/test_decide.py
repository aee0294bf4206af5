"""Whose records may be touched: the comparison of what is wanted with what a server holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.values.records import RecordSet
from controlplane.zones.decide import decide, keys_to_read
from controlplane.zones.models import DnsRecord

NAME = "acme.roost.example"
A, OTHER = ["192.0.2.1"], ["192.0.2.99"]


def row(type: str = "A", rdatas: list[str] = A, **more) -> DnsRecord:
    return DnsRecord(name=NAME, type=type, ttl_s=300, rdatas=rdatas, publisher="ours", **more)


def held(*sets: tuple[str, list[str]], ttl_s: int = 300) -> dict:
    return {(NAME, type): RecordSet.of(NAME, type, ttl_s, rdatas) for type, rdatas in sets}


def one(record: DnsRecord, there: dict, *, exact_ttl: bool = True):
    (verdict,) = decide([record], there, zone="roost.example", exact_ttl=exact_ttl)
    return verdict


def action(verdict) -> str | None:
    return verdict.change.action if verdict.change else None


def test_what_is_missing_is_created():
    assert action(one(row(), {})) == "create"


def test_what_we_made_is_repaired_and_deleted():
    assert action(one(row(created_by_us=True), held(("A", OTHER)))) == "upsert"
    assert action(one(row(created_by_us=True), held(("A", A), ttl_s=60))) == "upsert"
    assert action(one(row(created_by_us=True), held(("A", A), ttl_s=60), exact_ttl=False)) is None
    assert action(one(row(created_by_us=True, wanted=False), held(("A", OTHER)))) == "delete"


def test_what_others_made_is_a_conflict_and_stays():
    verdict = one(row(), held(("A", OTHER)))
    assert verdict.conflict
    assert "192.0.2.99" in verdict.problem
    assert verdict.change is None
    leaving = one(row(wanted=False), held(("A", A)))
    assert leaving.change is None
    assert leaving.gone


def test_what_is_there_already_as_wanted_is_neither_written_nor_ours():
    verdict = one(row(), held(("A", A)))
    assert (verdict.change, verdict.conflict, verdict.owned) == (None, False, False)


def test_after_a_crash_our_own_work_is_known_by_its_data():
    assert one(row(attempted=A), held(("A", A))).owned
    assert action(one(row(rdatas=["192.0.2.2"], attempted=A), held(("A", A)))) == "upsert"
    assert action(one(row(wanted=False, attempted=A), held(("A", A)))) == "delete"
    assert one(row(attempted=A), held(("A", OTHER))).conflict


def test_a_cname_excludes_other_data_both_ways():
    cname = ["k1.edge.roost.example."]
    assert one(row(), held(("CNAME", cname))).conflict
    assert one(row("CNAME", cname), held(("TXT", ['"x"']))).conflict
    assert {type for _, type in keys_to_read([row("CNAME", cname)])} >= {"A", "TXT", "CNAME"}


def test_what_leaves_makes_room_in_the_same_batch():
    cname = row("CNAME", ["k1.edge.roost.example."])
    leaving = row(wanted=False, created_by_us=True)
    first, second = decide([cname, leaving], held(("A", A)), zone="roost.example", exact_ttl=True)
    assert (action(first), action(second)) == ("delete", "create")
    stays = row(wanted=False)
    assert decide([cname, stays], held(("A", A)), zone="roost.example", exact_ttl=True)[1].conflict


sets = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), min_size=1, max_size=3, unique=True)


@given(sets, sets | st.none(), st.booleans(), st.booleans(), sets | st.just([]))
def test_nothing_foreign_is_ever_changed(rdatas, there, wanted, ours, attempted):
    record = row(rdatas=rdatas, wanted=wanted, created_by_us=ours, attempted=attempted)
    verdict = one(record, held(("A", there)) if there else {})
    foreign = there is not None and not ours and set(there) != set(attempted)
    if foreign:
        assert verdict.change is None
        assert not verdict.owned
