"""Hysteresis and schedule: arithmetic over results and times."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.monitoring import causes
from controlplane.monitoring.prober.schedule import CHEAP, FULL, Pace, Schedule
from controlplane.monitoring.prober.subjects import Target
from controlplane.monitoring.states import Observation, State, advance, shard_of
from controlplane.probes.quick import QuickSubject
from controlplane.probes.report import StepResult

T0 = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def feed(state: State, results: str, *, cause: str = "PortClosed") -> list[int]:
    """Results as "+" and "-"; the positions at which the state turned. One second lies between two."""
    turned = []
    for number, result in enumerate(results):
        seen = Observation("ports", result == "+", T0 + datetime.timedelta(seconds=number), 1.0, cause, "words")
        if advance(state, seen, down_after=3, up_after=2):
            turned.append(number)
    return turned


@pytest.mark.parametrize(
    ("results", "turned", "state"),
    [
        ("+", [0], "up"),
        ("--", [], "unknown"),
        ("---", [2], "down"),
        ("+--+--+", [0], "up"),
        ("+---", [0, 3], "down"),
        ("+---+-+", [0, 3], "down"),
        ("+---++", [0, 3, 5], "up"),
    ],
)
def test_several_like_results_turn_a_state(results: str, turned: list[int], state: str) -> None:
    judged = State()
    assert feed(judged, results) == turned
    assert judged.state == state


def test_a_state_counts_from_the_first_sign() -> None:
    state = State()
    feed(state, "++---")
    assert state.since == T0 + datetime.timedelta(seconds=2)
    assert state.last_ok_at == T0 + datetime.timedelta(seconds=1)
    assert (state.cause, state.message) == ("PortClosed", "words")


def test_another_cause_counts_when_it_comes_twice() -> None:
    state = State()
    feed(state, "---")
    feed(state, "-", cause="EngineDown")
    assert state.cause == "PortClosed"
    feed(state, "-", cause="PortClosed")
    feed(state, "-", cause="EngineDown")
    assert state.cause == "PortClosed"
    feed(state, "-", cause="EngineDown")
    assert state.cause == "EngineDown"


@given(st.text(alphabet="+-", max_size=60))
def test_a_turned_state_had_so_many_results_in_a_row(results: str) -> None:
    state, before = State(), ""
    for number, result in enumerate(results):
        if feed(state, result):
            wanted = 3 if result == "-" else 1 if not before else 2
            assert results[: number + 1].endswith(result * wanted)
            before = state.state


def target(key: str, *, asked: bool = False, due: datetime.datetime = T0) -> Target:
    return Target(1, key, QuickSubject(f"{key}.example"), due, asked)


def test_times_are_spread_and_doubt_comes_sooner() -> None:
    schedule = Schedule(Pace(30, 600, 5))
    schedule.update({f"k{n}": target(f"k{n}") for n in range(200)}, 1000.0, T0.timestamp())
    times = sorted(course.cheap_at for course in schedule.courses.values())
    assert all(1000 <= at <= 1030 for at in times)
    assert len({round(at) for at in times}) > 20
    due = schedule.due(1031.0)
    assert len(due) == 200
    assert {what for _, what in due} == {CHEAP}
    assert schedule.due(1031.0) == []  # all of them are under way
    well, ill = due[0][0], due[1][0]
    schedule.cheap_done(well, 1031.0, well=True, down=False)
    schedule.cheap_done(ill, 1031.0, well=False, down=False)
    assert ill.thorough
    assert not well.thorough
    assert 1035 <= ill.cheap_at <= 1037
    assert 1057 < well.cheap_at <= 1065
    assert ill.full_at >= ill.cheap_at


def test_a_failed_walk_asks_for_a_thorough_round_and_another_walk() -> None:
    schedule = Schedule(Pace(30, 600, 5))
    schedule.update({"k": target("k")}, 0.0, T0.timestamp())
    course = schedule.courses["k"]
    course.cheap_at, course.full_at = 100.0, 1.0
    schedule.free(course)
    assert schedule.due(2.0) == [(course, FULL)]
    schedule.full_done(course, 2.0, well=False, failed=True)
    assert course.cheap_at == 2.0
    assert course.thorough
    assert 15 <= course.full_at <= 19
    assert schedule.due(2.0) == [(course, CHEAP)]


def test_who_is_asked_for_comes_now_and_who_left_does_not() -> None:
    schedule = Schedule(Pace(30, 600, 5))
    schedule.update({"a": target("a"), "b": target("b")}, 0.0, T0.timestamp())
    assert schedule.update({"a": target("a", asked=True)}, 0.0, T0.timestamp()) == ["b"]
    assert [(course.target.key, what) for course, what in schedule.due(0.0)] == [("a", CHEAP)]
    assert schedule.courses.keys() == {"a"}


def test_shards_are_disjoint_and_whole() -> None:
    keys = [f"k{number}" for number in range(500)]
    shards = [[key for key in keys if shard_of(key, 3) == shard] for shard in range(3)]
    assert sorted(key for shard in shards for key in shard) == sorted(keys)
    assert min(map(len, shards)) > 100


def test_the_checks_follow_from_each_other_without_a_circle() -> None:
    for check in causes.NEEDS:
        assert check not in causes.ancestors(check)
        assert causes.ancestors(check) <= causes.NEEDS.keys()
        assert check in causes.TITLES
    assert causes.ancestors("turn") >= {"resolve", "ports", "tls", "login"}


@pytest.mark.parametrize(
    ("step", "message", "details", "cause"),
    [
        ("tls", "The certificate has expired: x.", {}, "CertificateExpired"),
        ("tls", "The certificate has serial A and not B: x.", {}, "WrongCertificate"),
        ("tls", "Nothing listens there: x.", {}, "PortClosed"),
        ("turn", "refused", {"cause": "TurnWrongSecret"}, "TurnWrongSecret"),
        ("turn", "announces no TURN service", {"cause": "Nonsense"}, "TurnFails"),
        ("archive", "not there", {}, "ArchiveFails"),
    ],
)
def test_a_failing_step_speaks_for_a_cause(step: str, message: str, details: dict[str, str], cause: str) -> None:
    assert causes.of_step(StepResult(step, False, False, message, 0.1, details)) == cause
    assert cause in causes.CAUSES
