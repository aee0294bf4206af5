"""A pass over toy steps: needs, collected failures, back-off, undo in reverse, conditions written by fence."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from controlplane.reconcile import conditions, history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.models import Condition, Event
from controlplane.reconcile.step import Finding, Pass, PassResult
from controlplane.values.errors import Conflict, Rejected, RoostError, Unavailable
from controlplane.values.outcome import Done, Outcome, Stalled, Wait

pytestmark = [pytest.mark.db, pytest.mark.django_db(transaction=True)]


@dataclass
class Toy:
    """A step whose world is a flag. ``fails`` is raised by act."""

    condition: str
    needs: tuple[str, ...] = ()
    made: bool = False
    fails: BaseException | None = None
    outcome: Outcome | None = None
    undone: Outcome = field(default_factory=Done)
    log: list[str] = field(default_factory=list)

    def observe(self, subject: object, lease: Lease) -> Outcome | None:
        return Done() if self.made else None

    def act(self, subject: object, lease: Lease) -> Outcome:
        self.log.append("act")
        if self.fails is not None:
            raise self.fails
        if self.outcome is not None:
            return self.outcome
        self.made = True
        return Done("Made")

    def undo(self, subject: object, lease: Lease) -> Outcome:
        self.log.append("undo")
        return self.undone


def held(name: str = "a") -> Lease:
    leases.touch("Toy", name, "q")
    (lease,) = leases.claim(["q"], holder="test")
    return lease


def forward(*steps: Toy) -> PassResult:
    return Pass(steps, None, held()).forward()


def test_every_step_whose_needs_hold_is_tried() -> None:
    broken = Toy("B", needs=("A",), fails=Unavailable("no answer"))
    blocked = Toy("C", needs=("B",))
    free = Toy("D", needs=("A",))
    result = forward(Toy("A"), broken, blocked, free)
    assert [(f.type, f.status) for f in result.findings] == [
        ("A", "True"),
        ("B", "False"),
        ("C", "Unknown"),
        ("D", "True"),
    ]
    assert blocked.log == []
    assert result.failed
    assert "Waits for B" in result.findings[2].message


def test_a_step_that_sees_what_it_wants_does_not_act() -> None:
    step = Toy("A", made=True)
    assert not forward(step).failed
    assert step.log == []


@pytest.mark.parametrize(
    ("error", "reason", "stalled", "failed"),
    [
        (Unavailable("x", retry_after_s=7), "Unavailable", False, True),
        (Rejected("no", remedy="pay"), "Rejected", True, False),
        (Conflict("theirs", remedy="ask"), "Conflict", True, False),
        (ZeroDivisionError("oops"), "InternalError", False, True),
    ],
)
def test_errors_become_conditions(error: Exception, reason: str, stalled: bool, failed: bool) -> None:
    result = forward(Toy("A", fails=error))
    (finding,) = result.findings
    assert (finding.reason, finding.stalled, result.failed) == (reason, stalled, failed)
    if isinstance(error, RoostError) and stalled:
        assert finding.remedy == error.remedy
    if reason == "Unavailable":
        assert result.next_s == 7
    if reason == "InternalError":
        assert "oops" not in finding.message  # tenants read it, and it may hold anything


def test_the_soonest_time_wins() -> None:
    result = forward(Toy("A", outcome=Wait("W", "", after_s=3)), Toy("B", outcome=Stalled("S", "", "", recheck_s=100)))
    assert result.next_s == 3


def test_a_lost_lease_ends_the_pass() -> None:
    later = Toy("B")
    with pytest.raises(LeaseLost):
        forward(Toy("A", fails=LeaseLost("gone")), later)
    assert later.log == []


def test_undo_runs_in_reverse_and_stops_at_what_is_not_gone() -> None:
    first, second, third = Toy("A"), Toy("B", undone=Wait("Busy", "", after_s=2)), Toy("C")
    run = Pass([first, second, third], None, held())
    assert run.backward() is False
    assert (first.log, second.log, third.log) == ([], ["undo"], ["undo"])
    second.undone = Done()
    again = Pass([first, second, third], None, held("b"))
    assert again.backward() is True
    assert first.log == ["undo"]


def test_conditions_keep_the_time_of_the_last_change() -> None:
    lease = held()
    assert conditions.write(lease, [Finding("A", "True", "Made")], generation=1)
    before = conditions.of("Toy", "a")["A"]
    assert not conditions.write(lease, [Finding("A", "True", "Made", "said differently")], generation=2)
    same = conditions.of("Toy", "a")["A"]
    assert same.last_transition == before.last_transition
    assert (same.message, same.observed_generation) == ("said differently", 2)
    assert conditions.write(lease, [Finding("A", "False", "Broken")], generation=2)
    assert conditions.of("Toy", "a")["A"].last_transition > before.last_transition
    assert [e.type for e in Event.objects.order_by("id")] == ["A=True", "A=False"]


def test_an_old_fence_writes_nothing() -> None:
    lease = held()
    leases.release(lease, after_s=0, attempts=0)
    held()
    with pytest.raises(LeaseLost):
        conditions.write(lease, [Finding("A", "True", "Made")], generation=1)
    assert Condition.objects.count() == 0


def test_watchers_are_touched_when_something_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watchers", {"Toy": [lambda key: [("Other", f"of-{key}")]]})
    monkeypatch.setitem(watch._queues, "Other", "q2")
    lease = held()
    conditions.write(lease, [Finding("A", "True", "Made")], generation=1)
    (other,) = leases.claim(["q2"], holder="test")
    assert other.object_id == "of-a"
    leases.release(other, after_s=3600, attempts=0)
    conditions.write(lease, [Finding("A", "True", "Made")], generation=1)
    assert leases.claim(["q2"], holder="test") == []


def test_history_is_read_from_a_cursor_without_gaps() -> None:
    for number in range(3):
        history.record("Toy", "a", f"E{number}")
    first = list(history.after(history.Cursor()))
    assert [e.type for e in first] == ["E0", "E1", "E2"]
    cursor = history.Cursor.parse(str(history.Cursor.of(first[1])))
    assert [e.type for e in history.after(cursor)] == ["E2"]
