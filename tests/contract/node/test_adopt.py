"""An instance takes over the data of another one: whole, once, without following links, and its old data is kept."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.values.bundle import ABSENT, STOPPED, Adoption, Bundle
from tests.contract.node.conftest import Node
from tests.contract.node.test_converge import accepts, assert_nothing_left, starts

pytestmark = pytest.mark.servers


@pytest.fixture
def pair(node: Node) -> tuple[Bundle, Bundle]:
    """An instance that runs, and a stopped one beside it with the data that is to be taken over."""
    return pairs(node, 1)[0]


def pairs(node: Node, number: int) -> list[tuple[Bundle, Bundle]]:
    made = [(node.bundle(), replace(node.bundle(), state=STOPPED)) for _ in range(number)]
    applied = node.converge(*(bundle for pair in made for bundle in pair))
    assert {one.error for one in applied.values()} == {""}
    for old, new in made:
        _write(old, "data/host/accounts.dat", "old")
        _write(old, "uploads/old.bin", "old file")
        _write(new, "data/host/accounts.dat", "new")
        _write(new, "uploads/new.bin", "new file")
    return made


def _write(bundle: Bundle, path: str, text: str) -> Path:
    entry = pwd.getpwnam(bundle.user)
    file = Path(bundle.root) / path
    for directory in reversed(file.relative_to(bundle.root).parents):
        made = Path(bundle.root) / directory
        if not made.exists():
            made.mkdir(mode=0o750)
            os.chown(made, entry.pw_uid, entry.pw_gid)
    file.write_text(text)
    os.chown(file, entry.pw_uid, entry.pw_gid)
    return file


def taking(old: Bundle, new: Bundle, name: str = "restore1") -> Bundle:
    return replace(old, adopt=Adoption(name, new.key, new.user, new.root), kept=name)


def owners(top: Path) -> set[tuple[int, int]]:
    found = {(top.stat().st_uid, top.stat().st_gid)}
    for here, directories, files in os.walk(top):
        for name in directories + files:
            seen = os.lstat(Path(here) / name)
            found.add((seen.st_uid, seen.st_gid))
    return found


def assert_taken(old: Bundle, name: str = "restore1") -> None:
    root, entry = Path(old.root), pwd.getpwnam(old.user)
    assert (root / "data/host/accounts.dat").read_text() == "new"
    assert (root / "uploads/new.bin").read_text() == "new file"
    assert not (root / "uploads/old.bin").exists()
    assert owners(root / "data") | owners(root / "uploads") == {(entry.pw_uid, entry.pw_gid)}
    assert (root / f"before-{name}/data/host/accounts.dat").read_text() == "old"
    assert (root / f"before-{name}/uploads/old.bin").read_text() == "old file"
    kept = (root / f"before-{name}").stat()
    assert (kept.st_uid, kept.st_mode & 0o777) == (0, 0o700)
    assert accepts(old)


def test_data_and_files_are_taken_over_and_the_old_are_kept(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    applied = node.converge(taking(old, new))[old.key]
    assert (applied.error, applied.changed, applied.restarted, applied.running) == ("", True, True, True)
    assert_taken(old)
    assert not (Path(new.root) / "data").exists()


def test_once_is_enough_and_what_came_later_stays(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    """Also when the other one is gone, or there is another one of its name by now."""
    old, new = pair
    node.converge(taking(old, new))
    _write(old, "data/host/later.dat", "written after the switch")
    node.converge(replace(new, state=ABSENT))
    again = node.converge(taking(old, new))[old.key]
    assert (again.error, again.changed, again.restarted, again.running) == ("", False, False, True)
    assert (Path(old.root) / "data/host/later.dat").exists()
    assert len(starts(old)) == 2


def test_a_stopped_instance_takes_over_at_its_next_start(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    assert node.converge(replace(taking(old, new), state=STOPPED))[old.key].error == ""
    assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"
    assert node.converge(taking(old, new))[old.key].running
    assert_taken(old)


def test_links_are_given_away_and_not_followed(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    entry = pwd.getpwnam(new.user)
    outside = node.place / "outside"
    outside.mkdir()
    (outside / "root's").write_text("root's")
    for name, target in (("data/link", outside), ("uploads/file", outside / "root's"), ("data/up", Path("../.."))):
        os.symlink(target, Path(new.root) / name)
        os.lchown(Path(new.root) / name, entry.pw_uid, entry.pw_gid)
    assert node.converge(taking(old, new))[old.key].error == ""
    assert_taken(old)
    assert {path.stat().st_uid for path in (outside, outside / "root's", node.place / "tenants")} == {0}
    assert os.readlink(Path(old.root) / "data/up") == "../.."


def test_a_link_in_place_of_the_data_is_refused(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    shutil.rmtree(Path(new.root) / "data")
    os.symlink(Path(old.root) / "config", Path(new.root) / "data")
    assert "taken over" in node.converge(taking(old, new))[old.key].error
    assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"


def test_what_belongs_to_others_is_refused_and_nothing_is_moved(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    """A hostile engine could have given a second name to a file that it may write."""
    old, new = pair
    file = Path(new.root) / "data/strange"
    for how in ("belongs to somebody else", "second name"):
        if how == "second name":
            os.link(Path(new.root) / "data/host/accounts.dat", file)
        else:
            file.write_text("root's")
        assert how in node.converge(taking(old, new))[old.key].error
        assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"
        file.unlink()
    assert node.converge(taking(old, new))[old.key].running
    assert_taken(old)


def test_who_still_runs_is_not_robbed(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    node.converge(replace(new, state="running"))
    applied = node.converge(taking(old, new))[old.key]
    assert "still runs" in applied.error
    assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"
    assert accepts(new)
    node.converge(new)
    assert node.converge(taking(old, new))[old.key].running
    assert_taken(old)


def test_a_run_that_was_killed_half_way_is_finished_by_the_next(node: Node) -> None:
    """The states that a killed run leaves, made by hand; the machine may have started an empty engine meanwhile."""
    made = dict(zip(("plan", "old moved", "data moved", "all moved"), pairs(node, 4), strict=True))
    node.converge(*(replace(old, state=STOPPED) for old, _ in made.values()))
    (node.place / "state/adopted").mkdir(mode=0o700)
    for killed_after, (old, new) in made.items():
        _half_way(node, old, new, killed_after)
    applied = node.converge(*(taking(old, new) for old, new in made.values()))
    for old, _ in made.values():
        assert (applied[old.key].error, applied[old.key].running) == ("", True)
        assert_taken(old)
    assert (Path(made["old moved"][0].root) / "before-restore1/data-2/of-an-empty-engine").exists()


def _half_way(node: Node, old: Bundle, new: Bundle, killed_after: str) -> None:
    root, source = Path(old.root), Path(new.root)
    numbers = {path: (source / path).stat().st_ino for path in Adoption.PATHS}
    plan = node.place / "state/adopted" / old.key
    plan.write_text(json.dumps({"id": "restore1", "numbers": numbers, "done": False}))
    mine = pwd.getpwnam(old.user)
    for path in Adoption.PATHS:  # the owner is changed before the plan is written
        for here, directories, files in os.walk(source / path):
            for name in [*directories, *files, "."]:
                os.lchown(Path(here) / name, mine.pw_uid, mine.pw_gid)
    if killed_after != "plan":
        (root / "before-restore1").mkdir(mode=0o700)
        os.rename(root / "data", root / "before-restore1/data")
    if killed_after == "old moved":
        _write(old, "data/of-an-empty-engine", "")
    if killed_after in ("data moved", "all moved"):
        os.rename(source / "data", root / "data")
    if killed_after == "all moved":
        os.rename(root / "uploads", root / "before-restore1/uploads")
        os.rename(source / "uploads", root / "uploads")


def test_what_is_kept_goes_when_it_is_not_wanted_any_more(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    node.converge(taking(old, new))
    still = node.converge(replace(old, kept="restore1"))[old.key]
    assert (still.changed, still.restarted) == (False, False)
    assert (Path(old.root) / "before-restore1").is_dir()
    gone = node.converge(old)[old.key]
    assert (gone.error, gone.restarted) == ("", False)
    assert not (Path(old.root) / "before-restore1").exists()
    assert (Path(old.root) / "data/host/accounts.dat").read_text() == "new"
    node.converge(replace(old, state=ABSENT))
    assert_nothing_left(node, old)


def test_check_mode_touches_nothing(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    assert node.converge(taking(old, new), check=True)[old.key].changed
    assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"
    assert (Path(new.root) / "data/host/accounts.dat").read_text() == "new"
    assert accepts(old)


def test_an_adoption_of_something_else_is_refused(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, new = pair
    right = {"id": "restore1", "key": new.key, "user": new.user, "root": new.root}
    for changes in ({"root": "/etc"}, {"key": "../../etc", "root": "/etc"}, {"user": "root"}, {"id": "../up"}):
        assert node.converge(replace(old, adopt=Adoption(**(right | changes))))[old.key].error, changes
        assert (Path(old.root) / "data/host/accounts.dat").read_text() == "old"
        assert Path("/etc/passwd").stat().st_uid == 0


def test_its_own_data_cannot_be_taken_over(node: Node, pair: tuple[Bundle, Bundle]) -> None:
    old, _ = pair
    wanted = replace(old, adopt=Adoption("restore1", old.key, old.user, old.root))
    assert "its own" in node.converge(wanted)[old.key].error
