"""Places for repositories: a directory, and one behind a real sshd on 127.94.0.1; each test has its own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from controlplane.drivers.store.base import Repository, Run, Saved
from controlplane.drivers.store.restic import Restic
from controlplane.values.secret import Secret
from tests.servers.sshd import Sshd, make_key

ADDRESS = "127.94.0.1"
#: For what takes longer; nothing waits for it.
RUN = Run(timeout_s=60, patience_s=15)


@dataclass
class Place:
    """``directory`` is where the repository's files lie, whatever leads there."""

    repository: Repository
    directory: Path
    ground: Path
    store: Restic

    def source(self, **files: bytes) -> Path:
        made = Path(tempfile.mkdtemp(prefix="source", dir=self.ground))
        for name, content in files.items():
            (made / name).write_bytes(content)
        return made

    def save(self, source: Path, **options: object) -> Saved:
        return self.store.save_directory(self.repository, source, **{"host": "acme", "run": RUN, **options})

    def content(self, saved: Saved | str, path: str) -> bytes:
        snapshot = saved if isinstance(saved, str) else saved.snapshot
        with self.store.read(self.repository, snapshot, path, run=RUN) as chunks:
            return b"".join(chunks)

    def ids(self) -> list[str]:
        return [snapshot.id for snapshot in self.store.snapshots(self.repository)]

    def packs(self) -> list[Path]:
        return [path for path in sorted((self.directory / "data").rglob("*")) if path.is_file()]

    def locks(self) -> list[Path]:
        return list((self.directory / "locks").iterdir())

    def with_key(self, key: str) -> Repository:
        return replace(self.repository, key=Secret(key))


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that cannot be compressed, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def processes(ground: str) -> list[tuple[str, int]]:
    """The programs (name, pid) that work for a test, known by its directory in their environment or words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if ground.encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(((entry / "comm").read_text().strip(), int(entry.name)))
    return found


@pytest.fixture
def ground() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rb", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def store(ground: Path) -> Restic:
    return Restic(ground / "cache", temporary=ground, ways=ground / "ways")


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """An empty repository: opening one is made slow on purpose, and making one slower."""
    made = Path(tempfile.mkdtemp(prefix="rb", dir="/tmp"))
    assert Restic(temporary=made).create(Repository(url=f"{made}/repo", key=Secret("our own key")))
    yield made / "repo"
    shutil.rmtree(made)


@pytest.fixture
def local(template: Path, ground: Path, store: Restic) -> Place:
    """Made already."""
    place = Place(Repository(url=str(ground / "repo"), key=Secret("our own key")), ground / "repo", ground, store)
    shutil.copytree(template, place.directory)
    return place


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    with Sshd(ADDRESS, extra="Subsystem sftp internal-sftp") as server:
        server.allow(make_key(server.place / "ours"))
        yield server


def behind(sshd: Sshd, directory: Path, key: str = "our own key") -> Repository:
    return Repository(
        url=f"sftp://root@{sshd.address}:{sshd.port}/{directory}",
        key=Secret(key),
        private_key=Secret((sshd.place / "ours").read_text()),
        host_keys=sshd.host_keys,
    )


@pytest.fixture
def far(template: Path, sshd: Sshd, ground: Path, store: Restic) -> Place:
    """The same over sftp."""
    place = Place(behind(sshd, ground / "repo"), ground / "repo", ground, store)
    shutil.copytree(template, place.directory)
    return place


@pytest.fixture
def small(template: Path, ground: Path, store: Restic) -> Iterator[Place]:
    """On a file system of 12 MiB."""
    mount = ground / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "roost-test", str(mount)], check=True)
    try:
        place = Place(Repository(url=f"{mount}/repo", key=Secret("our own key")), mount / "repo", ground, store)
        shutil.copytree(template, place.directory)
        yield place
    finally:
        subprocess.run(["umount", str(mount)], check=True)
