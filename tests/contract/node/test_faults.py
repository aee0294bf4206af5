"""What happens when workers, runs and supervisors die, when two runs meet, and what is left of secrets."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.drivers.node.ansible import pack
from controlplane.drivers.node.base import NodeTarget
from controlplane.values.bundle import ABSENT, ManagedFile
from controlplane.values.errors import Rejected, Unavailable
from tests.contract.node.conftest import Node, processes_of, with_file
from tests.contract.node.test_converge import accepts, assert_nothing_left, starts
from tests.servers.processes import kill

pytestmark = pytest.mark.servers

WORKER = """
import pickle, sys
from tests.contract.node.conftest import *
driver, target, bundles, options = pickle.load(open(sys.argv[1], "rb"))
print("begin", flush=True)
print(driver.converge(target, bundles, **options), flush=True)
"""


def worker(node: Node, *bundles, **options) -> subprocess.Popen[str]:
    """A process of its own that converges, to be killed."""
    import pickle

    options.setdefault("fence", node.fence)
    options.setdefault("timeout_s", 60)
    job = node.place / "job.pickle"
    job.write_bytes(pickle.dumps((node.driver, node.target, bundles, options)))
    return subprocess.Popen([sys.executable, "-c", WORKER, str(job)], stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def modules_running(node: Node) -> list[int]:
    """Processes that hold the node's lock file open, so are in the midst of converging."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names = {os.readlink(fd) for fd in (entry / "fd").iterdir()}
            except OSError:
                continue
            if f"{node.place}/state/lock" in names:
                found.append(int(entry.name))
    return found


def test_a_lower_fence_is_refused_and_the_same_one_is_not(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle, fence=7)
    with pytest.raises(Rejected, match="fence"):
        node.converge(replace(bundle, state=ABSENT), fence=6)
    assert accepts(bundle)
    assert not node.converge(bundle, fence=7)[bundle.key].changed
    assert not node.converge(bundle, fence=9)[bundle.key].changed
    with pytest.raises(Rejected):
        node.converge(bundle, fence=8)


