"""One fault from its beginning to its end, as the database tells it: incident, timeline, notices, seconds.

``tell`` breaks something, waits for the incident, lets Roost heal it or mends it itself where Roost cannot, and
waits for the end. Whether the story is the right one is asserted by the tests; the faults are in ``noticed_faults``.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.stack.live import Live, until

#: Three looks and their doubts, on two cores that others use too: only what would never come is given up.
NOTICED_S = 180.0
NAMED_S = 60.0
TOLD_S = 120.0
ENDED_S = 240.0
KEEP_S = 0.3


@dataclass(frozen=True)
class Fault:
    """What is broken and how. ``subject``: the incident's, a regular expression.

    ``keep``: done again and again until it is noticed, where something else mends it at once. ``mend``: what undoes
    it, where Roost cannot; None where Roost has to. ``clean``: done at the end in any case; safe to do twice.
    """

    name: str
    subject: str
    causes: frozenset[str]
    begin: Callable[[], None]
    keep: Callable[[], None] | None = None
    mend: Callable[[], None] | None = None
    clean: Callable[[], None] = lambda: None


@dataclass
class Story:
    """What became of it; seconds from the moment it was broken, and from the moment it was mended."""

    fault: Fault
    key: str = ""
    domain: str = ""
    cause: str = ""
    title: str = ""
    entries: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    noticed_s: float = 0.0
    healed_s: float | None = None
    cleared_s: float | None = None

    @property
    def row(self) -> str:
        healed = f"{self.healed_s:8.1f}" if self.healed_s is not None else "       -"
        cleared = f"{self.cleared_s:8.1f}" if self.cleared_s is not None else "       -"
        return f"{self.fault.name:34} {self.noticed_s:8.1f} {healed} {cleared}  {self.cause}"


HEAD = f"{'fault':34} {'noticed':>8} {'healed':>8} {'cleared':>8}  cause (seconds; cleared: after it was mended)"


def now_of(live: Live) -> datetime.datetime:
    ((now,),) = live.rows("SELECT clock_timestamp()")
    assert isinstance(now, datetime.datetime)
    return now


def tell(live: Live, fault: Fault) -> Story:
    story = Story(fault)
    ((last,),) = live.rows("SELECT coalesce(max(id), 0) FROM monitoring_incident")
    began = mended = now_of(live)
    try:
        with kept(fault.keep):
            fault.begin()
            began = mended = now_of(live)
            until(lambda: _find(live, story, int(last)), f"{fault.name}: an incident opens", timeout_s=NOTICED_S)
        story.noticed_s = (_time(live, story, "noticed_at") - began).total_seconds()
        with contextlib.suppress(AssertionError):  # the test says what it was called
            until(
                lambda: _cause(live, story) in fault.causes, f"{fault.name}: it has its right name", timeout_s=NAMED_S
            )
        if fault.mend is not None:
            # What Roost cannot heal has been told to somebody before anybody mends it.
            until(lambda: _notices(live, story), f"{fault.name}: somebody is told", timeout_s=TOLD_S)
            fault.mend()
            mended = now_of(live)
        until(lambda: _time(live, story, "ended_at"), f"{fault.name}: {story.key} ends by itself", timeout_s=ENDED_S)
        lasted_s = (_time(live, story, "ended_at") - mended).total_seconds()
        if fault.mend is None:
            story.healed_s = lasted_s
        else:
            story.cleared_s = lasted_s
    finally:
        fault.clean()
        if story.key:
            _read(live, story)
    return story


@contextlib.contextmanager
def kept(do: Callable[[], None] | None) -> Iterator[None]:
    """``do`` again and again meanwhile."""
    if do is None:
        yield
        return
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(KEEP_S):
            with contextlib.suppress(OSError):
                do()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def _find(live: Live, story: Story, after: int) -> bool:
    time.sleep(0.2)  # several ask at once, and each question is a connection
    found = live.rows(
        "SELECT key, cause, title FROM monitoring_incident WHERE id > %s AND subject ~ %s ORDER BY id LIMIT 1",
        after,
        story.fault.subject,
    )
    if found:
        story.key, story.cause, story.title = (str(word) for word in found[0])
    return bool(found)


def _cause(live: Live, story: Story) -> str:
    """What it is called now. From outside a full disk looks like several other things for a moment."""
    time.sleep(0.2)
    ((story.cause, story.title),) = live.rows("SELECT cause, title FROM monitoring_incident WHERE key = %s", story.key)
    return story.cause


def _time(live: Live, story: Story, column: str) -> datetime.datetime:
    time.sleep(0.2)
    ((at,),) = live.rows(f"SELECT {column} FROM monitoring_incident WHERE key = %s", story.key)
    return at  # type: ignore[no-any-return]  # None while it is open


def _notices(live: Live, story: Story) -> list[str]:
    """Events that were taken by the receiver."""
    time.sleep(0.2)
    return [
        str(event)
        for (event,) in live.rows(
            "SELECT n.event FROM monitoring_notice n JOIN monitoring_incident i ON i.id = n.incident_id "
            "WHERE i.key = %s AND n.sent_at IS NOT NULL ORDER BY n.id",
            story.key,
        )
    ]


def _read(live: Live, story: Story) -> None:
    seen = live.api.get(f"incidents/{story.key}/")
    story.domain = seen.get("domain") or ""
    story.entries = [
        (str(type), str(message))
        for type, message in live.rows(
            "SELECT e.type, e.message FROM monitoring_incidententry e "
            "JOIN monitoring_incident i ON i.id = e.incident_id WHERE i.key = %s ORDER BY e.id",
            story.key,
        )
    ]
    with contextlib.suppress(AssertionError):
        until(lambda: "incident.ended" in _notices(live, story), "the end is told", timeout_s=TOLD_S)
    story.notices = _notices(live, story)
