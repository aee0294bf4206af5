"""Everything of a running instance into a bundle: the loop over an engine's export, page by page, in flat memory.

It knows the engine's control channel, the bundle's writer and the tally, and no Django, so that benchmarks and tests
drive it as backups do. Where the bundle goes, and what becomes of it, is left to ``saving``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.drivers.engine.base import PortableControl, Upload
from controlplane.drivers.store.base import Cancelled
from controlplane.portable import facts
from controlplane.portable.tally import Tally
from controlplane.portable.writer import StoredFile, Writer
from controlplane.values.errors import Rejected
from controlplane.values.names import Localpart
from controlplane.values.spec import PROBE_ACCOUNT

PAGE = 500
#: What a backup of a kind has (``portable.manifest.About.scope``).
FULL = ("accounts", "rooms", "archives", "uploads")
MEMBERS = ("accounts", "rooms")
_EPOCH = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)


@dataclass(slots=True)
class Progress:
    """How far it is: ``phase`` (accounts, rooms, uploads), how many of them are done, and what was written of files.

    ``messages``: of archives. The total is not known beforehand: engines hand out names page by page.
    """

    phase: str = ""
    done: int = 0
    messages: int = 0
    file_bytes: int = 0


@dataclass(slots=True)
class Watch:
    """``cancelled`` and ``on_progress`` are asked and told after each page, in the caller's thread."""

    cancelled: Callable[[], bool] = lambda: False
    on_progress: Callable[[Progress], None] = lambda _: None
    progress: Progress = field(default_factory=Progress)

    def look(self) -> None:
        if self.cancelled():
            raise Cancelled("It was called off.")
        self.on_progress(self.progress)


class Files(Protocol):
    """Uploaded files of the instance, where its engine runs."""

    def open(self, upload: Upload) -> Iterator[bytes] | None:
        """The bytes of a file; None if there is none (any more), or none that belongs to the instance."""


def export(
    control: PortableControl,
    writer: Writer,
    *,
    at: datetime.datetime,
    moments: MutableMapping[str, str],
    scope: tuple[str, ...] = FULL,
    files: Files | None = None,
    tally: Tally | None = None,
    watch: Watch | None = None,
) -> None:
    """Write all that ``scope`` asks for into ``writer``, and count it in ``tally`` as the engine handed it out.

    ``at``: the moment, by the clock of the engine's machine, that archives are cut at: all of them have what was
    written until then, and nothing later. Accounts, rooms and files are each as of a moment of their own: all that was
    done before ``moments[scope]``, which is set here, is in them. What is deleted meanwhile may be left out.
    """
    watch = watch or Watch()
    run = _Export(control, writer, at, tally, watch)
    if "archives" in scope:
        moments["archives"] = stamp(at)
    for phase, go in (("accounts", run.accounts), ("rooms", run.rooms)):
        if phase in scope:
            moments[phase] = stamp(datetime.datetime.now(datetime.UTC))
            watch.progress.phase, watch.progress.done = phase, 0
            go(archives="archives" in scope)
    if "uploads" in scope and files is not None:
        moments["uploads"] = stamp(datetime.datetime.now(datetime.UTC))
        watch.progress.phase, watch.progress.done = "uploads", 0
        run.uploads(files)
    watch.look()


def stamp(moment: datetime.datetime) -> str:
    """ISO 8601 in UTC, to the microsecond."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Export:
    def __init__(
        self, control: PortableControl, writer: Writer, at: datetime.datetime, tally: Tally | None, watch: Watch
    ) -> None:
        self._control, self._writer, self._tally, self._watch = control, writer, tally, watch
        self._until = (at - _EPOCH) // datetime.timedelta(microseconds=1)

    def accounts(self, *, archives: bool) -> None:
        for before, name in _named(self._control.export_accounts):
            if name == PROBE_ACCOUNT:
                continue
            local = Localpart(name)
            try:
                xml = self._control.export_user(local)
            except Rejected:
                if _is_there(self._control.export_accounts, before, name):
                    raise
                continue  # it was deleted since its name was told
            self._count(facts.of_user(xml))
            self._writer.add_user(xml, self._archive(before, name, owner=local) if archives else ())
            self._watch.progress.done += 1
            self._watch.look()

    def rooms(self, *, archives: bool) -> None:
        for before, name in _named(self._control.export_rooms):
            local = Localpart(name)
            try:
                xml = self._control.export_room(local)
            except Rejected:
                if _is_there(self._control.export_rooms, before, name):
                    raise
                continue
            self._count(facts.of_room(xml))
            self._writer.add_room(xml, self._archive(before, name, room=local) if archives else ())
            self._watch.progress.done += 1
            self._watch.look()

    def _archive(
        self, before: str, name: str, *, owner: Localpart | None = None, room: Localpart | None = None
    ) -> Iterator[str]:
        """Messages up to the moment, each counted as it goes to the bundle."""
        cursor = ""
        words = {"owner": name} if owner is not None else {"room": name}
        while True:
            try:
                page, cursor = self._control.export_archive(owner=owner, room=room, cursor=cursor, limit=PAGE)
            except Rejected:
                listed = self._control.export_accounts if owner is not None else self._control.export_rooms
                if _is_there(listed, before, name):
                    raise
                return  # it was deleted meanwhile; what there was of it stays in the backup
            later = 0
            for xml in page:
                fact = facts.of_message(xml, **words)  # its value begins with its instant
                if int(fact.value.partition(" ")[0]) > self._until:
                    later += 1
                    continue
                if self._tally is not None:
                    self._tally.add((fact,))
                yield xml
            self._watch.progress.messages += len(page) - later
            self._watch.look()
            # A page of nothing but later messages: what follows is later still, and there may be no end of it.
            if not cursor or (page and later == len(page)):
                return

    def uploads(self, files: Files) -> None:
        after = ""
        while page := self._control.export_uploads(after=after, limit=PAGE):
            for upload in page:
                self._upload(files, upload)
                self._watch.progress.done += 1
                self._watch.look()
            after = page[-1].id

    def _upload(self, files: Files, upload: Upload) -> None:
        if upload.user.partition("@")[0] == PROBE_ACCOUNT:
            return  # what Roost's own checks left, and it is gone in a while
        chunks = files.open(upload)
        if chunks is None:
            return
        wanted = StoredFile(
            upload.id, upload.path, upload.name, upload.size, upload.type, upload.user, stamp(upload.at)
        )
        stored = self._writer.add_upload(wanted, self._counted(chunks))
        self._count(
            [
                facts.of_file(
                    user=stored.user,
                    id=stored.id,
                    name=stored.name,
                    size=stored.size,
                    type=stored.type,
                    sha256=stored.sha256,
                )
            ]
        )

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks):
            self._watch.progress.file_bytes += len(chunk)
            if number % 16 == 15:
                self._watch.look()
            yield chunk

    def _count(self, found: Iterator[facts.Fact] | list[facts.Fact]) -> None:
        if self._tally is not None:
            self._tally.add(found)


class _Listing(Protocol):
    def __call__(self, after: str = "", limit: int = 500) -> list[str]: ...


def _named(listing: _Listing) -> Iterator[tuple[str, str]]:
    """Each name with the one before it, as pages come."""
    before = ""
    while page := listing(after=before, limit=PAGE):
        for name in page:
            yield before, name
            before = name


def _is_there(listing: _Listing, before: str, name: str) -> bool:
    """Whether it is still told of. New ones may stand between it and the one before."""
    return name in listing(after=before, limit=PAGE)
