"""restic's words: what is put on its command line, and what its JSON says.

A name from outside never becomes an option or a pattern; it is refused or escaped here. Runs are made elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from controlplane.drivers.store.base import Entry, Key, Progress, Retention, Snapshot
from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_ID = re.compile(r"[0-9a-f]{8,64}")
_PATTERN = re.compile(r"([*?\[\]\\])")
_ROWS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def tag(text: str) -> str:
    """A tag or a label as it is; restic would take a comma for the start of another one."""
    if not _TAG.fullmatch(text):
        raise InvalidInput("tags", f"{text!r} is no tag.", remedy="Letters, digits and ._:=+- only.")
    return text


def host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise InvalidInput("host", f"{text!r} is no name for the owner of snapshots.")
    return text


def snapshot_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise InvalidInput("snapshot", f"{text!r} is no snapshot's id.")
    return text


def path(text: str) -> str:
    """A path within a snapshot: absolute, and in its shortest form."""
    parts = text.split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") or "\0" in part for part in parts[1:]):
        raise InvalidInput("path", f"{text!r} is no absolute path within a snapshot.")
    return text


def pattern(text: str) -> str:
    """A path within a snapshot as a pattern that matches it alone (Go's ``filepath.Match``), and what is below it."""
    return _PATTERN.sub(r"\\\1", path(text))


def key(secret: Secret) -> Secret:
    """restic cuts white space off what it reads from a file, so a key has none at its ends."""
    if not secret or secret.reveal().strip() != secret.reveal() or "\n" in secret.reveal():
        raise InvalidInput("key", "A key is one line without blanks around it.")
    return secret


def labels(whose: str, tags: Sequence[str], taken_at: datetime | None) -> list[str]:
    """What a new snapshot is marked with."""
    words = ["--host", host(whose)]
    if tags:
        words += ["--tag", ",".join(map(tag, tags))]
    if taken_at is not None:
        words += ["--time", taken_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")]
    return words


def filters(whose: str, tags: Sequence[str]) -> list[str]:
    """Which snapshots are meant: those that have all of ``tags``."""
    return [*(["--host", host(whose)] if whose else []), *(["--tag", ",".join(map(tag, tags))] if tags else [])]


def retention(wanted: Retention) -> list[str]:
    """``InvalidInput`` for one that would keep nothing."""
    counts = {name: getattr(wanted, name) for name in _ROWS}
    if any(count < 0 for count in counts.values()) or not any(counts.values()):
        raise InvalidInput("retention", "A retention that keeps nothing is none.", remedy="Keep at least one.")
    words = [f"--keep-{name}={count}" for name, count in counts.items() if count]
    return words + [f"--keep-tag={tag(name)}" for name in wanted.keep_tags]


def messages(found: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects among the lines."""
    for line in found:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            yield message


def first_json(text: str) -> list[Any]:
    """The list that an answer begins with; restic has a word for a person behind it in some cases."""
    if not text.strip():
        return []
    found = json.JSONDecoder().raw_decode(text.lstrip())[0]
    return found if isinstance(found, list) else []


def progress(message: dict[str, Any], bytes_total: int) -> Progress:
    return Progress(
        files_done=message.get("files_done", 0),
        files_total=message.get("total_files", 0),
        bytes_done=message.get("bytes_done", 0),
        bytes_total=bytes_total or message.get("total_bytes", 0),
    )


def finished(summary: dict[str, Any]) -> Progress:
    files, size = summary["total_files_processed"], summary["total_bytes_processed"]
    return Progress(files_done=files, files_total=files, bytes_done=size, bytes_total=size)


def snapshot(item: dict[str, Any]) -> Snapshot:
    return Snapshot(
        id=item["id"],
        taken_at=_moment(item["time"]),
        host=item.get("hostname", ""),
        tags=tuple(item.get("tags") or ()),
        paths=tuple(item.get("paths") or ()),
    )


def entry(item: dict[str, Any]) -> Entry:
    return Entry(path=item["path"], kind=item["type"], size=item.get("size", 0))


def key_row(item: dict[str, Any]) -> Key:
    return Key(id=item["id"], user=item["userName"], host=item["hostName"], current=item["current"])


def _moment(text: str) -> datetime:
    """RFC 3339 with up to nanoseconds; Python reads six digits."""
    cut = re.sub(r"\.(\d{1,6})\d*", lambda found: "." + found[1].ljust(6, "0"), text)
    return datetime.fromisoformat(cut)
