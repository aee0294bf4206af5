"""The prober's loop: rounds and walks at their times, results into states, everything written in batches.

One event loop and one database thread, however many instances. While the database is away rounds go on and their
results wait; while the prober is cut off results are thrown away.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, InterfaceError

from controlplane import observing
from controlplane.monitoring import causes, partitions, states
from controlplane.monitoring.models import CheckState, Sample
from controlplane.monitoring.prober import records, subjects
from controlplane.monitoring.prober.database import DatabaseThread
from controlplane.monitoring.prober.references import Reference, References, Standing
from controlplane.monitoring.prober.schedule import CHEAP, Course, Pace, Schedule
from controlplane.monitoring.states import Observation, State
from controlplane.probes.clock import describe
from controlplane.probes.quick import CLOCK, Quick, Result, turn_answers
from controlplane.probes.walk import WalkReport, walk_along
from controlplane.values.errors import RoostError

log = logging.getLogger(__name__)

RELOAD_S, FLUSH_S, STANDING_S, KEEP_S = 5.0, 1.0, 10.0, 300.0
#: How old the trusted roots and the references may be; the first while a chain is not trusted.
FRESH_ROOTS_S, WORLD_S = 2.0, 60.0
#: How old a look at the references may be when a failure is to count.
FRESH_S = 3.0
#: So many samples wait at most while the database is away; then the oldest go.
MOST_WAITING = 50_000
#: A state in which nothing changes is written so often, for ``last_at``.
REFRESH_S = 120.0
#: The TURN server is shared by all: it is asked so often at most.
TURN_S = 5.0
QUICK = "quick"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is looked at with, and may change while the prober runs: trusted roots (PEM), references."""

    roots_pem: str | None
    references: tuple[Reference, ...]


