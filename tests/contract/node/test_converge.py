"""The life of an instance on a node with a real supervisord: made, changed, stopped, started, removed."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.values.bundle import ABSENT, STOPPED, ManagedFile
from tests.contract.node.conftest import CONTROL_GROUP, Node, processes_of, with_file

pytestmark = pytest.mark.servers


def starts(bundle) -> list[str]:
    return (Path(bundle.root) / "log/starts").read_text().splitlines()


def accepts(bundle) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{bundle.root}/run/control.sock") == 0


def assert_nothing_left(node: Node, bundle) -> None:
    assert processes_of(bundle.user) == []
    with pytest.raises(KeyError):
        pwd.getpwnam(bundle.user)
    with pytest.raises(KeyError):
        grp.getgrnam(bundle.user)
    assert not Path(bundle.root).exists()
    left = [path for path in node.place.rglob("*") if bundle.key in path.name]
    assert left == []


def test_create_gives_a_running_engine_in_a_closed_tree(node: Node) -> None:
    bundle = node.bundle()
    applied = node.converge(bundle)[bundle.key]
    assert (applied.error, applied.changed, applied.running) == ("", True, True)
    assert (applied.restarted, applied.reload_needed) == (False, False)
    assert accepts(bundle)
    entry = pwd.getpwnam(bundle.user)
    assert (entry.pw_dir, entry.pw_shell) == (bundle.root, "/usr/sbin/nologin")
    wanted = {
        "": (0, entry.pw_gid, 0o751),
        "config": (0, entry.pw_gid, 0o750),
        "data": (entry.pw_uid, entry.pw_gid, 0o750),
        "run": (entry.pw_uid, grp.getgrnam(CONTROL_GROUP).gr_gid, 0o2770),
        "certs/key.pem": (0, entry.pw_gid, 0o640),
    }
    for path, expected in wanted.items():
        seen = os.stat(Path(bundle.root) / path)
        assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == expected, path
    definition = node.place / "programs" / f"roost-{bundle.key}.conf"
    assert stat.S_IMODE(definition.stat().st_mode) == 0o600


def test_the_engine_has_limits_and_no_privileges_and_its_environment_alone(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    (pid,) = processes_of(bundle.user)
    proc = Path(f"/proc/{pid}")
    limits = (proc / "limits").read_text()
    assert "Max open files            777                  777" in limits
    assert "Max data size             268435456            268435456" in limits
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapBnd"].strip(), 16) == int(status["CapEff"].strip(), 16) == 0
    assert status["Groups"].split() == []
    greeting = dict(bundle.program.env)["GREETING"]
    assert (proc / "environ").read_bytes() == f"GREETING={greeting}\0".encode()
    assert starts(bundle) == [f"{pid} {greeting}"]


def test_second_run_changes_nothing(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    again = node.converge(bundle)[bundle.key]
    assert (again.changed, again.restarted, again.reload_needed, again.diff) == (False, False, False, ())
    assert (again.running, again.error) == (True, "")
    assert len(starts(bundle)) == 1


def test_a_changed_file_restarts_or_asks_for_reload_or_neither(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    for path, restarted, reload_needed in [
        ("config/engine.cfg", True, False),
        ("certs/key.pem", False, True),
        ("config/motd", False, False),
    ]:
        bundle = with_file(bundle, path, b"another secret\n")
        applied = node.converge(bundle)[bundle.key]
        assert (applied.error, applied.changed, applied.running) == ("", True, True), path
        assert (applied.restarted, applied.reload_needed) == (restarted, reload_needed), path
        assert (Path(bundle.root) / path).read_bytes() == b"another secret\n"
        assert not node.converge(bundle)[bundle.key].changed
    assert len(starts(bundle)) == 2


def test_a_changed_program_restarts(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    bundle = replace(bundle, program=replace(bundle.program, open_files=555))
    applied = node.converge(bundle)[bundle.key]
    assert (applied.restarted, applied.running) == (True, True)
    (pid,) = processes_of(bundle.user)
    assert "Max open files            555" in Path(f"/proc/{pid}/limits").read_text()
    assert "Max processes             512" in Path(f"/proc/{pid}/limits").read_text()


def test_files_no_longer_wanted_go_and_drift_is_mended(node: Node) -> None:
    extra = ManagedFile("config/conf.d/extra.cfg", b"x", on_change="none")
    bundle = node.bundle()
    node.converge(replace(bundle, files=(*bundle.files, extra)))
    root = Path(bundle.root)
    assert (root / extra.path).exists()
    (root / "data/kept").write_text("the tenant's")
    (root / "config/motd").chmod(0o666)
    (root / "certs/key.pem").unlink()
    (root / "certs/key.pem").symlink_to("/etc/passwd")
    applied = node.converge(bundle)[bundle.key]
    assert applied.error == ""
    assert not (root / "config/conf.d").exists()
    assert stat.S_IMODE((root / "config/motd").stat().st_mode) == 0o640
    assert not (root / "certs/key.pem").is_symlink()
    assert (root / "certs/key.pem").read_bytes() == b"secret-in-key\n"
    assert (root / "data/kept").read_text() == "the tenant's"
    assert Path("/etc/passwd").stat().st_uid == 0


def test_a_tenants_symbolic_link_is_not_followed(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    outside = node.place / "outside"
    outside.mkdir()
    (Path(bundle.root) / "data/sub").symlink_to(outside)
    hostile = replace(bundle, files=(*bundle.files, ManagedFile("data/sub/file", b"x")))
    applied = node.converge(hostile)[bundle.key]
    assert applied.error
    assert list(outside.iterdir()) == []


def test_stop_keeps_data_and_start_brings_it_back(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    (Path(bundle.root) / "data/kept").write_text("x")
    stopped = replace(bundle, state=STOPPED)
    applied = node.converge(stopped)[bundle.key]
    assert (applied.error, applied.changed, applied.running) == ("", True, False)
    assert processes_of(bundle.user) == []
    assert not node.converge(stopped)[bundle.key].changed
    node.stop()  # a stopped instance stays so when the node's supervisor comes back
    node.start()
    assert processes_of(bundle.user) == []
    applied = node.converge(bundle)[bundle.key]
    assert (applied.error, applied.running, applied.restarted) == ("", True, False)
    assert (Path(bundle.root) / "data/kept").exists()


def test_a_dead_process_is_started_again(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    node.stop()
    node.start()
    assert node.converge(bundle)[bundle.key].running
    assert accepts(bundle)
    node.stop()
    (node.place / "programs" / f"roost-{bundle.key}.conf").unlink()
    node.start()
    assert node.converge(bundle)[bundle.key].running
    assert accepts(bundle)


def test_a_restart_that_is_wished_for_is_done_once_for_each_wish(node: Node) -> None:
    bundle = node.bundle()
    wish = replace(bundle, restart=True)
    assert wish.digest() == bundle.digest(), "it is a wish, and nothing that the instance is"
    node.converge(bundle)
    before = processes_of(bundle.user)
    foretold = node.converge(wish, check=True)[bundle.key]
    assert (foretold.changed, processes_of(bundle.user)) == (True, before)
    applied = node.converge(wish)[bundle.key]
    assert (applied.restarted, applied.running, applied.error) == (True, True, "")
    after = processes_of(bundle.user)
    assert not set(before) & set(after)
    assert node.converge(bundle)[bundle.key].changed is False
    assert processes_of(bundle.user) == after


def test_a_process_that_hangs_is_not_waited_for(node: Node) -> None:
    """Asked to end it would take ten minutes, and the run has one."""
    bundle = node.bundle()
    bundle = replace(bundle, program=replace(bundle.program, stop_wait_s=600))
    node.converge(bundle)
    before = processes_of(bundle.user)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    wish = replace(bundle, restart=True, hangs=True)
    assert wish.digest() == bundle.digest()
    applied = node.converge(wish, timeout_s=60)[bundle.key]
    assert (applied.restarted, applied.running, applied.error) == (True, True, "")
    assert not set(before) & set(processes_of(bundle.user))
    assert accepts(bundle)


@pytest.mark.parametrize("mode", ["socket", "plain", "child", "stubborn"])
def test_absent_leaves_nothing(node: Node, mode: str) -> None:
    bundle = node.bundle(mode=mode)
    bundle = replace(bundle, program=replace(bundle.program, stop_wait_s=1))
    assert node.converge(bundle)[bundle.key].running
    assert processes_of(bundle.user)
    gone = replace(bundle, state=ABSENT)
    applied = node.converge(gone)[bundle.key]
    assert (applied.error, applied.changed, applied.running) == ("", True, False)
    assert_nothing_left(node, bundle)
    assert not node.converge(gone)[bundle.key].changed


def test_twenty_bundles_in_one_run_and_one_fault_is_its_owners_alone(node: Node) -> None:
    bundles = [node.bundle() for _ in range(20)]
    bundles[7] = replace(bundles[7], control_group="no-such-group")
    applied = node.converge(*bundles)
    assert list(applied) == [bundle.key for bundle in bundles]
    assert "no-such-group" in applied[bundles[7].key].error
    assert all(applied[b.key].running and not applied[b.key].error for b in bundles if b is not bundles[7])
    assert not any(one.changed for one in node.converge(*bundles[:7], *bundles[8:]).values())
    node.converge(*[replace(b, state=ABSENT) for b in bundles])
    for bundle in bundles:
        assert_nothing_left(node, bundle)


def test_an_engine_that_ends_is_an_error_that_names_its_output(node: Node) -> None:
    bundle = node.bundle(mode="crash")
    bundle = replace(bundle, program=replace(bundle.program, ready_timeout_s=2))
    good = node.bundle()
    applied = node.converge(bundle, good)
    assert applied[good.key].running
    assert f"roost-{bundle.key}" in applied[bundle.key].error
    assert f"{node.place}/state/log/roost-{bundle.key}.log" in applied[bundle.key].error
    mended = replace(bundle, program=replace(good.program, argv=good.program.argv))
    assert node.converge(mended)[bundle.key].running


def test_check_mode_tells_the_truth_and_touches_nothing(node: Node) -> None:
    bundle = node.bundle()
    predicted = node.converge(bundle, check=True)[bundle.key]
    assert (predicted.error, predicted.changed, predicted.running) == ("", True, False)
    assert_nothing_left(node, bundle)
    applied = node.converge(bundle)[bundle.key]
    assert sorted(predicted.diff) == sorted(applied.diff)
    assert not node.converge(bundle, check=True)[bundle.key].changed
    for changed in (
        with_file(bundle, "config/engine.cfg", b"x"),
        with_file(bundle, "certs/key.pem", b"x"),
        replace(bundle, state=STOPPED),
        replace(bundle, state=ABSENT),
    ):
        before = {path: path.lstat().st_mtime_ns for path in node.place.glob("tenants/**/*")}
        predicted = node.converge(changed, check=True)[bundle.key]
        assert predicted.changed
        assert {path: path.lstat().st_mtime_ns for path in node.place.glob("tenants/**/*")} == before
        assert accepts(bundle)
        done = node.converge(changed)[bundle.key]
        assert (sorted(done.diff), done.reload_needed) == (sorted(predicted.diff), predicted.reload_needed)
        if changed.state != ABSENT:
            node.converge(bundle)


def test_a_user_that_is_not_ours_is_left_alone(node: Node) -> None:
    bundle = replace(node.bundle(), user="nobody")
    for state in ("running", ABSENT):
        applied = node.converge(replace(bundle, state=state))[bundle.key]
        assert "is not this instance's" in applied.error
    assert pwd.getpwnam("nobody")


def test_a_slow_start_holds_up_the_run_no_longer_than_asked(node: Node) -> None:
    """Up but not accepting is no error at the limit; what does not stay up is one."""
    slow, broken = node.bundle(), node.bundle(mode="crash")
    slow = replace(slow, program=replace(slow.program, ready_socket="run/never.sock", ready_timeout_s=60))
    broken = replace(broken, program=replace(broken.program, ready_timeout_s=60))
    results = node.converge(slow, broken, ready_limit_s=2)
    assert (results[slow.key].error, results[slow.key].running) == ("", False)
    assert "does not stay up" in results[broken.key].error or "ended instead of running" in results[broken.key].error
