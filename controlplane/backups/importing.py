"""A bundle, or parts of it, into an engine that runs, in flat memory: the counterpart of ``exporting``.

It knows the engine's control channel and the bundle's reader, and no Django, so that benchmarks and tests drive it as
restores and drills do. Everything may be repeated: what is there alike counts nowhere.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controlplane.backups.exporting import Watch
from controlplane.backups.mapping import DomainMapping
from controlplane.backups.selection import WHOLE, Selection, affiliations, member_list
from controlplane.drivers.engine.base import ImportReport, PortableControl, Upload
from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import ArchivePage, FileRead, Item, NotCarried, RoomRead, UserRead
from controlplane.portable.paths import opened
from controlplane.portable.reader import Reader
from controlplane.portable.tally import Tally
from controlplane.portable.writer import StoredFile
from controlplane.values.errors import Rejected
from controlplane.values.names import Jid, Localpart

#: Of what was refused, as many are kept in words; all are counted.
MOST_REFUSED = 1000
_CHUNK = 256 * 1024


class FileSink(Protocol):
    """Where uploaded files of the instance go."""

    def write(self, path: str, chunks: Iterable[bytes], *, at: float) -> None:
        """``path``: below the instance's root; ``at``: the file's time in seconds."""


class Control(PortableControl, Protocol):
    """What an import needs of an engine."""

    def set_affiliation(self, room: Localpart, jid: Jid, affiliation: str) -> None: ...


@dataclass(slots=True)
class Taken:
    """What came of an import. ``refused_total``: of the engine's refusals, of which ``report`` has the first.

    ``not_carried``: what the reader found and nobody takes.
    """

    report: ImportReport = field(default_factory=ImportReport)
    refused_total: int = 0
    not_carried: list[tuple[str, str, str]] = field(default_factory=list)
    not_carried_total: int = 0
    messages: int = 0
    removed: int = 0

    def add(self, report: ImportReport) -> None:
        self.refused_total += len(report.refused)
        room = max(0, MOST_REFUSED - len(self.report.refused))
        self.report += ImportReport(report.made, report.changed, report.skipped, report.refused[:room])


def facts_of(item: Item) -> Iterator[facts.Fact]:
    """An item of a bundle as what can be counted."""
    if isinstance(item, UserRead):
        yield from facts.of_user(item.xml)
    elif isinstance(item, RoomRead):
        yield from facts.of_room(item.xml)
    elif isinstance(item, ArchivePage):
        yield from (facts.of_message(xml, owner=item.owner, room=item.room) for xml in item.items)
    elif isinstance(item, FileRead):
        yield of_file(item.file)


def of_file(file: StoredFile) -> facts.Fact:
    return facts.of_file(user=file.user, id=file.id, name=file.name, size=file.size, type=file.type, sha256=file.sha256)


def selected(items: Iterable[Item], selection: Selection) -> Iterator[Item]:
    """Those that are wanted; a room of which only the member list is comes with nothing else."""
    for item in items:
        if selection.whole or isinstance(item, NotCarried):
            yield item
        elif isinstance(item, UserRead):
            if selection.user(item.name):
                yield item
        elif isinstance(item, RoomRead):
            if selection.room(item.name):
                yield item
            elif item.name in selection.member_lists:
                yield RoomRead(item.host, item.name, member_list(item.xml))
        elif isinstance(item, ArchivePage):
            if selection.messages(owner=item.owner, room=item.room):
                some = tuple(x for x in item.items if selection.message(x, owner=item.owner, room=item.room))
                if some:
                    yield ArchivePage(item.host, item.owner, item.room, some)
        elif item.file.user.partition("@")[0] in selection.accounts:
            yield item


def mapped(items: Iterable[Item], mapping: DomainMapping | None) -> Iterator[Item]:
    """The same under other domains."""
    for item in items:
        if mapping is None or isinstance(item, NotCarried):
            yield item
        elif isinstance(item, UserRead):
            yield UserRead(mapping.jid(item.host), item.name, mapping.xml(item.xml))
        elif isinstance(item, RoomRead):
            yield RoomRead(mapping.jid(item.host), item.name, mapping.xml(item.xml))
        elif isinstance(item, ArchivePage):
            yield ArchivePage(mapping.jid(item.host), item.owner, item.room, tuple(map(mapping.xml, item.items)))
        else:
            file = item.file
            user = mapping.value(file.user, "file/@user")
            made = StoredFile(
                mapping.path(file.id), file.path, file.name, file.size, file.type, user, file.at, file.sha256, file.href
            )
            yield FileRead(mapping.jid(item.host), made)


def mapping_for(bundle: Bundle, domains: Mapping[str, str]) -> DomainMapping | None:
    """A mapping that knows the bundle's uploaded files; None if no domain gets another name."""
    if not domains:
        return None
    mapping = DomainMapping(domains)
    for item in Reader(bundle.root, ["uploads.xml"], ours=True):
        if isinstance(item, FileRead) and item.file.user:
            mapping.learn(item.file.user)
    return mapping