class Prober:
    """One prober: ``place``, ``shard`` of ``shards``. ``turn``: (host, port) of the shared TURN server, or None.

    ``world``: asked in the database thread every minute, and at once when a chain is not trusted.
    """

    def __init__(
        self,
        place: str,
        shard: int,
        shards: int,
        *,
        quick: Quick,
        references: References,
        pace: Pace,
        database: DatabaseThread | None = None,
        world: Callable[[], Surroundings] | None = None,
        turn: tuple[str, int] | None = None,
        at_once: int = 100,
        walks_at_once: int = 4,
        clock_s: float = 60.0,
    ) -> None:
        self.place, self.shard, self.shards = place, shard, shards
        self.rounds = self.walks = 0
        self._quick, self._references, self._turn, self._clock_s = quick, references, turn, clock_s
        self._schedule = Schedule(pace)
        self._database = database or DatabaseThread()
        self._world, self._world_at, self._world_lock = world, time.monotonic(), asyncio.Lock()
        self._states: dict[tuple[str, str], State] = {}
        self._written: dict[tuple[str, str], float] = {}
        self._dirty: set[tuple[str, str]] = set()
        self._samples: list[Sample] = []
        self._judge: set[str] = set()
        self._turned: set[str] = set()
        self._full_due: dict[int, datetime.datetime] = {}
        self._rounds, self._walks = asyncio.Semaphore(at_once), asyncio.Semaphore(walks_at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn_seen: tuple[float, bool] = (float("-inf"), True)
        self._turn_lock = asyncio.Lock()
        self._offset_s = 0.0  # the database's clock is so much ahead

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; then what has come together is written, if the database is there."""
        await self._begin(stop)
        loops = [
            self._every(RELOAD_S, self._reload),
            self._every(FLUSH_S, self._flush),
            self._every(STANDING_S, self._say_standing),
            self._every(KEEP_S, lambda: self._database.call(partitions.keep)),
            self._every(STANDING_S, self._judge_again),
            self._every(WORLD_S / 4, lambda: self._renew_world(WORLD_S)),
            self._dispatch(),
        ]
        tasks = [asyncio.create_task(one) for one in loops]
        try:
            await stop.wait()
        finally:
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            try:
                await asyncio.wait_for(self._flush(), 1.0)
            except (TimeoutError, DatabaseError, InterfaceError):
                log.warning("what was measured last could not be written")
            self._references.close()
            self._quick.asker.close()
            self._database.close()

    async def _begin(self, stop: asyncio.Event) -> None:
        """Partitions, and the states as they were left."""
        while not stop.is_set():
            try:
                await self._database.call(partitions.keep)
                self._states = await self._database.call(subjects.states_of, self.place, self.shard, self.shards)
                return
            except (DatabaseError, InterfaceError) as error:
                log.warning("the database does not answer: %s", str(error).strip())
                await asyncio.sleep(0.5)

    async def _every(self, seconds: float, do: Callable[[], Any]) -> None:
        while True:
            began = time.monotonic()
            try:
                await do()
            except (DatabaseError, InterfaceError) as error:
                log.warning("the database does not answer: %s", str(error).strip())
            except Exception:
                log.exception("a part of the prober failed and will be tried again")
            await asyncio.sleep(max(0.1, seconds - (time.monotonic() - began)))

    # -- whom, and how this prober itself is

    async def _reload(self) -> None:
        loop = asyncio.get_running_loop()
        targets = await self._database.call(subjects.load, self.place, self.shard, self.shards)
        for key in self._schedule.update(targets, loop.time(), time.time() + self._offset_s):
            for name in [name for name in self._states if name[0] == key]:
                del self._states[name]
                self._written.pop(name, None)
                self._dirty.discard(name)

    async def _renew_world(self, max_age_s: float) -> None:
        """A CA may get another root, and edges come and go; what cannot be read now stays as it was."""
        async with self._world_lock:
            if self._world is None or time.monotonic() - self._world_at <= max_age_s:
                return
            try:
                world: Surroundings = await self._database.call(self._world)
            except RoostError as error:
                log.warning("roots and references stay as they were: %s", error)
                return
            self._world_at = time.monotonic()
            self._quick.roots_pem, self._references.references = world.roots_pem, world.references

    async def _say_standing(self) -> None:
        began, before = time.time(), time.monotonic()
        now: datetime.datetime = await self._database.call(records.database_now)
        self._offset_s = now.timestamp() - began - (time.monotonic() - before) / 2
        self._references.database_off_s = self._offset_s
        standing = await self._references.standing(max_age_s=FRESH_S)
        await self._database.call(records.say_standing, self.place, self.shard, self.shards, standing)

    async def _judge_again(self) -> None:
        """Places come and go, maintenance ends: what is down is judged again although nothing turned."""
        keys = await self._database.call(states.doubtful)
        self._judge |= {key for key in keys if states.shard_of(key, self.shards) == self.shard}

    # -- rounds

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for course, what in self._schedule.due(loop.time()):
                task = asyncio.create_task(self._take(course, what))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            soonest = self._schedule.next_at()
            await asyncio.sleep(min(0.5, max(0.02, soonest - loop.time())) if soonest is not None else 0.5)

    async def _take(self, course: Course, what: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            if what == CHEAP:
                async with self._rounds:
                    await self._cheap(course)
            else:
                async with self._walks:
                    await self._full(course)
        except (DatabaseError, InterfaceError):
            self._schedule.later(course, loop.time(), self._schedule.pace.retry_s)
        except Exception:
            log.exception("a look at %s failed", course.target.key)
            self._schedule.later(course, loop.time(), self._schedule.pace.cheap_s)

    async def _cheap(self, course: Course) -> None:
        loop, key = asyncio.get_running_loop(), course.target.key
        roots = self._quick.roots_pem
        seen = await self._quick.look(course.target.quick, number=course.number, thorough=course.thorough)
        self.rounds += 1
        results = [*seen.results]
        if seen.clock_off_s is not None:
            results.append(self._clock(seen.clock_off_s))
        if self._turn is not None and await self._turn_is_away(self._turn):
            shown = f"{self._turn[0]}:{self._turn[1]}"
            results.append(Result("turn", False, 0.0, "TurnUnreachable", f"The TURN server {shown} does not answer."))
        if not all(result.ok for result in results):
            standing = await self._references.standing(max_age_s=FRESH_S)
            if not standing.may_judge:
                self._schedule.later(course, loop.time(), self._schedule.pace.retry_s)
                return
            if any(result.cause == "CertificateNotTrusted" for result in results):
                await self._renew_world(FRESH_ROOTS_S)
                if self._quick.roots_pem != roots:  # it was looked at with others than count now
                    self._schedule.later(course, loop.time(), 0.5)
                    return
            if any(result.cause == "WrongCertificate" for result in results) and not await self._still(course):
                self._schedule.later(course, loop.time(), 1.0)
                return
        self._sample(key, QUICK, seen.ok, sum(r.duration_s for r in seen.results), self._first_words(seen.results))
        self._measured("cheap", results)
        self._note(course, results)
        known = [state for check in causes.CHEAP if (state := self._states.get((key, check)))]
        # Others are not for a cheap round to find well again, but a doubt about them is soon looked at again.
        doubt = any(not r.ok and self._states[key, r.check].state != CheckState.DOWN for r in results)
        self._schedule.cheap_done(
            course,
            loop.time(),
            well=not doubt and all(state.settled_up for state in known),
            down=not doubt and any(state.state == CheckState.DOWN for state in known),
        )

    async def _still(self, course: Course) -> bool:
        """Whether the certificate that was expected is still the one: it may have been renewed meanwhile."""
        serial = await self._database.call(subjects.fresh_serial, course.target.pk)
        return serial is not None and serial == course.target.quick.serial

    def _clock(self, off_s: float) -> Result:
        if abs(off_s) <= self._clock_s:
            return Result(CLOCK, True, 0.0)
        words = f"The server's clock is {describe(off_s)}, as its web answers say."
        return Result(CLOCK, False, 0.0, "ClockOff", words)

    async def _turn_is_away(self, turn: tuple[str, int]) -> bool:
        """The shared TURN server's answer, asked for once for all; False if its address is not known."""
        async with self._turn_lock:
            at, answers = self._turn_seen
            if asyncio.get_running_loop().time() - at > TURN_S:
                try:
                    found = await self._quick.asker.ask(turn[0], "A") or await self._quick.asker.ask(turn[0], "AAAA")
                except RoostError:
                    found = []
                answers = not found or await turn_answers(str(found[0].address), turn[1])
                self._turn_seen = (asyncio.get_running_loop().time(), answers)
            return not answers

    async def _full(self, course: Course) -> None:
        loop, key = asyncio.get_running_loop(), course.target.key
        subject = await self._database.call(subjects.walk_subject, course.target.pk)
        if subject is None:
            self._schedule.later(course, loop.time(), self._schedule.pace.cheap_s)
            return
        report = await walk_along(subject)
        self.walks += 1
        failed = bool(report.failures)
        if failed and not (await self._references.standing(max_age_s=FRESH_S)).may_judge:
            self._schedule.later(course, loop.time(), self._schedule.pace.retry_s)
            return
        results = list(_results(report))
        self._measured("walk", results)
        for result in results:
            self._sample(key, result.check, result.ok, result.duration_s, result.message)
        self._note(course, results)
        well = all(state.settled_up for (owner, _), state in self._mine(key))
        self._schedule.full_done(course, loop.time(), well=well, failed=failed)
        self._full_due[course.target.pk] = self._now() + datetime.timedelta(seconds=course.full_at - loop.time())

    def _measured(self, round: str, results: Iterable[Result]) -> None:
        """For the metrics: what each check took, and how the round ended."""
        ok = True
        for result in results:
            ok = ok and result.ok
            observing.observed(
                "probe.look", result.duration_s, check=result.check, result="ok" if result.ok else result.cause
            )
        observing.observed("probe.round", place=self.place, round=round, result="ok" if ok else "failed")

    def _mine(self, key: str) -> Iterable[tuple[tuple[str, str], State]]:
        names = (*causes.NEEDS,)
        return [((key, name), self._states[key, name]) for name in names if (key, name) in self._states]

    # -- results

    def _note(self, course: Course, results: Iterable[Result]) -> None:
        """Results into states; a state that turned is judged with the next batch, and its walk comes at once."""
        key, now = course.target.key, self._now()
        down_after, up_after = states.thresholds()
        for result in results:
            name = (key, result.check)
            state = self._states.setdefault(name, State())
            before = (state.streak, state.cause)
            was = state.state
            seen = Observation(
                result.check, result.ok, now, result.duration_s * 1000, result.cause, result.message[:2000]
            )
            turned = states.advance(state, seen, down_after=down_after, up_after=up_after)
            if not result.ok and result.check in causes.CHEAP:
                self._sample(key, result.check, False, result.duration_s, result.message)
            if turned and not (result.ok and was == CheckState.UNKNOWN):  # it was always well, as far as is known
                log.info("%s: %s is %s: %s %s", key, result.check, state.state, state.cause, state.message)
                self._judge.add(key)
                self._turned.add(key)
                # What works again is proven by a walk, and so is what only a walk can find well again.
                if result.ok == (result.check in causes.CHEAP):
                    self._schedule.walk_soon(course, asyncio.get_running_loop().time())
            if turned or before != (state.streak, state.cause) or self._is_stale(name):
                self._dirty.add(name)
                if state.state == CheckState.DOWN and before[1] != state.cause:
                    self._judge.add(key)

    def _is_stale(self, name: tuple[str, str]) -> bool:
        return time.monotonic() - self._written.get(name, float("-inf")) > REFRESH_S

    def _sample(self, key: str, check: str, ok: bool, duration_s: float, message: str) -> None:
        self._samples.append(
            Sample(
                at=self._now(),
                instance_key=key,
                check_name=check,
                place=self.place,
                ok=ok,
                duration_ms=duration_s * 1000,
                message="" if ok else message[:500],
            )
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(time.time() + self._offset_s, datetime.UTC)

    @staticmethod
    def _first_words(results: Iterable[Result]) -> str:
        return next((result.message for result in results if not result.ok), "")

    async def _flush(self) -> None:
        """Write what there is; on failure it stays for the next time."""
        observing.beat("prober")
        if not (self._samples or self._dirty or self._judge):
            return
        pks = {key: course.target.pk for key, course in self._schedule.courses.items()}
        samples, dirty = self._samples, {name for name in self._dirty if name[0] in pks}
        judge, turned, full_due = self._judge, self._turned, self._full_due
        self._samples, self._dirty, self._judge, self._turned, self._full_due = [], set(), set(), set(), {}
        batch = records.Batch(
            samples,
            {(pks[key], check): _copy(self._states[key, check]) for key, check in dirty},
            frozenset(judge),
            frozenset(turned),
            full_due,
        )
        try:
            await self._database.call(records.write, self.place, batch)
        except BaseException:
            self._samples = (samples + self._samples)[-MOST_WAITING:]
            self._dirty |= dirty
            self._judge |= judge
            self._turned |= turned
            self._full_due = {**full_due, **self._full_due}
            raise
        now = time.monotonic()
        self._written.update(dict.fromkeys(dirty, now))


def _copy(state: State) -> State:
    """As it is now: the database thread reads it while the loop goes on."""
    return State(
        state.state,
        state.since,
        state.streak,
        state.first_against_at,
        state.last_at,
        state.last_ok_at,
        state.duration_ms,
        state.cause,
        state.message,
    )


def _results(report: WalkReport) -> Iterable[Result]:
    """The walk's steps as results; steps that could not run or do not apply say nothing."""
    for step in report:
        if step.skipped:
            continue
        check = causes.STEP_CHECKS.get(step.name, step.name)
        cause = "" if step.ok else causes.of_step(step)
        yield Result(check, step.ok, step.duration_s, cause, "" if step.ok else step.message)


__all__ = ["Prober", "Standing", "Surroundings"]
