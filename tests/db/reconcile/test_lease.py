"""The queue on a real PostgreSQL: one holder at a time, nothing lost, older fences refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import WorkItem

pytestmark = [pytest.mark.db, pytest.mark.django_db(transaction=True)]


def claim(limit: int = 1, lease_s: float = 60) -> list[leases.Lease]:
    return leases.claim(["q"], holder="test", limit=limit, lease_s=lease_s)


def test_a_touched_resource_is_claimed_once() -> None:
    leases.touch("Toy", "a", "q")
    (held,) = claim()
    assert (held.kind, held.object_id, held.fence, held.attempts) == ("Toy", "a", 1, 0)
    assert claim() == []
    assert leases.release(held, after_s=0, attempts=0)
    (again,) = claim()
    assert again.fence == 2


def test_touching_twice_makes_one_row() -> None:
    for _ in range(5):
        leases.touch("Toy", "a", "q")
    assert WorkItem.objects.count() == 1


def test_other_queues_are_left_alone() -> None:
    leases.touch("Toy", "a", "elsewhere")
    assert claim() == []
    assert leases.due_queues() == ["elsewhere"]


def test_a_touch_during_a_pass_is_followed_by_another_pass() -> None:
    leases.touch("Toy", "a", "q")
    (held,) = claim()
    leases.touch("Toy", "a", "q")
    assert leases.release(held, after_s=3600, attempts=0)
    assert len(claim()) == 1


def test_without_a_touch_it_rests_until_its_time() -> None:
    leases.touch("Toy", "a", "q")
    (held,) = claim()
    leases.release(held, after_s=3600, attempts=3)
    assert claim() == []
    assert 3500 < (leases.soonest_due_s(["q"]) or 0) <= 3600
    leases.touch("Toy", "a", "q")
    assert claim()[0].attempts == 3


def test_a_touch_for_later_does_not_postpone() -> None:
    leases.touch("Toy", "a", "q")
    leases.touch("Toy", "a", "q", after_s=3600)
    assert len(claim()) == 1


def test_an_expired_lease_is_taken_over_and_the_old_holder_is_refused() -> None:
    leases.touch("Toy", "a", "q")
    (dead,) = claim(lease_s=0.01)
    time.sleep(0.05)
    (alive,) = claim()
    assert alive.fence == dead.fence + 1
    assert not leases.renew(dead)
    assert not leases.release(dead, after_s=0, attempts=0)
    with pytest.raises(LeaseLost), transaction.atomic():
        leases.hold(dead)
    assert leases.renew(alive)
    with transaction.atomic():
        leases.hold(alive)


def test_a_forgotten_resource_is_gone() -> None:
    leases.touch("Toy", "a", "q")
    (held,) = claim()
    leases.forget("Toy", "a")
    assert not leases.release(held, after_s=0, attempts=0)
    assert WorkItem.objects.count() == 0


def test_a_rolled_back_change_wakes_nobody() -> None:
    with transaction.atomic():
        leases.touch("Toy", "a", "q")
        transaction.set_rollback(True)
    assert claim() == []


def test_many_workers_never_hold_the_same_resource_and_lose_no_touch() -> None:
    """Six threads, some of which die holding a lease: each touch is followed by a pass that began after it."""
    names = [f"r{n}" for n in range(8)]
    held: dict[str, int] = {}
    seen: dict[str, int] = dict.fromkeys(names, 0)
    wanted: dict[str, int] = dict.fromkeys(names, 0)
    clashes: list[str] = []
    guard = threading.Lock()
    stop = threading.Event()

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            while not stop.is_set():
                for lease in leases.claim(["q"], holder=str(number), limit=1, lease_s=0.3):
                    name = lease.object_id
                    with guard:
                        if lease.fence <= held.get(name, 0):
                            clashes.append(name)
                        held[name] = lease.fence
                        value = wanted[name]
                    if chance.random() < 0.2:
                        continue  # died: nobody releases, the lease runs out
                    with guard:
                        seen[name] = max(seen[name], value)
                    leases.release(lease, after_s=3600, attempts=0)
                time.sleep(0.002)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    chance = random.Random(99)
    for _ in range(200):
        name = chance.choice(names)
        with guard:
            wanted[name] += 1
        leases.touch("Toy", name, "q")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and seen != wanted:
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert seen == wanted


def test_two_holders_who_touch_each_other_do_not_wait_for_each_other() -> None:
    """An instance's pass touches its node while the node's pass touches the instance."""
    leases.touch("Toy", "instance", "q")
    leases.touch("Toy", "node", "q")
    held = {lease.object_id: lease for lease in claim(limit=2)}
    both = threading.Barrier(2, timeout=10)
    errors: list[BaseException] = []

    def work(mine: str, other: str) -> None:
        try:
            with transaction.atomic():
                leases.hold(held[mine])
                both.wait()
                leases.touch("Toy", other, "q")
        except BaseException as error:  # noqa: BLE001  (shown below)
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=pair) for pair in (("instance", "node"), ("node", "instance"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_nobody_claims_while_the_holder_writes() -> None:
    leases.touch("Toy", "a", "q")
    (mine,) = claim(lease_s=0.01)
    time.sleep(0.05)
    taken: list[leases.Lease] = []

    def other() -> None:
        taken.extend(claim())
        connection.close()

    with transaction.atomic():
        leases.hold(mine)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert taken == []
    assert len(claim()) == 1


def test_nobody_claims_while_the_holder_writes_after_its_first_statement() -> None:
    leases.touch("Toy", "a", "q")
    (mine,) = claim(lease_s=0.01)
    time.sleep(0.05)
    taken: list[leases.Lease] = []

    def other() -> None:
        taken.extend(claim())
        connection.close()

    with leases.holding(mine):
        WorkItem.objects.filter(object_id="a").update(holder="me")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert taken == []
    assert len(claim()) == 1


def _raw() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE reconcile_workitem SET holder = '100 %'")


def _by_name() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE reconcile_workitem SET holder = %(name)s", {"name": "100 %"})


FIRST = {
    "ORM": lambda: WorkItem.objects.update(holder="100 %"),
    "without parameters": _raw,
    "parameters by name": _by_name,
    "a nested transaction": lambda: transaction.atomic()(_raw)(),
    "a nested hold": lambda: leases.holding(_now())(_raw)(),
}


def _now() -> leases.Lease:
    row = WorkItem.objects.get()
    return leases.Lease(row.pk, row.kind, row.object_id, row.queue, row.fence, 0)


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_the_first_statement_of_a_transaction_holds_the_lease(first: Callable[[], object]) -> None:
    leases.touch("Toy", "a", "q")
    (mine,) = claim()
    with leases.holding(mine):
        first()
        assert WorkItem.objects.get().object_id == "a"
    assert WorkItem.objects.get().holder == "100 %"


@pytest.mark.parametrize("first", [*FIRST.values(), lambda: None], ids=[*FIRST, "nothing"])
def test_a_transaction_under_a_lost_lease_is_taken_back(first: Callable[[], object]) -> None:
    leases.touch("Toy", "a", "q")
    (old,) = claim(lease_s=0)
    (new,) = claim()
    with pytest.raises(LeaseLost), leases.holding(old):
        first()
    row = WorkItem.objects.get()
    assert (row.fence, row.holder) == (new.fence, "test")


def test_it_costs_no_round_trip_to_hold_the_lease() -> None:
    leases.touch("Toy", "a", "q")
    (mine,) = claim()
    with CaptureQueriesContext(connection) as captured, leases.holding(mine):
        WorkItem.objects.update(holder="me")
    sent = [query["sql"] for query in captured if query["sql"] not in ("BEGIN", "COMMIT")]
    assert len(sent) == 1
    assert "pg_advisory_xact_lock_shared" in sent[0]


def test_many_are_touched_in_one_statement() -> None:
    leases.touch("Toy", "a", "q", after_s=3600)
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        leases.touch_now([("Toy", "b", "q"), ("Toy", "a", "q"), ("Toy", "b", "q")])
    assert len([query for query in captured if "INSERT" in query["sql"]]) == 1
    assert sorted(lease.object_id for lease in claim(limit=5)) == ["a", "b"]


def test_a_claim_locks_a_handful_however_many_are_due() -> None:
    """Each advisory lock takes a place in PostgreSQL's shared table of locks, which has some thousands."""
    for number in range(200):
        leases.touch("Toy", f"t{number}", "q")
    with transaction.atomic():
        assert len(claim()) == 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            assert cursor.fetchone()[0] <= 20


def test_numbers_beyond_31_bits_can_be_held() -> None:
    """Every touch uses up a number of the sequence, so they grow large in time."""
    WorkItem.objects.create(pk=2**33, kind="Toy", object_id="a", queue="q")
    (held,) = claim()
    with transaction.atomic():
        leases.hold(held)


def test_many_touches_of_a_transaction_wake_their_queue_once(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(leases, "wake", woken.append)
    with transaction.atomic():
        for name in "abc":
            leases.touch("Toy", name, "q")
        with transaction.atomic():
            leases.touch("Toy", "d", "q")
            leases.touch("Toy", "e", "other")
    assert sorted(woken) == ["other", "q"]


def test_a_wake_up_is_not_lost_with_a_part_that_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(leases, "wake", woken.append)
    with transaction.atomic():
        part = transaction.savepoint()
        leases.touch("Toy", "a", "q")
        transaction.savepoint_rollback(part)
        leases.touch("Toy", "b", "q")
    assert woken == ["q"]