def test_a_held_node_is_waited_for_and_then_unavailable(node: Node) -> None:
    bundle = node.bundle()
    (node.place / "state").mkdir()
    with (node.place / "state/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="held"):
            node.converge(bundle, timeout_s=16)
        assert not Path(bundle.root).exists()
        threading.Timer(2.0, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        assert node.converge(bundle)[bundle.key].running


@pytest.mark.parametrize("moment", ["tree", "definition", "process"])
def test_a_run_killed_midway_is_completed_by_the_next(node: Node, moment: str) -> None:
    bundles = [node.bundle() for _ in range(6)]
    last = bundles[-1]
    seen = {
        "tree": Path(bundles[2].root) / "config",
        "definition": node.place / "programs" / f"roost-{bundles[0].key}.conf",
        "process": Path(bundles[0].root) / "log/starts",
    }[moment]
    process = worker(node, *bundles)
    wait_for(seen.exists)
    for pid in modules_running(node):
        kill(pid)
    process.kill()
    process.wait()
    applied = node.converge(*bundles)
    assert [one.error for one in applied.values()] == [""] * 6
    assert all(one.running for one in applied.values())
    assert accepts(last)
    assert not any(one.changed for one in node.converge(*bundles).values())
    node.converge(*[replace(bundle, state=ABSENT) for bundle in bundles])
    for bundle in bundles:
        assert_nothing_left(node, bundle)


def test_a_restart_that_a_killed_run_owed_is_done_by_the_next(node: Node) -> None:
    bundle = node.bundle(mode="stubborn")
    node.converge(bundle)
    changed = with_file(bundle, "config/engine.cfg", b"new\n")
    process = worker(node, changed)
    wait_for(lambda: (Path(bundle.root) / "config/engine.cfg").read_bytes() == b"new\n")
    (module,) = modules_running(node)
    os.kill(module, signal.SIGKILL)  # the engine takes 5 s to be stopped, so it is not started anew yet
    process.wait(timeout=30)
    applied = node.converge(changed)[bundle.key]
    assert (applied.error, applied.running) == ("", True)
    assert len(starts(bundle)) == 2
    assert not node.converge(changed)[bundle.key].changed


def test_an_orphaned_run_cannot_undo_a_newer_one(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle, fence=1)
    with (node.place / "state/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = worker(node, replace(bundle, state=ABSENT), fence=2)
        wait_for(lambda: modules_running(node) != [os.getpid()])
        old.kill()  # the worker dies; its ansible-playbook lives on and waits for the lock
        old.wait()
        (node.place / "state/fence").write_text("3\n")
        fcntl.flock(lock, fcntl.LOCK_UN)
    wait_for(lambda: modules_running(node) == [])
    assert accepts(bundle)
    assert node.converge(bundle, fence=3)[bundle.key].running


def test_a_dead_supervisor_is_an_error_and_its_orphans_are_replaced(node: Node) -> None:
    bundle = node.bundle()
    node.converge(bundle)
    orphan = processes_of(bundle.user)
    node.kill()
    applied = node.converge(bundle)[bundle.key]
    assert applied.error.startswith("Unavailable: supervisord does not answer")
    assert not applied.running
    assert processes_of(bundle.user) == orphan
    (node.place / "programs" / f"roost-{bundle.key}.conf").unlink()  # so that it starts nothing by itself
    (node.place / "s.sock").unlink()
    node.start()
    applied = node.converge(bundle)[bundle.key]
    assert (applied.error, applied.running) == ("", True)
    assert len(processes_of(bundle.user)) == 1
    assert processes_of(bundle.user) != orphan


def test_cancelled_and_late_runs_are_unavailable(node: Node) -> None:
    bundle = node.bundle(mode="plain")
    slow = replace(bundle, program=replace(bundle.program, ready_socket="run/never.sock", ready_timeout_s=5))
    with pytest.raises(Unavailable, match="cancelled"):
        node.converge(slow, cancelled=lambda: bool(modules_running(node)))
    with pytest.raises(Unavailable, match="too long"):
        node.converge(slow, timeout_s=2)
    assert list((node.place / "ansible/runs").iterdir()) == []
    assert node.converge(bundle)[bundle.key].running


def test_an_unreachable_host_is_unavailable(node: Node) -> None:
    away = NodeTarget("far", "ssh", "systemd", "127.65.0.9", "/var/lib/roost", "/etc/systemd/system", ssh_port=9)
    with pytest.raises(Unavailable, match=r"127\.65\.0\.9 port 9"):
        node.driver.converge(away, [node.bundle()], fence=1, timeout_s=30)


def test_it_runs_in_a_thread_of_a_daemonic_process(node: Node) -> None:
    """As in a Celery worker of the prefork pool: a daemonic process, and signal handlers that must stay."""
    import multiprocessing

    bundle = node.bundle()

    def child(queue) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(node.converge(bundle)[bundle.key].running))
        thread.start()
        thread.join()
        done.append(node.converge(bundle)[bundle.key].changed)
        queue.put((done, signal.getsignal(signal.SIGTERM) == signal.SIG_IGN))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) == ([True, False], True)
    process.join()


def test_secrets_are_in_no_argument_environment_event_or_file_of_a_run(node: Node, monkeypatch) -> None:
    monkeypatch.setenv("ROOST_SECRET_KEY", "secret-in-environment")
    bundle = node.bundle(mode="plain")
    bundle = replace(
        bundle,
        files=(*bundle.files, ManagedFile("config/other", b"secret-in-config", on_change="none")),
        program=replace(bundle.program, ready_socket="run/never.sock", ready_timeout_s=3),
    )
    secrets = [b"secret-in-config", b"secret-in-key", b"secret-in-environment", pack([bundle])[:200].encode()]
    process = worker(node, bundle)
    runs = node.place / "ansible/runs"
    wait_for(lambda: bool(modules_running(node)))
    looked_at = 0
    while modules_running(node):
        for directory in (node.place / "ansible", *runs.iterdir()):
            assert directory.stat().st_mode & 0o077 == 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    told = (entry / "cmdline").read_bytes() + (
                        (entry / "environ").read_bytes() if int(entry.name) != process.pid else b""
                    )
                except OSError:
                    continue
                assert not any(secret in told for secret in secrets if b"pytest" not in told), entry.name
        for path in (node.place / "ansible").rglob("*"):
            if path.is_file() and path.name != "variables.json":
                content = path.read_bytes()
                assert not any(secret in content for secret in secrets), path
                looked_at += 1
        time.sleep(0.1)
    output, _ = process.communicate(timeout=30)
    assert looked_at
    assert not any(secret.decode() in output for secret in secrets)
    assert list(runs.iterdir()) == []


def test_secrets_of_a_killed_worker_go_with_the_next_run(node: Node) -> None:
    bundle = node.bundle(mode="plain")
    slow = replace(bundle, program=replace(bundle.program, ready_socket="run/never.sock", ready_timeout_s=2))
    process = worker(node, slow)
    wait_for(lambda: bool(modules_running(node)))
    process.kill()
    process.wait()
    left = list((node.place / "ansible/runs").glob("*/variables.json"))
    assert len(left) == 1
    assert left[0].stat().st_mode & 0o777 == 0o600
    assert node.converge(bundle)[bundle.key].running
    assert list((node.place / "ansible/runs").glob("*/variables.json")) == []


def test_templates_in_a_bundle_stay_text(node: Node) -> None:
    bundle = node.bundle()
    text = "{{ lookup('pipe', 'id') }} {% raw %}"
    bundle = replace(bundle, program=replace(bundle.program, env=(("GREETING", text),)))
    assert node.converge(bundle)[bundle.key].running
    assert starts(bundle)[0].endswith(" " + text)
