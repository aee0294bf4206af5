"""What the doctor says of one part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

GOOD, DOUBT, WRONG = "good", "doubt", "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """``part``: such as ``database``. ``level``: ``GOOD``, ``DOUBT`` (it works, and should not stay so) or ``WRONG``.

    ``remedy``: what a person does about it; empty only where all is good.
    """

    part: str
    level: str
    said: str
    remedy: str = ""


#: A look at one part: it gives its findings, or raises what it meets (``examine`` words that).
Look = Callable[[], Iterator[Finding]]


def good(part: str, said: str) -> Finding:
    return Finding(part, GOOD, said)


def doubt(part: str, said: str, remedy: str) -> Finding:
    return Finding(part, DOUBT, said, remedy)


def wrong(part: str, said: str, remedy: str) -> Finding:
    return Finding(part, WRONG, said, remedy)