def take_in(
    control: Control,
    items: Iterable[Item],
    *,
    root: Path,
    selection: Selection = WHOLE,
    mapping: DomainMapping | None = None,
    replace: bool = False,
    files: FileSink | None = None,
    expected: Tally | None = None,
    watch: Watch | None = None,
) -> Taken:
    """Import what ``selection`` wants of a bundle's ``items``. ``root``: the bundle's directory, for its files.

    ``replace``: what is there otherwise is overwritten. ``expected``: gets what has to be there afterwards. Raises what
    the engine raises, and ``InvalidInput`` for a bundle that cannot be read.
    """
    run = _Import(control, root, selection, files, watch or Watch(), replace=replace)
    for item in mapped(selected(items, selection), mapping):
        if expected is not None:
            expected.add(facts_of(item))
        run.take(item)
    run.end()
    return run.taken


class _Import:
    def __init__(
        self,
        control: Control,
        root: Path,
        selection: Selection,
        files: FileSink | None,
        watch: Watch,
        *,
        replace: bool,
    ) -> None:
        self.taken = Taken()
        self._control, self._root, self._selection, self._files = control, root, selection, files
        self._watch, self._replace = watch, replace
        self._waiting: list[StoredFile] = []

    def take(self, item: Item) -> None:
        progress = self._watch.progress
        if isinstance(item, UserRead):
            self._phase("accounts")
            self.taken.add(self._control.import_user(item.xml, replace=self._replace))
            progress.done += 1
        elif isinstance(item, RoomRead):
            self._phase("rooms")
            if self._selection.exact and item.name in self._selection.member_lists:
                self._take_off(item)
            self.taken.add(self._control.import_room(item.xml, replace=self._replace))
            progress.done += 1
        elif isinstance(item, ArchivePage):
            self._archive(item)
        elif isinstance(item, FileRead):
            self._phase("uploads")
            self._waiting.append(item.file)
            if len(self._waiting) >= 100:
                self.end()
        else:
            self.taken.not_carried_total += 1
            if len(self.taken.not_carried) < MOST_REFUSED:
                self.taken.not_carried.append((item.where, item.what, item.why))
        self._watch.look()

    def _phase(self, name: str) -> None:
        if self._watch.progress.phase != name:
            self._watch.progress.phase, self._watch.progress.done = name, 0

    def _archive(self, page: ArchivePage) -> None:
        owner = Localpart(page.owner) if page.owner is not None else None
        room = Localpart(page.room) if page.room is not None else None
        try:
            self.taken.add(self._control.import_archive(page.items, owner=owner, room=room))
        except Rejected as error:  # its owner is not there and was not asked for either
            whose = f"archive of {page.owner or page.room}"
            self.taken.add(ImportReport(refused=((whose, error.message),)))
            return
        self.taken.messages += len(page.items)
        self._watch.progress.messages += len(page.items)

    def _take_off(self, item: RoomRead) -> None:
        """Who was not on the list that comes back."""
        local = Localpart(item.name)
        try:
            present = affiliations(self._control.export_room(local))
        except Rejected:
            return  # there is no such room now
        saved = affiliations(item.xml)
        for jid in sorted(present.keys() - saved.keys()):
            self._control.set_affiliation(local, Jid.parse(jid), "none")
            self.taken.removed += 1

    def end(self) -> None:
        """Files that are still to be carried."""
        waiting, self._waiting = self._waiting, []
        if not waiting or self._files is None:
            return
        report, paths = self._control.import_uploads([_upload(file) for file in waiting])
        self.taken.add(report)
        for file in waiting:
            if file.id in paths:
                at = datetime.datetime.fromisoformat(file.at).timestamp()
                self._files.write(paths[file.id], self._chunks(file), at=at)
                self._watch.progress.done += 1
            self._watch.look()

    def _chunks(self, file: StoredFile) -> Iterator[bytes]:
        with opened(self._root, file.href) as stream:
            while chunk := stream.read(_CHUNK):
                self._watch.progress.file_bytes += len(chunk)
                yield chunk


def _upload(file: StoredFile) -> Upload:
    at = datetime.datetime.fromisoformat(file.at)
    return Upload(file.id, file.path, file.name, file.size, file.type, file.user, at)
