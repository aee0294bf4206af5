"""What a running engine has, counted as an oracle is: read through its control channel, and compared.

Drills and restores look at a scratch with it, previews at the living instance. It shares no code with what writes
bundles and reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controlplane.backups.exporting import Files, Watch
from controlplane.backups.selection import WHOLE, Selection
from controlplane.drivers.engine.base import PortableControl
from controlplane.portable import facts
from controlplane.portable.tally import ROLLED, Difference, Tally
from controlplane.values.errors import Rejected
from controlplane.values.names import Localpart
from controlplane.values.spec import PROBE_ACCOUNT

PAGE = 500
#: Each engine has some of its own and says all of them, so one that came from the other has more than it had.
SETTINGS = frozenset({"PEP setting", "room setting"})


def count(
    control: PortableControl,
    tally: Tally,
    *,
    files: Files | None,
    selection: Selection = WHOLE,
    archives: bool = True,
    watch: Watch | None = None,
) -> None:
    """Everything that ``selection`` wants of the engine into ``tally``; files only if ``files`` is there to read."""
    watch = watch or Watch()
    for name in _names(control.export_accounts):
        if name == PROBE_ACCOUNT:
            continue
        local = Localpart(name)
        if selection.user(name):
            _add(tally, lambda local=local: facts.of_user(control.export_user(local)))  # type: ignore[misc]
        if archives and selection.messages(owner=name, room=None):
            _archive(control, tally, selection, watch, owner=local)
        watch.look()
    for name in _names(control.export_rooms):
        local = Localpart(name)
        if selection.room(name):
            _add(tally, lambda local=local: facts.of_room(control.export_room(local)))  # type: ignore[misc]
        elif name in selection.member_lists:
            _add(tally, lambda local=local: _members(control.export_room(local)))  # type: ignore[misc]
        if archives and selection.messages(owner=None, room=name):
            _archive(control, tally, selection, watch, room=local)
        watch.look()
    if files is not None and (selection.whole or selection.accounts):
        _uploads(control, tally, selection, files, watch)
    tally.flush()


def _add(tally: Tally, found: Callable[[], Iterator[facts.Fact]]) -> None:
    try:
        tally.add(list(found()))
    except Rejected:
        return  # it was deleted since its name was told


def _members(xml: str) -> Iterator[facts.Fact]:
    return (fact for fact in facts.of_room(xml) if fact.kind in ("room", "affiliation"))


def _archive(control: PortableControl, tally: Tally, selection: Selection, watch: Watch, **place: Localpart) -> None:
    words = {name: local.text for name, local in place.items()}
    whose = {"owner": words.get("owner"), "room": words.get("room")}
    cursor = ""
    while True:
        try:
            page, cursor = control.export_archive(cursor=cursor, limit=PAGE, **place)
        except Rejected:
            return
        tally.add(facts.of_message(xml, **words) for xml in page if selection.message(xml, **whose))
        watch.progress.messages += len(page)
        watch.look()
        if not cursor:
            return


def _uploads(control: PortableControl, tally: Tally, selection: Selection, files: Files, watch: Watch) -> None:
    after = ""
    while page := control.export_uploads(after=after, limit=PAGE):
        for upload in page:
            if upload.user.partition("@")[0] == PROBE_ACCOUNT:
                continue
            if not selection.whole and upload.user.partition("@")[0] not in selection.accounts:
                continue
            chunks = files.open(upload)
            if chunks is None:
                continue
            digest, size = hashlib.sha256(), 0
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
            tally.add(
                [
                    facts.of_file(
                        user=upload.user,
                        id=upload.id,
                        name=upload.name,
                        size=size,
                        type=upload.type,
                        sha256=digest.hexdigest(),
                    )
                ]
            )
            watch.look()
        after = page[-1].id


def _names(listing: Any) -> Iterator[str]:
    after = ""
    while page := listing(after=after, limit=PAGE):
        yield from page
        after = page[-1]


@dataclass(slots=True)
class Counted:
    """How many differ of a verdict, by kind, and the first of them."""

    total: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    items: list[dict[str, str]] = field(default_factory=list)

    def add(self, difference: Difference, number: int, most: int) -> None:
        self.total += number
        self.kinds[difference.kind] = self.kinds.get(difference.kind, 0) + number
        if len(self.items) < most:
            self.items.append({"kind": difference.kind, "owner": difference.owner, "what": difference.what})

    def as_json(self) -> dict[str, Any]:
        return {"total": self.total, "kinds": self.kinds, "items": self.items}


@dataclass(slots=True)
class Compared:
    """What the right side has not as the left has it: exact numbers, and up to ``most`` of each in names."""

    missing: Counted = field(default_factory=Counted)
    changed: Counted = field(default_factory=Counted)
    added: Counted = field(default_factory=Counted)

    @property
    def words(self) -> list[str]:
        """One sentence each, what is missing first."""
        return [
            f"{item['kind']} {item['what']} of {item['owner']}: {verdict}".replace("  ", " ")
            for verdict, some in (("missing", self.missing), ("changed", self.changed), ("added", self.added))
            for item in some.items
        ]

    @property
    def total(self) -> int:
        return self.missing.total + self.changed.total + self.added.total


def compare(
    left: Tally,
    right: Tally,
    *,
    most: int = 200,
    tolerate_added: frozenset[str] = frozenset(),
    but: frozenset[str] = frozenset(),
) -> Compared:
    """``tolerate_added``: kinds of which the right side may have more. ``but``: kinds that are not looked at."""
    found = Compared()
    for difference in left.differences(right):
        kind = difference.kind
        if kind in but:
            continue
        have, got = difference.left, difference.right
        if have > got:
            found.missing.add(difference, have - got, most)
        if got > have and kind not in tolerate_added:
            found.added.add(difference, got - have, most)
        if have == got:  # as many, of which any may be another: of a day of messages no more is known
            found.changed.add(difference, have if kind not in ROLLED else 1, most)
    return found
