"""``StoreDriver`` by restic (0.14 or later), one process per call; repositories are restic's own and need no Roost.

``places`` says how to get there, ``process`` runs the program and ends it, ``words`` reads and writes its language, and
``said`` judges its complaints. When something is saved, forgotten and checked is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from controlplane.drivers.store import places, said, words
from controlplane.drivers.store.base import (
    SHORT,
    Checked,
    Damaged,
    Entry,
    Forgotten,
    Key,
    Locked,
    NoRepository,
    NotOurs,
    Progress,
    Repository,
    Retention,
    Run,
    Saved,
    Snapshot,
    Unreadable,
    WrongKey,
)
from controlplane.drivers.store.process import Impatient, Process, last_line, lines
from controlplane.values.errors import InvalidInput, Rejected, RoostError
from controlplane.values.secret import Secret

T = TypeVar("T")
_TROUBLE = re.compile(r"error|fatal|damaged|does not|not found|invalid|missing", re.IGNORECASE)
ERRORS_SHOWN = 50
#: Ids on one command line.
AT_ONCE = 500


class Restic:
    """``cache``: where restic keeps indexes (None: nowhere; it may be removed at any time). ``temporary``: where it
    puts (encrypted) packs together. ``ways``: a directory in memory for what ssh must find in files.
    """

    name = "restic"

    def __init__(
        self,
        cache: Path | None = None,
        *,
        temporary: Path = Path("/var/tmp"),  # noqa: S108 - restic makes its own names there
        ways: Path = Path("/dev/shm/roost-store"),  # noqa: S108 - checked to be ours alone
        program: str = "restic",
    ) -> None:
        self._cache, self._temporary, self._ways, self._program = cache, temporary, ways, program

    def create(self, repository: Repository, *, run: Run = SHORT) -> bool:
        try:
            if self._opens(repository, run):
                return False
        except NoRepository:
            places.clear_unfinished(repository)
        try:
            self._ask(repository, ["init"], run)
        except Rejected as error:
            # Another worker was faster.
            if "already" not in error.message:
                raise
            return not self._opens(repository, run)
        # restic does not mind keys without a config, and may later try one of those first.
        if self._opens(repository, run) and len(self.keys(repository, run=run)) > 1:
            raise self._not_ours(repository)
        return True

    def _opens(self, repository: Repository, run: Run) -> bool:
        try:
            self._ask(repository, ["cat", "config", "--no-lock"], run)
        except (WrongKey, Damaged) as error:
            raise self._not_ours(repository) from error
        return True

    def _not_ours(self, repository: Repository) -> NotOurs:
        return NotOurs(
            f"There is something at {places.checked(repository)} that this key does not open.",
            remedy="Give its key, or choose another place. If it is what an interrupted start left (keys, and no "
            "snapshots), empty it.",
        )

    def save_directory(
        self,
        repository: Repository,
        source: Path,
        *,
        host: str,
        tags: Sequence[str] = (),
        taken_at: datetime | None = None,
        run: Run,
    ) -> Saved:
        if not source.is_dir():
            raise InvalidInput("source", f"{source} is no directory.")
        argv = ["backup", "--json", *words.labels(host, tags, taken_at), "--", "."]
        message = self._unlocked_for(repository, run, lambda: self._save(repository, argv, run, directory=str(source)))
        return self._saved(repository, message, run)

    def save_stream(
        self,
        repository: Repository,
        chunks: Iterable[bytes],
        *,
        path: str,
        host: str,
        tags: Sequence[str] = (),
        taken_at: datetime | None = None,
        bytes_total: int = 0,
        run: Run,
    ) -> Saved:
        argv = [
            "backup",
            "--json",
            *words.labels(host, tags, taken_at),
            "--stdin",
            "--stdin-filename",
            words.path(path),
        ]
        # A stream cannot be begun again: what would hinder it is found out, and dead locks are gone, before it begins.
        self.unlock(repository, run=replace(SHORT, cancelled=run.cancelled))
        message = self._save(repository, argv, run, source=iter(chunks), bytes_total=bytes_total)
        return self._saved(repository, message, run)

    def _save(
        self,
        repository: Repository,
        argv: list[str],
        run: Run,
        *,
        directory: str = "/",
        source: Iterator[bytes] | None = None,
        bytes_total: int = 0,
    ) -> dict[str, Any]:
        """restic's summary; ``faults`` in it are files that could not be read."""
        summary: dict[str, Any] = {}
        moved = 0
        with self._started(repository, argv, run, directory=directory, feeds=source is not None) as process:
            for message in words.messages(lines(process.output(source))):
                if message.get("message_type") == "summary":
                    summary = message
                    run.on_progress(words.finished(message))
                elif message.get("message_type") == "status":
                    now = words.progress(message, bytes_total)
                    if now.bytes_done > moved:
                        moved = now.bytes_done
                        process.moved()
                    run.on_progress(now)
            if process.code not in (0, 3):
                raise self._judged(repository, process)
            if "snapshot_id" not in summary:
                raise Rejected(f"restic did not say which snapshot it made at {places.checked(repository)}.")
            summary["faults"] = self._struck(repository, process.said) if process.code == 3 else ""
        return summary

    def _saved(self, repository: Repository, summary: dict[str, Any], run: Run) -> Saved:
        short = replace(SHORT, patience_s=max(SHORT.patience_s, run.patience_s))
        argv = ["snapshots", "--json", "--no-lock", words.snapshot_id(summary["snapshot_id"])]
        found = self._list(repository, argv, short)
        if len(found) != 1:
            raise Rejected(f"The new snapshot {summary['snapshot_id']} is not found again.")
        made = words.snapshot(found[0])
        if summary["faults"]:
            # Otherwise the retention could keep it, and let a whole one go for it.
            self.remove(repository, [made.id], run=short)
            raise Unreadable(
                f"Not all could be read, so nothing was saved: {last_line(said.important(summary['faults']))}",
                remedy="Look whether something else writes there, and who owns the files.",
            )
        return Saved(
            snapshot=made.id,
            files=summary["total_files_processed"],
            bytes=summary["total_bytes_processed"],
            added_bytes=summary["data_added"],
            duration_s=summary["total_duration"],
        )

    def snapshots(
        self, repository: Repository, *, host: str = "", tags: Sequence[str] = (), run: Run = SHORT
    ) -> list[Snapshot]:
        argv = ["snapshots", "--json", "--no-lock", *words.filters(host, tags)]
        found = map(words.snapshot, self._list(repository, argv, run))
        return sorted(found, key=lambda snapshot: snapshot.taken_at)

    @contextlib.contextmanager
    def entries(self, repository: Repository, snapshot: str, *, run: Run = SHORT) -> Iterator[Iterator[Entry]]:
        with self._streamed(repository, ["ls", "--json", words.snapshot_id(snapshot)], run) as chunks:
            yield (words.entry(m) for m in words.messages(lines(chunks)) if m.get("struct_type") == "node")

    def restore(
        self, repository: Repository, snapshot: str, target: Path, *, include: Sequence[str] = (), run: Run
    ) -> None:
        argv = ["restore", words.snapshot_id(snapshot), "--verify", f"--target={target}"]
        self._ask(repository, [*argv, *(f"--include={words.pattern(path)}" for path in include)], run)

    @contextlib.contextmanager
    def read(self, repository: Repository, snapshot: str, path: str, *, run: Run) -> Iterator[Iterator[bytes]]:
        argv = ["dump", "--", words.snapshot_id(snapshot), words.path(path)]
        with self._streamed(repository, argv, run) as chunks:
            yield chunks

    @contextlib.contextmanager
    def read_tree(self, repository: Repository, snapshot: str, *, run: Run) -> Iterator[Iterator[bytes]]:
        argv = ["dump", "--archive", "tar", "--", words.snapshot_id(snapshot), "/"]
        with self._streamed(repository, argv, run) as chunks:
            yield chunks

    def check(self, repository: Repository, *, read_percent: float = 0.0, run: Run) -> Checked:
        if not 0 <= read_percent <= 100:
            raise InvalidInput("read_percent", "A part is between 0 and 100 percent.")
        part = "--read-data" if read_percent == 100 else f"--read-data-subset={read_percent:.2f}%"

        def attempt() -> Checked:
            with self._started(repository, ["check", *([part] if read_percent else [])], run) as process:
                text = b"".join(process.output()).decode(errors="replace")
                if process.code == 0:
                    return Checked()
                error = self._judged(repository, process, text)
                if not isinstance(error, Damaged):
                    raise error
                whole = self._struck(repository, f"{text}\n{process.said}")
                found = [line.strip() for line in whole.splitlines() if _TROUBLE.search(line)]
                return Checked(errors=tuple(dict.fromkeys(found))[:ERRORS_SHOWN] or (error.message,))

        try:
            return self._unlocked_for(repository, run, attempt)
        except Damaged as error:  # a file is lost, and restic was still trying to get it
            return Checked(errors=(error.message,))

    def forget(
        self,
        repository: Repository,
        retention: Retention,
        *,
        host: str,
        tags: Sequence[str] = (),
        dry_run: bool = False,
        run: Run = SHORT,
    ) -> Forgotten:
        # Without a grouping: paths and further tags differ from run to run, and each would be a row of its own.
        argv = ["forget", "--json", "--group-by", "", *words.filters(words.host(host), tags)]
        argv += [*words.retention(retention), *(["--dry-run"] if dry_run else [])]
        rows = self._list(repository, argv, run)
        return Forgotten(
            kept=tuple(item["id"] for row in rows for item in row["keep"] or ()),
            removed=tuple(item["id"] for row in rows for item in row["remove"] or ()),
        )

    def remove(self, repository: Repository, snapshots: Sequence[str], *, run: Run = SHORT) -> None:
        wanted = set(map(words.snapshot_id, snapshots))
        going = [snapshot.id for snapshot in self.snapshots(repository, run=run) if snapshot.id in wanted]
        for start in range(0, len(going), AT_ONCE):
            self._ask(repository, ["forget", *going[start : start + AT_ONCE]], run)

    def prune(self, repository: Repository, *, run: Run) -> None:
        self._ask(repository, ["prune"], run)

    def unlock(self, repository: Repository, *, run: Run = SHORT) -> None:
        self._once(repository, ["unlock"], run)

    def keys(self, repository: Repository, *, run: Run = SHORT) -> list[Key]:
        return [words.key_row(item) for item in self._list(repository, ["key", "list", "--json", "--no-lock"], run)]

    def add_key(self, repository: Repository, key: Secret, *, label: str, run: Run = SHORT) -> str:
        theirs = replace(repository, key=words.key(key))
        with contextlib.suppress(WrongKey):
            return self._current(theirs, run)
        argv = ["key", "add", "--new-password-file", "$NEW_KEY", "--user", words.tag(label), "--host", "roost"]
        self._ask(repository, argv, run, NEW_KEY=key)
        return self._current(theirs, run)

    def _current(self, repository: Repository, run: Run) -> str:
        return next(key.id for key in self.keys(repository, run=run) if key.current)

    def remove_key(self, repository: Repository, key_id: str, *, run: Run = SHORT) -> bool:
        found = [key for key in self.keys(repository, run=run) if key.id == key_id]
        if found and found[0].current:
            raise Rejected("The key that opens the repository cannot be removed.", remedy="Open it with another key.")
        if found:
            self._ask(repository, ["key", "remove", key_id], run)
        return bool(found)

    # How a run is made.

    def _list(self, repository: Repository, argv: list[str], run: Run) -> list[Any]:
        try:
            return words.first_json(self._ask(repository, argv, run))
        except ValueError:
            raise Rejected(f"restic's answer to «{argv[0]}» cannot be read.") from None

    def _ask(self, repository: Repository, argv: list[str], run: Run, **secrets: Secret) -> str:
        return self._unlocked_for(repository, run, lambda: self._once(repository, argv, run, **secrets))

    def _once(self, repository: Repository, argv: list[str], run: Run, **secrets: Secret) -> str:
        with self._started(repository, argv, run, secrets=secrets) as process:
            text = b"".join(process.output()).decode(errors="replace")
            if process.code != 0:
                raise self._judged(repository, process, text)
            return text

    def _unlocked_for(self, repository: Repository, run: Run, attempt: Callable[[], T]) -> T:
        """Do it; if a lock is in the way, once more after those of dead runs were taken away."""
        try:
            return attempt()
        except Locked:
            self.unlock(repository, run=replace(SHORT, cancelled=run.cancelled))
            return attempt()

    @contextlib.contextmanager
    def _streamed(self, repository: Repository, argv: list[str], run: Run) -> Iterator[Iterator[bytes]]:
        def attempt() -> Iterator[bytes]:
            done, told = 0, time.monotonic()
            with self._started(repository, argv, run) as process:
                for chunk in process.output():
                    process.moved()
                    done += len(chunk)
                    if time.monotonic() - told > 1:
                        told = time.monotonic()
                        run.on_progress(Progress(bytes_done=done))
                    yield chunk
                run.on_progress(Progress(bytes_done=done, bytes_total=done))
                if process.code != 0:
                    raise self._judged(repository, process)

        def chunks() -> Generator[bytes, None, None]:
            try:
                yield from attempt()
            except Locked:  # which is said before there is any output
                self.unlock(repository, run=replace(SHORT, cancelled=run.cancelled))
                yield from attempt()

        with contextlib.closing(chunks()) as found:
            yield found

    @contextlib.contextmanager
    def _started(
        self,
        repository: Repository,
        argv: Sequence[str],
        run: Run,
        *,
        secrets: dict[str, Secret] | None = None,
        directory: str = "/",
        feeds: bool = False,
    ) -> Iterator[Process]:
        places.checked(repository)
        bounds = ["--limit-upload", str(run.upload_kib_s), "--limit-download", str(run.download_kib_s)]
        cache = ["--cache-dir", str(self._cache), "--cleanup-cache"] if self._cache else ["--no-cache"]
        files = {"RESTIC_PASSWORD_FILE": words.key(repository.key), "RESTIC_REPOSITORY_FILE": Secret(repository.url)}
        with (
            places.way(repository, self._ways) as there,
            Process(
                [self._program, argv[0], *bounds, *cache, *there.words, *argv[1:]],
                environment=self._environment(repository, run),
                secrets={**files, **(secrets or {})},
                run=run,
                directory=directory,
                feeds=feeds,
                aside=there.log,
            ) as process,
        ):
            try:
                yield process
            except Impatient as error:
                text = self._struck(repository, process.said)
                raise (
                    places.ssh_error(repository, text) or said.judge_tries(places.checked(repository), text)
                ) from error

    def _environment(self, repository: Repository, run: Run) -> dict[str, str]:
        """Nothing of the caller's. Times are UTC, so that a day of the retention is the same everywhere."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "HOME": "/nonexistent",
            "TMPDIR": str(self._temporary),
            "RESTIC_PROGRESS_FPS": "1",
            **({"GOMAXPROCS": str(run.cpus)} if run.cpus else {}),
            **{name: secret.reveal() for name, secret in repository.environment.items()},
        }

    def _struck(self, repository: Repository, text: str) -> str:
        return said.Struck(tuple(places.secrets_of(repository).values()))(text)

    def _judged(self, repository: Repository, process: Process, text: str = "") -> RoostError:
        whole = self._struck(repository, f"{text}\n{process.said}")
        return places.ssh_error(repository, whole) or said.judge(places.checked(repository), process.code, whole)
