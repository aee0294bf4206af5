"""When each instance is looked at next: spread by jitter, sooner after a doubt, no walk while a cheap check fails.

Arithmetic over what it is told; it knows neither clock nor network nor database.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from controlplane.monitoring.prober.subjects import Target

#: While a check stays down its next look comes this many times later than after a first doubt.
DOWN_FACTOR = 2.0
#: Walks cost more: after a failing one the next comes so many retries later.
WALK_FACTOR = 3.0
CHEAP, FULL = "cheap", "full"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. ``cheap_s``, ``full_s``: between rounds that find all well; ``retry_s``: after a doubt."""

    cheap_s: float = 30.0
    full_s: float = 600.0
    retry_s: float = 5.0


@dataclass(slots=True)
class Course:
    """One instance's times. ``number`` counts its cheap rounds, from an arbitrary begin."""

    target: Target
    number: int
    cheap_at: float
    full_at: float
    thorough: bool = True  # the first round looks at everything
    busy: bool = False


@dataclass(slots=True)
class Schedule:
    """All courses of a prober, in the seconds of the event loop's clock."""

    pace: Pace
    courses: dict[str, Course] = field(default_factory=dict)
    _heap: list[tuple[float, str]] = field(default_factory=list)

    def update(self, targets: dict[str, Target], now: float, wall: float) -> list[str]:
        """Take over who is to be looked at; returns those that left. ``wall``: Unix seconds, for ``full_due_at``."""
        left = [key for key in self.courses if key not in targets]
        for key in left:
            del self.courses[key]
        for key, target in targets.items():
            course = self.courses.get(key)
            if course is None:
                wait_s = max(0.0, target.full_due_at.timestamp() - wall)
                spread_s = random.random() * min(self.pace.full_s, 10 * self.pace.cheap_s)
                course = Course(
                    target,
                    random.randrange(6000),
                    now + random.random() * self.pace.cheap_s,
                    now + max(min(wait_s, self.pace.full_s), spread_s),
                )
                self.courses[key] = course
                self._push(course)
            course.target = target
            if target.asked:
                course.cheap_at = course.full_at = now
                course.thorough = True
                self._push(course)
        return left

    def due(self, now: float) -> list[tuple[Course, str]]:
        """Courses whose time has come and that are not under way: marked busy, with what is to be done."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            course = self.courses.get(key)
            if course is None or course.busy:
                continue
            what = CHEAP if course.cheap_at <= now else FULL if course.full_at <= now else ""
            if not what:
                self._push(course)
                continue
            course.busy = True
            found.append((course, what))
        return found

    def next_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def cheap_done(self, course: Course, now: float, *, well: bool, down: bool) -> None:
        """``well``: all its cheap checks are up without a doubt; ``down``: one of them is down."""
        course.number += 1
        course.thorough = not well
        if well:
            course.cheap_at = now + self.pace.cheap_s * (0.9 + random.random() / 5)
        else:
            course.cheap_at = now + self.pace.retry_s * (DOWN_FACTOR if down else 1.0) * (0.9 + random.random() / 5)
            # A walk would only say the same in more words.
            course.full_at = max(course.full_at, course.cheap_at)
        self.free(course)

    def full_done(self, course: Course, now: float, *, well: bool, failed: bool) -> None:
        """``well``: all its checks are up without a doubt; ``failed``: this walk found something itself."""
        after_s = self.pace.full_s if well else self.pace.retry_s * WALK_FACTOR
        course.full_at = now + after_s * (0.9 + random.random() / 5)
        if failed:  # perhaps a cheap round can name it
            course.thorough, course.cheap_at = True, now
        self.free(course)

    def walk_soon(self, course: Course, now: float) -> None:
        """A walk has to prove something: it does not wait for its usual time."""
        course.full_at = min(course.full_at, now + self.pace.retry_s)

    def later(self, course: Course, now: float, after_s: float) -> None:
        """Nothing came of it: the same again after so many seconds."""
        course.cheap_at = max(course.cheap_at, now + after_s)
        course.full_at = max(course.full_at, now + after_s)
        self.free(course)

    def free(self, course: Course) -> None:
        course.busy = False
        if self.courses.get(course.target.key) is course:
            self._push(course)

    def _push(self, course: Course) -> None:
        heapq.heappush(self._heap, (min(course.cheap_at, course.full_at), course.target.key))
