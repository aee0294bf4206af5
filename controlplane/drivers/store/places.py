"""Where a repository is: a checked URL, what restic needs to get there, and ssh's part of it for sftp.

Only pinned host keys are believed, and our key lies in memory-backed files of a directory of our own while a run lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controlplane.drivers.node import hostkeys
from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused, NodeTarget
from controlplane.drivers.node.ssh import options
from controlplane.drivers.store.base import Repository
from controlplane.drivers.store.said import has
from controlplane.values.errors import InvalidInput, Rejected, RoostError, Unavailable
from controlplane.values.secret import Secret

#: Kinds of places of which restic makes the way itself.
_OTHERS = ("s3", "rest", "b2", "azure", "gs", "swift")
_SFTP = re.compile(
    r"sftp:(?://)?(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5})(?=/))?[:/](?P<path>/?[A-Za-z0-9._/+@=-]+)"
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
#: What would change where secrets come from, what is run, or what the program loads.
_OURS = re.compile(r"(RESTIC|LD|GO|PATH|HOME|TMPDIR|TZ|LC|SSL)(_.*)?|GODEBUG|HTTPS?_PROXY")
LOG = "log"
#: Host keys are wrong, or our key is: ssh says so in its log.
_UNKNOWN = ("host key verification failed", "host key is known for", "identification has changed")
_REFUSED = ("permission denied (", "too many authentication failures")


@dataclass(frozen=True, slots=True)
class Sftp:
    """The parts of an sftp URL."""

    user: str
    host: str
    port: int
    path: str


def parse_sftp(url: str) -> Sftp:
    """``sftp:user@host:path`` or ``sftp://user@host:port//path``; ``InvalidInput`` if it is neither."""
    found = _SFTP.fullmatch(url)
    if not found or not 0 < int(found["port"] or 22) < 65536:
        raise InvalidInput("url", "That is no place for sftp.", remedy="Write sftp://user@host:22//absolute/path.")
    return Sftp(found["user"] or "root", found["host"].strip("[]"), int(found["port"] or 22), found["path"])


def checked(repository: Repository) -> str:
    """The place's name for a person, without anything secret. ``InvalidInput`` if Roost does not go there."""
    url = repository.url
    kind = url.split(":", 1)[0] if ":" in url else ""
    if not url or any(ord(letter) < 33 or ord(letter) == 127 for letter in url):
        raise InvalidInput("url", "A place is written without spaces and control characters.")
    for name in repository.environment:
        if not _VARIABLE.fullmatch(name) or _OURS.fullmatch(name):
            raise InvalidInput("environment", f"{name} cannot be given to a place.")
    if url.startswith("/"):
        return url
    if kind == "sftp":
        parts = parse_sftp(url)
        return f"{parts.host} ({parts.path})"
    if kind in ("s3", "rest"):
        inner = urlsplit(url.split(":", 1)[1])
        if inner.scheme not in ("https", "http") or not inner.hostname:
            raise InvalidInput("url", f"Write {kind}:https://host/….")
        return f"{kind}:{inner.scheme}://{inner.hostname}{f':{inner.port}' if inner.port else ''}{inner.path}"
    if kind in _OTHERS:
        return url
    raise InvalidInput(
        "url",
        "Roost does not know such a place.",
        remedy=f"An absolute path, or one of sftp, {', '.join(_OTHERS)}.",
    )


@dataclass(frozen=True, slots=True)
class Way:
    """restic's options for getting there, and the file in which ssh says what hindered it."""

    words: tuple[str, ...] = ()
    log: Path | None = None


@contextlib.contextmanager
def way(repository: Repository, directory: Path) -> Iterator[Way]:
    """What it names lies below ``directory`` until the end of the context.

    What a killed process left there is taken away by the next one's entering.
    """
    sftp = repository.url.startswith("sftp:")
    if not sftp and not repository.authorities:
        yield Way()
        return
    with _own_directory(directory) as place:
        words = []
        if repository.authorities:
            _write(place / "authorities", repository.authorities)
            words += ["--cacert", str(place / "authorities")]
        if sftp:
            words += ["-o", f"sftp.command={_ssh(repository, place)}"]
        yield Way(tuple(words), place / LOG if sftp else None)


