"""Counts facts and compares the counts: the difference of two instances, or of one now and then, for drills and tests.

It keeps numbers and keyed digests and no content, so that it may lie outside of a backup, and works on disk, so that
memory stays flat whatever there is.
"""

from __future__ import annotations

import hashlib
import heapq
import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.portable.facts import Fact
from controlplane.values.errors import InvalidInput

#: Kinds that a tally made with ``rolled`` keeps a row a day of, for they have millions.
ROLLED = frozenset({"user message", "room message"})
_FLUSH = 20_000
_SUM = 1 << 256


@dataclass(frozen=True, slots=True)
class Difference:
    """``left`` and ``right``: how many each side has under that name. Alike, but different: "changed"."""

    kind: str
    owner: str
    what: str
    left: int
    right: int

    @property
    def verdict(self) -> str:
        return "missing" if not self.right else "added" if not self.left else "changed"


class Tally:
    """How many there are of what, and a digest of their values that does not depend on their order.

    On disk at ``path`` (SQLite; a temporary file without), so memory is flat. ``key``: of the digests, so that nobody
    without it can try values. ``rolled``: keep a row a day for messages, 100 bytes or so, and not one a message. Two
    tallies are compared only if they have the same key and the same ``rolled``.
    """

    def __init__(self, path: Path | None = None, *, key: bytes = b"", rolled: bool = False) -> None:
        self._temporary = tempfile.NamedTemporaryFile(suffix=".sqlite") if path is None else None  # noqa: SIM115
        self._database = sqlite3.connect(self._temporary.name if self._temporary is not None else str(path))
        if self._temporary is not None:  # nothing of it has to outlast this program
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
        self._key, self._rolled = key[:64], rolled
        self._new: dict[tuple[str, str, str], tuple[int, int]] = {}
        check = hashlib.blake2b(b"Roost", key=self._key, digest_size=8).hexdigest() + str(int(rolled))
        with self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS made (word TEXT)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS facts (kind TEXT, owner TEXT, what TEXT, count INTEGER, sum BLOB,"
                " PRIMARY KEY (kind, owner, what)) WITHOUT ROWID"
            )
            made = self._database.execute("SELECT word FROM made").fetchone()
            if made is None:
                self._database.execute("INSERT INTO made VALUES (?)", (check,))
            elif made[0] != check:
                raise InvalidInput("tally", "The tally was made with another key, or in another way.")
        self._check = check

    def add(self, facts: Iterable[Fact]) -> None:
        """Counts them."""
        for fact in facts:
            what = fact.day if self._rolled and fact.kind in ROLLED else fact.what
            named = fact.what if self._rolled and fact.kind in ROLLED else ""
            value = f"{named}\0{fact.value}".encode("utf-8", "surrogatepass")
            digest = int.from_bytes(hashlib.blake2b(value, key=self._key, digest_size=32).digest())
            at = (fact.kind, fact.owner, what)
            count, total = self._new.get(at, (0, 0))
            self._new[at] = count + 1, (total + digest) % _SUM
            if len(self._new) >= _FLUSH:
                self.flush()

    def flush(self) -> None:
        """Writes what is held in memory."""
        with self._database:
            for at, (count, total) in self._new.items():
                old = self._database.execute(
                    "SELECT count, sum FROM facts WHERE kind=? AND owner=? AND what=?", at
                ).fetchone()
                if old is not None:
                    count, total = count + old[0], (total + int.from_bytes(old[1])) % _SUM
                self._database.execute(
                    "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", (*at, count, total.to_bytes(32))
                )
        self._new.clear()

    def counts(self) -> dict[str, int]:
        """Kind to number."""
        self.flush()
        return dict(self._database.execute("SELECT kind, sum(count) FROM facts GROUP BY kind ORDER BY kind"))

    def _rows(self, side: int) -> Iterator[tuple[Any, ...]]:
        query = "SELECT kind, owner, what, count, sum FROM facts ORDER BY kind, owner, what"
        for kind, owner, what, count, total in self._database.execute(query):
            yield (kind.encode(), owner.encode(), what.encode()), side, count, total

    def differences(self, other: Tally, *, kinds: Collection[str] | None = None) -> Iterator[Difference]:
        """What ``other`` (right) has not as this (left) has it. Empty means equal, but for one chance in 2^256.

        ``kinds``: only these, for a reader that cannot see the rest.
        """
        if self._check != other._check:
            raise InvalidInput("tally", "The tallies were made with different keys, or in different ways.")
        self.flush()
        other.flush()
        rows = heapq.merge(self._rows(0), other._rows(1), key=lambda row: row[:2])
        before: tuple[Any, ...] | None = None
        for row in rows:
            if before is None or before[0] != row[0]:
                yield from _unmatched(before, kinds)
                before = row
                continue
            if before[2:] != row[2:]:
                yield from _difference(row[0], before[2], row[2], kinds)
            before = None
        yield from _unmatched(before, kinds)

    def close(self) -> None:
        self.flush()
        self._database.close()
        if self._temporary is not None:
            self._temporary.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _unmatched(row: tuple[Any, ...] | None, kinds: Collection[str] | None) -> Iterator[Difference]:
    if row is not None:
        left, right = (row[2], 0) if row[1] == 0 else (0, row[2])
        yield from _difference(row[0], left, right, kinds)


def _difference(
    at: tuple[bytes, bytes, bytes], left: int, right: int, kinds: Collection[str] | None
) -> Iterator[Difference]:
    kind, owner, what = (word.decode() for word in at)
    if kinds is None or kind in kinds:
        yield Difference(kind, owner, what, left, right)
