"""What a store does when nothing goes wrong, in a directory and over sftp."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.drivers.store.base import Progress, Retention, WrongKey
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.secret import Secret
from tests.contract.store.conftest import RUN, Place, noise, processes

pytestmark = pytest.mark.servers


@pytest.fixture(params=["local", "far"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


def test_what_is_saved_comes_back(place: Place) -> None:
    source = place.source(**{"a b": b"blank", "[x]*?\\": b"pattern", "x": b"other"})
    (source / "archives").mkdir()
    (source / "archives" / "übung.xml").write_bytes(noise(3_000_000))
    told: list[Progress] = []
    saved = place.save(source, tags=["full", "v:1"], run=replace(RUN, on_progress=told.append))
    assert (saved.files, saved.bytes) == (4, 3_000_017)
    assert saved.added_bytes >= 3_000_000
    assert told[-1] == Progress(4, 4, 3_000_017, 3_000_017)

    (found,) = place.store.snapshots(place.repository, host="acme", tags=["v:1", "full"])
    assert (found.id, found.host, set(found.tags)) == (saved.snapshot, "acme", {"full", "v:1"})
    assert place.store.snapshots(place.repository, host="other") == []
    assert place.store.snapshots(place.repository, tags=["v:2"]) == []
    with place.store.entries(place.repository, saved.snapshot) as entries:
        files = {entry.path: entry.size for entry in entries if entry.kind == "file"}
    assert files == {"/a b": 5, "/[x]*?\\": 7, "/x": 5, "/archives/übung.xml": 3_000_000}

    whole = place.ground / "whole"
    place.store.restore(place.repository, saved.snapshot, whole, run=RUN)
    place.store.restore(place.repository, saved.snapshot, whole, run=RUN)
    assert contents(whole) == contents(source)
    part = place.ground / "part"
    place.store.restore(place.repository, saved.snapshot, part, include=["/[x]*?\\", "/archives"], run=RUN)
    assert set(contents(part)) == {"[x]*?\\", "archives/übung.xml"}
    assert place.content(saved, "/archives/übung.xml") == noise(3_000_000)
    assert not place.locks()


def test_the_whole_tree_as_one_archive(place: Place) -> None:
    source = place.source(**{"roost.json": b"{}", "empty": b""})
    (source / "uploads" / "x").mkdir(parents=True)
    (source / "uploads" / "x" / "ü.bin").write_bytes(noise(2_000_000))
    saved = place.save(source)
    with place.store.read_tree(place.repository, saved.snapshot, run=RUN) as chunks:
        packed = b"".join(chunks)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {m.name.lstrip("/"): archive.extractfile(m).read() for m in archive if m.isfile()}
    assert files == contents(source)
    with pytest.raises(Rejected), place.store.read_tree(place.repository, "0" * 64, run=RUN) as chunks:
        list(chunks)


def test_a_stream_is_one_file_and_what_is_known_is_not_stored_again(place: Place) -> None:
    parts = [noise(100_000, seed) for seed in range(40)]
    first = place.store.save_stream(
        place.repository, parts[:36], path="/acme/bundle.tar", host="acme", bytes_total=3_600_000, run=RUN
    )
    second = place.store.save_stream(place.repository, parts, path="/acme/bundle.tar", host="acme", run=RUN)
    assert (first.bytes, second.bytes) == (3_600_000, 4_000_000)
    assert second.added_bytes < first.added_bytes
    assert place.content(first, "/acme/bundle.tar") == b"".join(parts[:36])
    assert place.content(second, "/acme/bundle.tar") == b"".join(parts)
    with pytest.raises(Rejected, match="no such"):
        place.content(second, "/acme/other")
    with pytest.raises(Rejected, match="no such"):
        place.content("0123456789", "/acme/bundle.tar")
    # A reader who has enough goes away, and holds nothing.
    with place.store.read(place.repository, first.snapshot, "/acme/bundle.tar", run=RUN) as chunks:
        assert next(chunks)
    assert not place.locks()


def test_retention_by_days_and_weeks(local: Place) -> None:
    source = local.source(a=b"1")
    monday = datetime(2026, 6, 1, 23, 30, tzinfo=UTC)
    at = {}
    for days in (0, 7, 8, 13, 14):
        (source / "a").write_bytes(noise(500_000, days))
        at[days] = local.save(source, taken_at=monday + timedelta(days=days), tags=["full", f"run:{days}"]).snapshot
    members = local.save(source, taken_at=monday, tags=["members"]).snapshot
    other = local.save(source, taken_at=monday, tags=["full"], host="globex").snapshot
    full = Retention(daily=2, weekly=3)
    planned = local.store.forget(local.repository, full, host="acme", tags=["full"], dry_run=True)
    assert len(local.ids()) == 7
    done = local.store.forget(local.repository, full, host="acme", tags=["full"])
    assert done == planned
    # Days 14 and 13 are the last two, and the newest of their weeks; the week before theirs ends with day 0.
    assert set(done.kept) == {at[14], at[13], at[0]}
    assert set(done.removed) == {at[8], at[7]}
    assert set(local.ids()) == {*done.kept, members, other}
    again = local.store.forget(local.repository, full, host="acme", tags=["full"])
    assert again.removed == ()

    before = sum(pack.stat().st_size for pack in local.packs())
    local.store.prune(local.repository, run=RUN)
    assert sum(pack.stat().st_size for pack in local.packs()) < before - 900_000
    assert local.content(at[0], "/a") == noise(500_000, 0)

    local.store.remove(local.repository, [at[0], at[7]])
    local.store.remove(local.repository, [at[0]])
    assert at[0] not in local.ids()
    for nothing in (Retention(), Retention(daily=-1), Retention(keep_tags=("full",))):
        with pytest.raises(InvalidInput):
            local.store.forget(local.repository, nothing, host="acme")


def test_two_keys_open_it_and_a_removed_one_does_not(local: Place) -> None:
    saved = local.save(local.source(a=b"1"))
    theirs = local.with_key("the tenant's own")
    with pytest.raises(WrongKey):
        local.store.snapshots(theirs)
    made = local.store.add_key(local.repository, theirs.key, label="tenant")
    assert local.store.add_key(local.repository, theirs.key, label="tenant") == made
    assert [snapshot.id for snapshot in local.store.snapshots(theirs)] == [saved.snapshot]
    labels = {key.id: (key.user, key.current) for key in local.store.keys(local.repository)}
    assert labels.pop(made) == ("tenant", False)
    ((ours, (_, current)),) = labels.items()
    assert current
    with pytest.raises(Rejected, match="cannot be removed"):
        local.store.remove_key(local.repository, ours)
    assert local.store.remove_key(local.repository, made) is True
    assert local.store.remove_key(local.repository, made) is False
    with pytest.raises(WrongKey):
        local.store.snapshots(theirs)


def test_nothing_secret_is_on_a_command_line_or_left_behind(far: Place) -> None:
    seen: dict[str, bytes] = {}

    def slow() -> Iterator[bytes]:
        for number in itertools.count():
            if number == 3:
                for name, pid in processes(str(far.ground)):
                    seen[name] = b"".join(Path(f"/proc/{pid}/{part}").read_bytes() for part in ("cmdline", "environ"))
                return
            yield noise(200_000, number)

    secret = "S3CRET-s3cret-value"
    repository = replace(far.repository, environment={"AWS_SECRET_ACCESS_KEY": Secret(secret)})
    far.store.save_stream(repository, slow(), path="/bundle", host="acme", run=RUN)
    assert set(seen) == {"restic", "ssh"}
    for words in seen.values():
        assert b"our own key" not in words
        assert b"PRIVATE KEY" not in words
        assert secret.encode() not in words.split(b"AWS_SECRET_ACCESS_KEY=")[0]
    assert list((far.ground / "ways").rglob("key")) == []
    assert list((far.ground / "ways" / str(os.geteuid())).iterdir()) == []


def test_the_limit_of_the_upload_holds(local: Place) -> None:
    source = local.source(a=noise(3_000_000))
    saved = local.save(source, run=replace(RUN, upload_kib_s=1500, cpus=1))
    # 3,000,000 bytes at 1,536,000 a second, less what may go at once.
    assert saved.duration_s > 0.9


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
