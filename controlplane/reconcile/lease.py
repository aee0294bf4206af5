"""Touch, claim, renew, release: the four statements that the whole queue consists of.

All times are the database's. A claim raises the fence; whoever writes with an older fence is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils.module_loading import import_string

from controlplane import logs

log = logging.getLogger(__name__)

LEASE_S = 120.0


class LeaseLost(Exception):
    """Somebody else holds the item now: stop at once, write nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one resource until ``fence`` is overtaken."""

    item_id: int
    kind: str
    object_id: str
    queue: str
    fence: int
    attempts: int
    origin: str = ""


def wake(queue: str) -> None:
    """Tell the workers of a queue by the function that ROOST_WAKE names. A dead broker costs time, never work."""
    target: str = settings.ROOST["WAKE"]
    if target == "none":
        return
    try:
        import_string(target)(queue)
    except Exception as error:  # noqa: BLE001  (any broker failure: the sweep finds the work)
        log.warning("could not wake %s: %s", queue, error)


_TOUCH = """
INSERT INTO reconcile_workitem (kind, object_id, queue, due_at, holder, fence, nudged, attempts, origin)
VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s), '', 0, false, 0, %s)
ON CONFLICT (kind, object_id) DO UPDATE SET
  due_at = LEAST(reconcile_workitem.due_at, EXCLUDED.due_at),
  nudged = reconcile_workitem.nudged OR %s,
  origin = COALESCE(NULLIF(EXCLUDED.origin, ''), reconcile_workitem.origin)
"""


def touch(kind: str, object_id: str, queue: str, *, after_s: float = 0.0) -> None:
    """Make a resource due, inside the caller's transaction; a pass under way is followed by another."""
    with connection.cursor() as cursor:
        cursor.execute(_TOUCH, [kind, object_id, queue, after_s, _origin(), after_s <= 0])
    if after_s <= 0:
        _wake_on_commit(queue)


_TOUCH_NOW = """
INSERT INTO reconcile_workitem (kind, object_id, queue, due_at, holder, fence, nudged, attempts, origin)
SELECT kind, id, queue, clock_timestamp(), '', 0, false, 0, %s
FROM unnest(%s::text[], %s::text[], %s::text[]) AS target(kind, id, queue) ORDER BY kind, id
ON CONFLICT (kind, object_id) DO UPDATE SET
  due_at = LEAST(reconcile_workitem.due_at, EXCLUDED.due_at), nudged = true,
  origin = COALESCE(NULLIF(EXCLUDED.origin, ''), reconcile_workitem.origin)
"""


def touch_now(targets: Iterable[tuple[str, str, str]], *, along_with: Sequence[tuple[str, Sequence[Any]]] = ()) -> None:
    """Make these (kind, id, queue) due, as ``touch`` does, in one statement; in the caller's transaction.

    ``along_with``: (SQL, parameters) of further writes that go with it; none of them sees what the others wrote.
    """
    due, writes = sorted(set(targets)), list(along_with)
    if due:
        writes.append((_TOUCH_NOW, [_origin(), *(list(column) for column in zip(*due, strict=True))]))
    if not writes:
        return
    *before, (last, _) = writes
    parts = ", ".join(f"write_{number} AS ({sql})" for number, (sql, _) in enumerate(before))
    with connection.cursor() as cursor:
        cursor.execute(f"WITH {parts} {last}" if before else last, [value for _, values in writes for value in values])
    for queue in {queue for _, _, queue in due}:
        _wake_on_commit(queue)


def _origin() -> str:
    """Which request this goes back to, if it does to one: so that the logs of the passes name it."""
    return str(logs.context().get("request") or "")[:64]


_TOUCH_ALL = """
INSERT INTO reconcile_workitem (kind, object_id, queue, due_at, holder, fence, nudged, attempts)
SELECT %s, id, %s, clock_timestamp() + make_interval(secs => random() * %s), '', 0, false, 0
FROM unnest(%s::text[]) AS id ORDER BY id
ON CONFLICT (kind, object_id) DO UPDATE SET
  due_at = LEAST(reconcile_workitem.due_at, EXCLUDED.due_at),
  nudged = reconcile_workitem.nudged OR COALESCE(reconcile_workitem.leased_until > clock_timestamp(), false)
"""


def touch_all(kind: str, object_ids: Sequence[str], queue: str, *, spread_s: float = 0.0) -> None:
    """Make many due in one statement, each at a time of its own within ``spread_s``, in the caller's transaction.

    A pass under way is followed by another, whenever that one was due.
    """
    if not object_ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(_TOUCH_ALL, [kind, queue, spread_s, list(object_ids)])
    _wake_on_commit(queue)


class _Wake:
    """Wakes a queue when the transaction commits; a class, so that one that is registered already is known again."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def __call__(self) -> None:
        wake(self.queue)


def _wake_on_commit(queue: str) -> None:
    """One message for a queue and transaction: a plan with 10,000 instances is one wake-up, not 10,000."""
    here = set(connection.savepoint_ids)
    for saved, registered, *_ in connection.run_on_commit:
        # One that hangs on a savepoint which is closed by now could still go with it; ours would not.
        if isinstance(registered, _Wake) and registered.queue == queue and set(saved) <= here:
            return
    transaction.on_commit(_Wake(queue))


def forget(kind: str, object_id: str) -> None:
    """Take a resource that is gone out of the queue, with its conditions."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM reconcile_condition WHERE kind = %s AND object_id = %s", [kind, object_id])
        cursor.execute("DELETE FROM reconcile_workitem WHERE kind = %s AND object_id = %s", [kind, object_id])


