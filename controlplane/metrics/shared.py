"""What all processes of this machine measured, through files in one directory (ROOST_METRICS_DIR), one set a process.

A process takes a seat: a random name, with a lock that the kernel holds as long as the process lives, in whatever
container. The measurements of those that ended are added up in the files of the seat ``0`` and theirs are removed, so
that counters never fall and files never pile up.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from prometheus_client import values
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger(__name__)

#: The seat of those that have ended.
ENDED = "0"
KINDS = ("counter", "histogram")
#: In the files of ``ENDED``: which seats are in them already, should the one who added them die before removing theirs.
_ADDED = "roost_added"
#: Roles of processes that stay.
LASTING = ("web", "worker-", "clock", "prober", "watcher")
#: A process that takes a seat tidies up if there are so many.
CROWD = 200


@dataclass(slots=True)
class Seat:
    """``pid``: whose it is; a child of a fork takes its own."""

    name: str
    pid: int
    lock: int


@dataclass(frozen=True, slots=True)
class Living:
    """A process that has a seat now. ``role``: web, worker-heal, prober, …"""

    role: str
    host: str
    pid: int
    since: float


_seat: Seat | None = None


def directory() -> Path:
    return Path(settings.ROOST["METRICS_DIR"])


def prepare() -> None:
    """Have this process write its measurements down. Before the first of them is made."""
    place = directory()
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(place)
    values.ValueClass = values.MultiProcessValue(_name)
    if sum(1 for _ in place.glob("*.alive")) > CROWD:
        with _exclusive(place):
            _add_up(place)


def take_seat_if_lasting(role: str) -> None:
    """A process that stays is seen from its start, also before it has measured anything; others when they have."""
    if not role.startswith(LASTING):
        return
    try:
        prepare()
    except OSError as error:
        log.error("process %d is in no metrics: %s: %s", os.getpid(), directory(), error)


def _name() -> str:
    """The seat of this process, taken when it is asked for the first time."""
    global _seat
    if _seat is None or _seat.pid != os.getpid():
        inherited, _seat = _seat, _take(directory())
        if inherited is not None:
            os.close(inherited.lock)
    return _seat.name


def _take(place: Path) -> Seat:
    name = secrets.token_hex(8)
    lock = os.open(place / f"{name}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    said = {"role": role(sys.argv), "host": os.uname().nodename, "pid": os.getpid(), "since": time.time()}
    os.write(lock, json.dumps(said).encode())
    os.rename(place / f"{name}.new", place / f"{name}.alive")
    return Seat(name, os.getpid(), lock)


def role(argv: Sequence[str]) -> str:
    """What a process is, by how it was started: few words, since it is a label."""
    words = [Path(argv[0]).parent.name if argv[0].endswith("__main__.py") else Path(argv[0]).name, *argv[1:]]
    if "celery" in words[0]:
        if "worker" in words:
            queues = words[words.index("-Q") + 1] if "-Q" in words[:-1] else "default"
            return f"worker-{queues.split(',')[0]}"
        return "clock" if "beat" in words else "celery"
    if "gunicorn" in words[0] or "uvicorn" in words[0]:
        return "web"
    if words[0] == "manage.py" and len(words) > 1:
        return {"runserver": "web"}.get(words[1], words[1] if words[1] in {"prober", "watcher"} else "manage")
    return "other"


@contextlib.contextmanager
def _exclusive(place: Path) -> Iterator[None]:
    handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def collected() -> tuple[str, list[Living]]:
    """All measurements of all processes since the directory was made, as text; and who lives."""
    place = directory()
    if not settings.ROOST["METRICS_DIR"] or not place.is_dir():
        return "", []
    with _exclusive(place):
        living = _add_up(place)
        merged = MultiProcessCollector.merge(_files(place, "*"), accumulate=True)
    found = [metric for metric in merged if metric.name != _ADDED]
    return str(generate_latest(_Registry(found)).decode()), living


class _Registry:
    """What ``generate_latest`` asks."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = sorted(metrics, key=lambda metric: metric.name)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _files(place: Path, name: str) -> list[str]:
    """A file that is being made is empty for a moment."""
    return [str(file) for kind in KINDS for file in sorted(place.glob(f"{kind}_{name}.db")) if file.stat().st_size]


def _add_up(place: Path) -> list[Living]:
    """Move what the dead have measured to ``ENDED``; those that live."""
    living: dict[str, Living] = {}
    for path in place.glob("*.alive"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            living[path.stem] = Living(**json.loads(os.read(handle, 4096)))
        finally:
            os.close(handle)
    for kind in KINDS:
        files = [file for file in place.glob(f"{kind}_*.db") if _is_over(place, _seat_of(file))]
        if files:
            _merge(place, kind, files)
    for path in place.glob("*.alive"):
        if _is_over(place, path.stem):
            path.unlink(missing_ok=True)
    return list(living.values())


def _is_over(place: Path, seat: str) -> bool:
    """Whether whoever had that seat has ended. A seat is taken before its files are made, and given up after them."""
    if seat == ENDED:
        return False
    try:
        handle = os.open(place / f"{seat}.alive", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _seat_of(file: Path) -> str:
    return file.stem.partition("_")[2]


def _merge(place: Path, kind: str, files: Sequence[Path]) -> None:
    """Into one file that is written beside and put in place at once, with the names of those that are in it."""
    target, fresh = place / f"{kind}_{ENDED}.db", place / f"{kind}_{ENDED}.fresh"
    fresh.unlink(missing_ok=True)
    sums: dict[str, float] = {}
    added: set[str] = set()
    for key, value in _values(target) if target.exists() else ():
        name, _, labels, _ = json.loads(key)
        if name == _ADDED:
            added.add(labels["seat"])
        else:
            sums[key] = value
    for file in files:
        if _seat_of(file) in added:
            continue
        for key, value in _values(file):
            sums[key] = sums.get(key, 0.0) + value
    written = MmapedDict(str(fresh))
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    for file in files:
        written.write_value(json.dumps([_ADDED, _ADDED, {"seat": _seat_of(file)}, ""], sort_keys=True), 1.0, 0.0)
    written.close()
    os.replace(fresh, target)
    for file in files:
        file.unlink(missing_ok=True)


def _values(file: Path) -> list[tuple[str, float]]:
    """What is in a file; of one that was damaged, nothing."""
    try:
        return [(key, value) for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))]
    except (RuntimeError, struct.error, UnicodeDecodeError, FileNotFoundError) as error:
        log.warning("%s is left out: %s", file.name, error)
        return []
