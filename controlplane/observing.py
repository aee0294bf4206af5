"""Measurements on their way from all floors to whoever listens: a name, a number, a few labels. Nothing is kept here.

Those below say what they saw and know no listener; ``controlplane.metrics`` registers one when a process starts. Labels
are from small sets (kinds, steps, causes): never a tenant, an address or a message.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger(__name__)

Listener = Callable[[str, float, Mapping[str, str]], None]
_listeners: list[Listener] = []
_beats: dict[str, float] = {}


def listen(listener: Listener) -> None:
    """Have ``listener(what, value, labels)`` called for every measurement of this process."""
    if listener not in _listeners:
        _listeners.append(listener)


def observed(what: str, value: float = 1.0, /, **labels: str) -> None:
    """Say a measurement. A listener that fails is logged, and never the caller's trouble."""
    for listener in _listeners:
        try:
            listener(what, value, labels)
        except Exception:
            log.exception("%s was not taken down", what)


@contextlib.contextmanager
def timed(what: str, /, **labels: str) -> Iterator[dict[str, str]]:
    """Say how many seconds the body took, also when it fails. It may add labels to what it is given."""
    said = dict(labels)
    started = time.perf_counter()
    try:
        yield said
    finally:
        observed(what, time.perf_counter() - started, **said)


def beat(part: str) -> None:
    """A part of this process that goes round has come round again."""
    _beats[part] = time.monotonic()


def beats() -> dict[str, float]:
    """Part -> seconds since it came round."""
    now = time.monotonic()
    return {part: now - at for part, at in _beats.items()}