# The advisory lock of an item is one 64-bit key: its number may be as large (touches use up numbers, too).
#: The candidates are chosen first, and only they are locked: a condition beside the others would be tried for
#: every due row, and 10,000 advisory locks are more than PostgreSQL's table of locks holds.
_CLAIM = """
WITH candidates AS MATERIALIZED (
  SELECT id FROM reconcile_workitem
  WHERE queue = ANY(%s) AND due_at <= clock_timestamp()
    AND (leased_until IS NULL OR leased_until < clock_timestamp())
  ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT %s),
taken AS MATERIALIZED (
  SELECT id FROM candidates WHERE pg_try_advisory_xact_lock((7077::bigint << 48) + id) LIMIT %s)
UPDATE reconcile_workitem SET fence = fence + 1, nudged = false, holder = %s,
  leased_until = clock_timestamp() + make_interval(secs => %s)
WHERE id IN (SELECT id FROM taken)
RETURNING id, kind, object_id, queue, fence, attempts, origin
"""
#: So many more candidates than wanted: some may be held by a pass whose lease ran out while it writes.
_SPARE = 16


def claim(queues: Sequence[str], *, holder: str, limit: int = 1, lease_s: float = LEASE_S) -> list[Lease]:
    """Lease up to ``limit`` due resources, the longest due first."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [list(queues), limit + _SPARE, limit, holder, lease_s])
        return [Lease(*row) for row in cursor.fetchall()]


def renew(lease: Lease, *, lease_s: float = LEASE_S) -> bool:
    """Hold it longer. False: it is lost."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE reconcile_workitem SET leased_until = clock_timestamp() + make_interval(secs => %s) "
            "WHERE id = %s AND fence = %s",
            [lease_s, lease.item_id, lease.fence],
        )
        return bool(cursor.rowcount == 1)


_RELEASE = """
UPDATE reconcile_workitem SET leased_until = NULL, holder = '', attempts = %s,
  origin = CASE WHEN nudged OR %s > 0 THEN origin ELSE '' END,
  due_at = clock_timestamp() + CASE WHEN nudged THEN interval '0' ELSE make_interval(secs => %s) END
WHERE id = %s AND fence = %s
RETURNING nudged
"""


def release(lease: Lease, *, after_s: float, attempts: int) -> bool:
    """Give it back, due again after ``after_s`` seconds, or now if it was touched meanwhile. False: it was lost."""
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, [attempts, attempts, max(0.0, after_s), lease.item_id, lease.fence])
        return bool(cursor.rowcount == 1)


# The second is a statement of its own, though sent with the first: its snapshot is taken when the lock is held, so it
# sees what was committed while that was waited for.
_HOLD = """
SELECT pg_advisory_xact_lock_shared((7077::bigint << 48) + %s);
SELECT 1 FROM reconcile_workitem WHERE id = %s AND fence = %s
"""


def hold(lease: Lease) -> None:
    """Inside a transaction: make sure that the lease is still ours until the commit, or raise ``LeaseLost``.

    An advisory lock keeps claims away, not a lock on the row: an instance's pass touches its node while the
    node's pass touches the instance, and with row locks those two would wait for each other.
    """
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, [lease.item_id, lease.item_id, lease.fence])
        cursor.nextset()
        if cursor.fetchone() is None:
            raise _lost(lease)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"{lease.kind} {lease.object_id}: fence {lease.fence} was overtaken")


@contextmanager
def holding(lease: Lease) -> Iterator[None]:
    """A transaction in which the lease is held, or ``LeaseLost`` and nothing is written; as ``hold`` in ``atomic``.

    It is held by the first statement within, in the same round trip: the statement is sent behind those of ``hold``,
    which the server runs before it; if the lease turns out to be lost, the transaction takes it back.
    """
    with transaction.atomic():
        first = _WithFirst(lease)
        with connection.execute_wrapper(first):
            yield
        if not first.held:
            hold(lease)


class _WithFirst:
    """Puts ``hold`` before the first statement that passes, and looks at its answer."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.held = lease, False

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if self.held:
            return execute(sql, params, many, context)
        self.held = True
        if many or isinstance(params, dict):
            hold(self.lease)
            return execute(sql, params, many, context)
        lease, cursor = self.lease, context["cursor"]
        rest = sql.replace("%", "%%") if params is None else sql
        result = execute(
            f"{_HOLD.rstrip()};\n{rest}", [lease.item_id, lease.item_id, lease.fence, *(params or ())], many, context
        )
        cursor.nextset()
        if cursor.fetchone() is None:
            raise _lost(lease)
        cursor.nextset()
        return result


def holders() -> list[str]:
    """Who holds a lease now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT holder FROM reconcile_workitem WHERE leased_until >= clock_timestamp()")
        return [row[0] for row in cursor.fetchall()]


def take_from(holder: str) -> int:
    """End all leases of a holder that is known to be dead; how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE reconcile_workitem SET leased_until = clock_timestamp(), due_at = LEAST(due_at, clock_timestamp()) "
            "WHERE holder = %s AND leased_until >= clock_timestamp()",
            [holder],
        )
        return int(cursor.rowcount)


def due_queues() -> list[str]:
    """The queues that have due, unleased work now."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT queue FROM reconcile_workitem WHERE due_at <= clock_timestamp() "
            "AND (leased_until IS NULL OR leased_until < clock_timestamp())"
        )
        return [row[0] for row in cursor.fetchall()]


def soonest_due_s(queues: Iterable[str]) -> float | None:
    """Seconds until the next unleased resource of these queues is due (0 or less: now); None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM min(GREATEST(due_at, COALESCE(leased_until, due_at))) - clock_timestamp()) "
            "FROM reconcile_workitem WHERE queue = ANY(%s)",
            [list(queues)],
        )
        row = cursor.fetchone()
    return None if row is None or row[0] is None else float(row[0])
