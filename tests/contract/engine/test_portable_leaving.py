"""An instance is saved, destroyed with its machine, and comes back on another: people find everything, item by item.

Saved by the loop that backups use, into a real repository; looked at by clients (tests/comparer.py), before and after.
ROOST_LEAVING=full makes 200 accounts, 50 rooms and 100,000 messages of it, which takes a good while.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from controlplane.backups.exporting import export
from controlplane.backups.importing import take_in
from controlplane.drivers.engine.base import EngineDriver, Upload
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.drivers.store.base import Repository, Run
from controlplane.drivers.store.restic import Restic
from controlplane.portable.bundle import Bundle
from controlplane.portable.manifest import About
from controlplane.portable.sinks import Directory
from controlplane.portable.tally import Tally
from controlplane.portable.writer import Writer
from controlplane.values.names import Jid
from controlplane.values.secret import Secret
from tests import comparer, people
from tests.servers.engine import Instance, World, running_world

pytestmark = pytest.mark.servers

ENGINES: dict[str, tuple[EngineDriver, str, str]] = {
    "prosody": (prosody, "127.87", "127.88"),
    "ejabberd": (ejabberd, "127.89", "127.90"),
}
RUN = Run(timeout_s=600)


class Files:
    """Uploaded files on this machine."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def open(self, upload: Upload) -> Iterable[bytes] | None:
        return iter([(self._instance.root / upload.path).read_bytes()])

    def write(self, path: str, chunks: Iterable[bytes], *, at: float) -> None:
        target = self._instance.root / path
        for directory in [p for p in reversed(target.parents) if p.is_relative_to(self._instance.root)]:
            if not directory.exists():
                directory.mkdir()
                self._instance.own(directory, user=self._instance.uid)
        target.write_bytes(b"".join(chunks))
        self._instance.own(target, user=self._instance.uid)


def saved(world: World, bundle: Path, repository: Repository) -> str:
    """The snapshot's identifier; nothing of the bundle is left."""
    moments: dict[str, str] = {}
    components = {"muc": str(world.acme.spec.components.muc), "upload": str(world.acme.spec.components.upload)}
    at = datetime.datetime.now(datetime.UTC)
    about = About(world.acme.domain, at.isoformat(), components=components, moments=moments)
    with Tally() as tally, Writer(Directory(bundle), about) as writer:
        files = Files(world.acme)
        export(world.acme.control, writer, at=at, moments=moments, files=files, tally=tally)  # type: ignore[arg-type]
    store = Restic()
    assert store.create(repository, run=RUN)
    snapshot = store.save_directory(repository, bundle, host="acme", tags=("full",), run=RUN).snapshot
    shutil.rmtree(bundle)
    return snapshot


@pytest.mark.parametrize("name", ENGINES)
def test_all_is_there_again_on_a_fresh_machine(name: str, tmp_path: Path) -> None:
    driver, network, other = ENGINES[name]
    size = people.Size.wanted()
    repository = Repository(str(tmp_path / "repository"), Secret("a repository's key"))
    with running_world(driver, network=network, alone=True) as world:
        made = people.make(world, size)
        before = people.seen(world, made)
        snapshot = saved(world, tmp_path / "bundle", repository)
        gone = world.acme.root
    assert not gone.exists()
    counts = comparer.total(before)
    assert counts["message"] >= 2 * (size.messages // 3 // size.accounts) * size.accounts
    assert counts["room message"] >= size.messages // 3 // size.rooms * size.rooms
    assert (counts["file"], counts["contact"]) == (size.files, counts["contact"])
    assert counts["contact"] >= size.accounts
    assert counts["keys read by others"] >= size.accounts
    assert sum(counts[affiliation] for affiliation in comparer.AFFILIATIONS) == 5 * size.rooms

    with running_world(driver, network=other, alone=True) as world:
        Restic().restore(repository, snapshot, tmp_path / "restored", run=RUN)
        bundle = Bundle(tmp_path / "restored")
        bundle.check()
        taken = take_in(world.acme.control, bundle.items(), root=bundle.root, files=Files(world.acme))
        assert taken.report.refused == ()
        assert taken.not_carried == []
        after = people.seen(world, made)
        assert comparer.differences(before, after) == {}
        # The comparer is no fool: the one who is taken off a list now, it misses.
        world.acme.control.set_affiliation(people.local("room0"), Jid.parse("member@globex.example"), "none")
        missing = comparer.differences(before, people.seen(world, made))
        room = f"room0@{world.acme.spec.components.muc}"
        assert missing == {("member", room): (["member@globex.example"], [])}
