"""What an import would do, found out beforehand: a file's items beside what the engine has. No Django.

A walk over the whole file in flat memory; of accounts and rooms that are there already, each piece is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controlplane.drivers.engine.base import PortableControl
from controlplane.portable import facts
from controlplane.portable.items import ArchivePage, FileRead, Item, NotCarried, RoomRead, UserRead
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.names import Localpart
from controlplane.values.spec import PROBE_ACCOUNT

#: Of names and of words, as many are told; all are counted.
MOST_TOLD = 200
PAGE = 500


def of_host(items: Iterable[Item], host: str, components: frozenset[str] = frozenset()) -> Iterator[Item]:
    """Those of one host, and of its components (or of none that is told); what is of another is not carried."""
    told: set[str] = set()
    for item in items:
        if isinstance(item, NotCarried) or not item.host or item.host == host or item.host in components:
            if isinstance(item, UserRead) and item.name == PROBE_ACCOUNT:
                yield NotCarried(
                    f"user {item.name}", "everything of it", "Roost has an account of that name of its own"
                )
            elif not (isinstance(item, ArchivePage) and item.owner == PROBE_ACCOUNT):
                yield item
        elif isinstance(item, UserRead | RoomRead):
            yield NotCarried(f"{item.name}@{item.host}"[:200], "everything of it", f"it is not of {host}")
        elif isinstance(item, FileRead) and item.host not in told:
            told.add(item.host)
            yield NotCarried(item.host[:200], "files", f"they are not of {host}")


@dataclass(slots=True)
class Preview:
    """``pieces``: of accounts and rooms that are there too: "alike", "made", "different"."""

    hosts: Counter[str] = field(default_factory=Counter)
    accounts: Counter[str] = field(default_factory=Counter)
    rooms: Counter[str] = field(default_factory=Counter)
    pieces: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    files: int = 0
    file_bytes: int = 0
    existing: list[str] = field(default_factory=list)
    not_carried: list[list[str]] = field(default_factory=list)
    not_carried_total: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "accounts": {"new": self.accounts["new"], "existing": self.accounts["existing"]},
            "rooms": {"new": self.rooms["new"], "existing": self.rooms["existing"]},
            "existing": self.existing,
            "pieces_of_existing": {word: self.pieces[word] for word in ("alike", "made", "different")},
            "messages": self.messages,
            "files": self.files,
            "file_bytes": self.file_bytes,
            "not_carried": self.not_carried,
            "not_carried_total": self.not_carried_total,
        }


def hosts_of(items: Iterable[Item], look: Callable[[], None]) -> Counter[str]:
    """Domain -> accounts and rooms in the file; "" for those of which it is not told."""
    found: Counter[str] = Counter()
    for item in items:
        look()
        if isinstance(item, UserRead):
            found[item.host] += 1
    return found


def preview(control: PortableControl, items: Iterable[Item], look: Callable[[], None]) -> Preview:
    """``items`` as they would be taken in. ``look`` is called often; it may raise to end it."""
    found = Preview()
    accounts, rooms = set(_all(control.export_accounts)), set(_all(control.export_rooms))
    for item in items:
        look()
        if isinstance(item, UserRead):
            found.hosts[item.host] += 1
            _count(found, found.accounts, item, item.name in accounts, control.export_user, facts.of_user)
        elif isinstance(item, RoomRead):
            _count(found, found.rooms, item, item.name in rooms, control.export_room, facts.of_room)
        elif isinstance(item, ArchivePage):
            found.messages += len(item.items)
        elif isinstance(item, FileRead):
            found.files += 1
            found.file_bytes += item.file.size
        else:
            found.not_carried_total += 1
            if len(found.not_carried) < MOST_TOLD:
                found.not_carried.append([item.where[:200], item.what[:200], item.why[:200]])
    return found


def _all(listing: Callable[..., list[str]]) -> Iterator[str]:
    after = ""
    while page := listing(after=after, limit=PAGE):
        yield from page
        after = page[-1]


def _count(
    found: Preview,
    counter: Counter[str],
    item: UserRead | RoomRead,
    is_there: bool,
    export: Callable[[Localpart], str],
    facts_of: Callable[[str], Iterator[facts.Fact]],
) -> None:
    if is_there:
        try:
            there = {(f.kind, f.what): f.value for f in facts_of(export(Localpart(item.name)))}
        except (Rejected, InvalidInput):
            is_there = False  # it went meanwhile
    if not is_there:
        counter["new"] += 1
        return
    counter["existing"] += 1
    if len(found.existing) < MOST_TOLD:
        found.existing.append(item.name)
    for fact in facts_of(item.xml):
        known = there.get((fact.kind, fact.what))
        found.pieces["made" if known is None else "alike" if known == fact.value else "different"] += 1
