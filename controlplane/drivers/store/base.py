"""What Roost needs of a place for backups: a repository per tenant that keeps snapshots, and gives them back.

A snapshot is a tree of files; what the files mean is left to whoever wrote them. A repository is opened by any of its
keys; which keys there are, and who has them, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from controlplane.values.errors import Conflict, Rejected, Unavailable
from controlplane.values.secret import Secret


class WrongKey(Rejected):
    """There is a repository, and this key does not open it."""


class NoRepository(Rejected):
    """The place answers, and has no repository. It is never made on the way: an empty mount point looks the same."""


class Damaged(Rejected):
    """What is stored is not what was stored: a pack, an index or a snapshot is missing or was changed."""


class Unreadable(Rejected):
    """Files of the source could not be read; the incomplete snapshot was taken away again."""


class NotOurs(Conflict):
    """Something else is at that place: another one's repository, or the remains of one."""


class Locked(Unavailable):
    """Another run, which still lives or did so lately, holds the repository."""


class StorageFull(Unavailable):
    """No room is left, there or here (the message says which). Nothing that was stored before is lost by it."""


class Cancelled(Unavailable):
    """``Run.cancelled`` said so."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where it is and how it is entered; ``key`` never leaves but through memory that only the program reads.

    ``url``: ``/absolute/path``, ``sftp:user@host:/path`` or ``sftp://user@host:port//path``,
    ``s3:https://host/bucket/prefix``, ``rest:https://host/path``, ``b2:…``, ``azure:…``, ``gs:…``, ``swift:…``.
    ``environment``: what the place asks for, by restic's names (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` …).
    ``private_key`` and ``host_keys`` are for sftp: ours as OpenSSH's PEM, and the only ones that are believed.
    ``authorities``: PEM of the certificate authorities to believe for https (empty: the machine's).
    """

    url: str
    key: Secret
    environment: Mapping[str, Secret] = field(default_factory=dict)
    private_key: Secret | None = None
    host_keys: tuple[str, ...] = ()
    authorities: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. A total of 0 is not known (yet)."""

    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What bounds one call.

    ``timeout_s``: for all of it. ``patience_s``: so long the place may refuse, while the program tries again by
    itself, or be silent. ``cancelled`` is asked about five times a second, ``on_progress`` told about once a second
    (saving and reading only), both in the caller's thread. ``upload_kib_s``, ``download_kib_s``: KiB per second, 0 is
    no limit. ``cpus``: how many processors it may keep busy, 0 is all.
    """

    timeout_s: float = 3600.0
    patience_s: float = 60.0
    cancelled: Callable[[], bool] = lambda: False
    on_progress: Callable[[Progress], None] = lambda _: None
    upload_kib_s: int = 0
    download_kib_s: int = 0
    cpus: int = 0


#: For the short questions: opening a repository costs about half a second of one processor by design.
SHORT = Run(timeout_s=120.0, patience_s=20.0)


@dataclass(frozen=True, slots=True)
class Saved:
    """A finished snapshot. ``files`` and ``bytes``: of the source. ``added_bytes``: new to the repository, before
    compression. Only a snapshot whose ``Saved`` was returned counts.
    """

    snapshot: str
    files: int
    bytes: int
    added_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that is there. ``id``: 64 hexadecimal digits."""

    id: str
    taken_at: datetime
    host: str
    tags: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a snapshot. ``kind``: "file", "dir", "symlink" …; ``path`` is absolute within the snapshot."""

    path: str
    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a repository, by what is known of it without it. ``user`` is the label that it was added with."""

    id: str
    user: str
    host: str
    current: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. ``errors``: in the program's words, at most 50."""

    errors: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True)
class Retention:
    """How many of the newest snapshots, and of the newest of each hour, day, … (UTC), stay. Those with one of
    ``keep_tags`` always do.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    keep_tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Which snapshots stayed, and which went (or would). Their data goes with the next ``prune``."""

    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class StoreDriver(Protocol):
    """Every call may be repeated, also after a SIGKILL at any moment of it. Errors of all: ``Unavailable`` (the place
    is not reached, the time is over; ``Locked``, ``StorageFull``, ``Cancelled``), ``WrongKey``, ``NoRepository``,
    ``Damaged``, ``InvalidInput``; over sftp ``node.base.HostKeyUnknown`` and ``KeyRefused``.
    """

    name: str

    def create(self, repository: Repository, *, run: Run = SHORT) -> bool:
        """Make the repository. True if it was made, False if it is there and the key opens it; ``NotOurs`` else."""

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
        """Everything below ``source``; its own name is no part of the snapshot's paths (``source/a`` becomes ``/a``).

        ``host`` says whose snapshot it is, ``tags`` of which kind. ``Unreadable`` if a file could not be read.
        """

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
        """One file, ``path`` (absolute), of these bytes. If ``chunks`` raises, or the caller's process dies, there is
        no snapshot at all, and never one of a part. ``bytes_total`` is only for the progress.
        """

    def snapshots(
        self, repository: Repository, *, host: str = "", tags: Sequence[str] = (), run: Run = SHORT
    ) -> list[Snapshot]:
        """Oldest first; those of ``host`` that have all of ``tags``."""

    def entries(
        self, repository: Repository, snapshot: str, *, run: Run = SHORT
    ) -> AbstractContextManager[Iterator[Entry]]:
        """All files of a snapshot, as a stream."""

    def restore(
        self, repository: Repository, snapshot: str, target: Path, *, include: Sequence[str] = (), run: Run
    ) -> None:
        """Write the snapshot's files below ``target`` and read them again. ``include``: only these paths (and what is
        below them). Into a directory of your own, and look at what came before you use it. Interrupted, it leaves a
        part, and is to be repeated.
        """

    def read(
        self, repository: Repository, snapshot: str, path: str, *, run: Run
    ) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of one file. What was read counts only when the iterator ended by itself, without an error."""

    def read_tree(self, repository: Repository, snapshot: str, *, run: Run) -> AbstractContextManager[Iterator[bytes]]:
        """All of a snapshot as the bytes of one tar archive, as a stream; counts as what ``read`` gives does."""

    def check(self, repository: Repository, *, read_percent: float = 0.0, run: Run) -> Checked:
        """Compare what is stored with itself; 0 reads no file contents, 100 all, between it a random part."""

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
        """Apply the retention to the snapshots of ``host`` that have all of ``tags``, as one row. Others stay."""

    def remove(self, repository: Repository, snapshots: Sequence[str], *, run: Run = SHORT) -> None:
        """Exactly these (full ids); one that is gone is no error."""

    def prune(self, repository: Repository, *, run: Run) -> None:
        """Take away what no snapshot needs."""

    def unlock(self, repository: Repository, *, run: Run = SHORT) -> None:
        """Take away locks of runs that died. Every call that meets one does this by itself."""

    def keys(self, repository: Repository, *, run: Run = SHORT) -> list[Key]: ...

    def add_key(self, repository: Repository, key: Secret, *, label: str, run: Run = SHORT) -> str:
        """Let ``key`` open it too; its id. One that already does is not added again."""

    def remove_key(self, repository: Repository, key_id: str, *, run: Run = SHORT) -> bool:
        """False if there is no such key. ``Rejected`` for the one that this call opens the repository with."""