def clear_unfinished(repository: Repository) -> None:
    """Take away the key of a making that was killed before its end; restic would take it for the new repository's.

    Only in a directory of this machine, and only if nothing at all was stored with it.
    """
    root = Path(repository.url)
    if not root.is_absolute() or (root / "config").exists():
        return
    # What has data, and no config, is refused by the caller: its keys are all that could still read it.
    if any(path.is_file() for part in ("data", "index", "snapshots", "locks") for path in (root / part).rglob("*")):
        return
    for key in (root / "keys").glob("*"):
        key.unlink(missing_ok=True)


def _ssh(repository: Repository, place: Path) -> str:
    """ssh's command line as restic splits it: no word has a space, a quote or a backslash, by the checks above."""
    parts, key = parse_sftp(repository.url), repository.private_key
    if not repository.host_keys:
        raise _unknown(repository)
    _write(place / "key", key.reveal().strip() + "\n" if key else "")
    _write(place / "known_hosts", "".join(f"{parts.host} {hostkeys.parse(line)}\n" for line in repository.host_keys))
    words = [*options(_target(repository), place), "-o", "ControlMaster=no", "-o", "ControlPath=none"]
    # restic passes on what ssh says only if it comes to reading it before it sees that ssh has ended.
    words = ["-E", str(place / LOG), *words]
    return " ".join(["ssh", *words, "-p", str(parts.port), "-l", parts.user, "-s", "--", parts.host, "sftp"])


def _target(repository: Repository) -> NodeTarget:
    parts = parse_sftp(repository.url)
    return NodeTarget(
        name=parts.host,
        connection="ssh",
        runtime="",
        address=parts.host,
        state_dir="",
        runtime_dir="",
        ssh_user=parts.user,
        ssh_port=parts.port,
        host_keys=repository.host_keys,
        private_key=repository.private_key,
    )


def ssh_error(repository: Repository, said: str) -> RoostError | None:
    """If it was ssh that failed: how."""
    if not repository.url.startswith("sftp:"):
        return None
    parts = parse_sftp(repository.url)
    if has(said, _UNKNOWN):
        return _unknown(repository)
    if has(said, _REFUSED):
        return KeyRefused(
            f"{parts.host} port {parts.port} does not accept our key for {parts.user}.",
            remedy=f"Put our public key into ~{parts.user}/.ssh/authorized_keys there.",
        )
    return None


def _unknown(repository: Repository) -> RoostError:
    parts = parse_sftp(repository.url)
    try:
        seen = hostkeys.scan(parts.host, parts.port)
    except Unavailable as error:
        return error
    shown = ", ".join(hostkeys.fingerprint(line) for line in seen)
    return HostKeyUnknown(
        f"{parts.host} port {parts.port} shows no host key that is trusted. It shows {shown}.",
        remedy="Compare it with the one that its operator tells you, and store that.",
        seen=seen,
    )


@contextlib.contextmanager
def _own_directory(base: Path) -> Iterator[Path]:
    """A directory that is locked while it is in use, so that others see which ones were left behind."""
    mine = base / str(os.geteuid())
    try:
        mine.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Rejected(f"{mine} cannot be made: {error.strerror}.") from None
    found = mine.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Rejected(f"{mine} is not ours alone.", remedy="Remove it; it is made again.")
    for entry in mine.iterdir():
        _remove_if_left(entry)
    place = Path(tempfile.mkdtemp(prefix="s", dir=mine))
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def _remove_if_left(entry: Path) -> None:
    """A directory without a lock is somebody's who died; a moment after its making it may just not have it yet."""
    with contextlib.suppress(OSError):
        handle = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(entry.iterdir()):
                shutil.rmtree(entry, ignore_errors=True)
        finally:
            os.close(handle)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)


def secrets_of(repository: Repository) -> dict[str, Secret]:
    """Everything about the place that must not be said."""
    return {
        "key": repository.key,
        **repository.environment,
        **({"private_key": repository.private_key} if repository.private_key else {}),
    }
