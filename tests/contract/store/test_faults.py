"""What a store says and keeps when the place, the key, the disk or the data is not as it should be."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused
from controlplane.drivers.store.base import (
    Damaged,
    NoRepository,
    NotOurs,
    Repository,
    Run,
    StorageFull,
    Unreadable,
    WrongKey,
)
from controlplane.drivers.store.restic import Restic
from controlplane.values.errors import InvalidInput, RoostError, Unavailable
from controlplane.values.secret import Secret
from tests.contract.store.conftest import ADDRESS, RUN, Place, behind, noise
from tests.servers.sshd import Sshd, make_key

pytestmark = pytest.mark.servers
QUICK = Run(timeout_s=30, patience_s=3)


def test_a_repository_is_made_once_and_never_over_something_else(ground: Path, store: Restic) -> None:
    ours = Repository(url=str(ground / "repo"), key=Secret("our own key"))
    with pytest.raises(NoRepository) as missing:
        store.snapshots(ours)
    assert "mounted" in missing.value.remedy
    assert store.create(ours) is True
    assert store.create(ours) is False
    with pytest.raises(NotOurs):
        store.create(replace(ours, key=Secret("another's")))
    with pytest.raises(WrongKey):
        store.unlock(replace(ours, key=Secret("another's")))
    # A start that was killed between its two files.
    (ground / "repo" / "config").unlink()
    assert store.create(ours) is True
    assert len(store.keys(ours)) == 1


def test_keys_of_stored_data_are_never_taken_away(local: Place) -> None:
    local.save(local.source(a=b"1"))
    (local.directory / "config").unlink()
    keys = set((local.directory / "keys").iterdir())
    with pytest.raises(NotOurs):
        local.store.create(local.repository)
    assert keys <= set((local.directory / "keys").iterdir())


def test_a_disk_that_is_full_keeps_what_was_stored(small: Place) -> None:
    first = small.save(small.source(a=noise(4_000_000, 1)))
    with pytest.raises(StorageFull) as full:
        small.save(small.source(a=noise(20_000_000, 2)))
    assert "no space left" in full.value.message.lower()
    assert full.value.retry_after_s
    assert small.ids() == [first.snapshot]
    assert small.content(first, "/a") == noise(4_000_000, 1)
    mount = small.directory.parent
    subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)
    second = small.save(small.source(a=noise(20_000_000, 2)))
    small.store.prune(small.repository, run=RUN)
    assert small.store.check(small.repository, read_percent=100, run=RUN)
    assert set(small.ids()) == {first.snapshot, second.snapshot}


def test_a_far_disk_that_is_full(small: Place) -> None:
    # Its own: the other one does not see what was mounted since it started.
    with Sshd(ADDRESS, port=22024, extra="Subsystem sftp internal-sftp") as other:
        other.allow(make_key(other.place / "ours"))
        there, source = behind(other, small.directory), small.source(a=noise(20_000_000, 2))
        with pytest.raises(StorageFull):
            small.store.save_directory(there, source, host="acme", run=RUN)
    assert small.ids() == []


def test_a_full_disk_where_packs_are_put_together_is_one_too(local: Place, small: Place) -> None:
    here = Restic(local.ground / "cache", temporary=small.directory.parent, ways=local.ground / "ways")
    (small.directory.parent / "filler").write_bytes(bytes(11_500_000))
    with pytest.raises(StorageFull):
        here.save_directory(local.repository, local.source(a=noise(9_000_000)), host="acme", run=RUN)
    assert local.ids() == []


def test_one_flipped_byte_is_found_and_never_given_out(local: Place) -> None:
    saved = local.save(local.source(a=noise(2_000_000, 1), b=b"small"))
    assert local.store.check(local.repository, read_percent=100, run=RUN)
    pack = max(local.packs(), key=lambda path: path.stat().st_size)
    flip(pack)
    assert local.store.check(local.repository, run=RUN)
    found = local.store.check(local.repository, read_percent=100, run=RUN)
    assert not found
    assert any(pack.name[:8] in error for error in found.errors)
    with pytest.raises(Damaged) as restored:
        local.store.restore(local.repository, saved.snapshot, local.ground / "out", run=RUN)
    assert "check" in restored.value.remedy.lower()
    with pytest.raises(Damaged):
        local.content(saved, "/a")


def test_a_lost_pack_and_a_lost_index(local: Place) -> None:
    saved = local.save(local.source(a=noise(2_000_000, 1)))
    whole = local.ground / "copy"
    shutil.copytree(local.directory, whole)
    for pack in local.packs():
        pack.unlink()
    assert local.store.check(local.repository, run=QUICK).errors
    with pytest.raises(Damaged):
        local.store.restore(local.repository, saved.snapshot, local.ground / "out", run=QUICK)
    shutil.rmtree(local.directory)
    shutil.move(whole, local.directory)
    for index in (local.directory / "index").iterdir():
        flip(index)
    assert local.store.check(local.repository, run=QUICK).errors
    # What the cache still knows is right; without it nothing is found.
    assert local.content(saved, "/a") == noise(2_000_000, 1)
    local.store = Restic(temporary=local.ground)
    with pytest.raises(Damaged):
        local.content(saved, "/a")


def test_a_file_that_cannot_be_read_leaves_no_snapshot(local: Place) -> None:
    source = local.source(a=b"1", b=b"")
    # Reading this at its beginning is an error, also for root.
    subprocess.run(["mount", "--bind", "/proc/self/mem", str(source / "b")], check=True)
    try:
        with pytest.raises(Unreadable, match="b"):
            local.save(source)
    finally:
        subprocess.run(["umount", str(source / "b")], check=True)
    assert local.ids() == []
    with pytest.raises(InvalidInput):
        local.save(source / "nowhere")


def test_nobody_there(store: Restic, sshd: Sshd, ground: Path) -> None:
    there = behind(sshd, ground / "repo")
    for url in ("sftp://root@127.94.0.9:9//repo", "sftp://root@nowhere.invalid//repo"):
        with pytest.raises(Unavailable):
            store.create(replace(there, url=url), run=QUICK)
    for url in ("rest:http://127.94.0.9:9/repo", "s3:http://127.94.0.9:9/bucket"):
        with pytest.raises(Unavailable):
            store.snapshots(Repository(url=url, key=Secret("k"), environment=ACCOUNT), run=QUICK)


def test_a_place_that_takes_a_connection_and_says_nothing(store: Restic) -> None:
    with socket.create_server((ADDRESS, 9101)):
        there = Repository(url=f"s3:http://{ADDRESS}:9101/bucket", key=Secret("k"), environment=ACCOUNT)
        with pytest.raises(Unavailable, match="does not answer"):
            store.unlock(there, run=replace(QUICK, patience_s=5))


ACCOUNT = {"AWS_ACCESS_KEY_ID": Secret("us"), "AWS_SECRET_ACCESS_KEY": Secret("secret-of-the-place")}


def test_only_a_pinned_machine_is_believed_and_it_may_refuse_us(store: Restic, sshd: Sshd, ground: Path) -> None:
    there = behind(sshd, ground / "repo")
    other = make_key(ground / "other")
    for keys in ((other,), ()):
        with pytest.raises(HostKeyUnknown) as unknown:
            store.snapshots(replace(there, host_keys=keys), run=RUN)
        assert unknown.value.seen == sshd.host_keys
    with pytest.raises(KeyRefused):
        store.snapshots(replace(there, private_key=Secret((ground / "other").read_text())), run=RUN)
    with pytest.raises(NoRepository):
        store.snapshots(there, run=RUN)
    assert not (ground / "repo").exists()


def test_a_machine_that_goes_away_in_the_middle(far: Place, ground: Path) -> None:
    before = far.save(far.source(a=b"1"))
    with Sshd(ADDRESS, port=22023, extra="Subsystem sftp internal-sftp") as other:
        other.allow(make_key(other.place / "ours"))
        there = behind(other, far.directory)

        def chunks() -> Iterator[bytes]:
            for number in range(200):
                if number == 30:
                    other.stop()
                yield noise(300_000, number)

        with pytest.raises(Unavailable):
            far.store.save_stream(there, chunks(), path="/a", host="acme", run=replace(RUN, patience_s=5))
        other.start()
        saved = far.store.save_stream(there, [b"again"], path="/a", host="acme", run=RUN)
    far.store.prune(far.repository, run=RUN)
    assert set(far.ids()) == {before.snapshot, saved.snapshot}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "relative/path"),
        ("url", "sftp:root@host"),
        ("url", "sftp:-oProxyCommand=x@host:/a"),
        ("url", "sftp://root@host:99999//a"),
        ("url", 'sftp://root@host//a"b'),
        ("url", "rclone:remote:path"),
        ("url", "s3:ftp://host/bucket"),
        ("url", "/a\n/b"),
        ("key", Secret("")),
        ("key", Secret("two\nlines")),
        ("environment", {"LD_PRELOAD": Secret("/x.so")}),
        ("environment", {"RESTIC_PASSWORD_COMMAND": Secret("id")}),
    ],
)
def test_what_is_no_place_is_refused(store: Restic, ground: Path, field: str, value: object) -> None:
    fine = Repository(url=str(ground / "repo"), key=Secret("our own key"))
    with pytest.raises(InvalidInput) as refused:
        store.create(replace(fine, **{field: value}))
    assert refused.value.field == field


def test_no_error_shows_a_secret(store: Restic) -> None:
    there = Repository(url="rest:http://us:hunter22@127.94.0.9:9/repo", key=Secret("our own key"), environment=ACCOUNT)
    with pytest.raises(RoostError) as error:
        store.snapshots(there, run=QUICK)
    assert "hunter22" not in str(error.value)
    assert "secret-of-the-place" not in str(error.value)


def flip(path: Path) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
