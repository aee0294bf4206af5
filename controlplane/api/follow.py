"""Following the history: a long poll and server-sent events, both bounded, on plain threads.

A follower holds a thread while it waits, so their number per process is bounded: a poll beyond it is answered
at once, a stream beyond it is refused with the time to come back.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from django.db.models import QuerySet
from rest_framework.renderers import JSONRenderer

from controlplane.api.problems import TooManyFollowers
from controlplane.reconcile import history
from controlplane.reconcile.history import Cursor
from controlplane.reconcile.models import Event

MAX_WAIT_S = 30
MAX_STREAM_S = 300
LOOK_EVERY_S = 0.5
KEEPALIVE_S = 15
#: Of the web process's threads, how many may wait at a time.
MAX_FOLLOWERS = 8

Show = Callable[[Event], dict[str, Any]]
_places = threading.BoundedSemaphore(MAX_FOLLOWERS)


@contextmanager
def place() -> Iterator[bool]:
    """One of the places to wait in; False if all are taken."""
    got = _places.acquire(blocking=False)
    try:
        yield got
    finally:
        if got:
            _places.release()


def poll(cursor: Cursor, rows: QuerySet[Event], *, wait_s: float, limit: int) -> list[Event]:
    """Events behind the cursor; waits up to ``wait_s`` seconds for the first one."""
    found = list(history.after(cursor, rows)[:limit])
    if found or wait_s <= 0:
        return found
    with place() as got:
        end = time.monotonic() + wait_s
        while got and not found and time.monotonic() < end:
            time.sleep(min(LOOK_EVERY_S, max(0.01, end - time.monotonic())))
            found = list(history.after(cursor, rows)[:limit])
    return found


def newest(rows: QuerySet[Event]) -> Cursor:
    """The cursor behind everything that is there now."""
    last = history.after(Cursor(), rows).reverse().first()
    return Cursor.of(last) if last is not None else Cursor()


class Stream:
    """Server-sent events (WHATWG HTML §9.2): ``id`` is the cursor, ``event`` the type. Ends after ``seconds``.

    Holds a place from its making until ``close``, which the web server calls in any case, also when the client
    has gone before the first byte; so it is a class and not a generator, whose ``finally`` would not run then.
    """

    def __init__(self, cursor: Cursor, rows: QuerySet[Event], *, seconds: float, show: Show) -> None:
        self._held = _places.acquire(blocking=False)
        if not self._held:
            raise TooManyFollowers
        self._chunks = _chunks(cursor, rows, seconds, show)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Give the place back, once."""
        held, self._held = self._held, False
        self._chunks.close()
        if held:
            _places.release()


def _chunks(cursor: Cursor, rows: QuerySet[Event], seconds: float, show: Show) -> Generator[bytes, None, None]:
    end = time.monotonic() + seconds
    spoken = time.monotonic()
    yield b"retry: 2000\n\n"
    while True:
        found = list(history.after(cursor, rows)[:200])
        for row in found:
            cursor = Cursor.of(row)
            yield _message(str(cursor), row.type, show(row))
        now = time.monotonic()
        if found:
            spoken = now
        elif now - spoken >= KEEPALIVE_S:
            yield b": still here\n\n"
            spoken = now
        if now >= end:
            return
        if not found:
            time.sleep(LOOK_EVERY_S)


def _message(id_: str, event: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(json.loads(JSONRenderer().render(body)), ensure_ascii=True)
    return f"id: {id_}\nevent: {event}\ndata: {data}\n\n".encode()
