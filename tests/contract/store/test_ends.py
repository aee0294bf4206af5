"""Runs that end before their time: cancelled, too late, killed at any of its processes. What comes after must work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.drivers.store.base import Cancelled, Locked
from controlplane.values.errors import RoostError, Unavailable
from tests.contract.store.conftest import RUN, Place, noise, processes

pytestmark = pytest.mark.servers

#: Another process that feeds a stream slowly, and says when it has begun.
WORKER = """
import sys, time
from pathlib import Path
from controlplane.drivers.store.base import Repository, Run
from controlplane.drivers.store.restic import Restic
from controlplane.values.secret import Secret
import random
ground = Path(sys.argv[1])
store = Restic(ground / "cache", temporary=ground, ways=ground / "ways")
def chunks():
    for number in range(1000):
        yield random.randbytes(200_000)
        if number == 50:
            print("begun", flush=True)
        if number > 50:
            time.sleep(0.05)
store.save_stream(Repository(url=sys.argv[2], key=Secret("our own key")), chunks(), path="/a", host="acme", run=Run())
"""


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def nothing_is_left(place: Place, kept: list[str]) -> None:
    """No process, no snapshot but ``kept``, no lock that hinders, and all that is stored is whole."""
    assert soon(lambda: processes(str(place.ground)) == []), processes(str(place.ground))
    place.store.prune(place.repository, run=RUN)
    assert place.ids() == kept
    assert place.store.check(place.repository, read_percent=100, run=RUN)
    assert not place.locks()


def test_a_source_that_fails_makes_no_snapshot(local: Place) -> None:
    def chunks() -> Iterator[bytes]:
        yield noise(3_000_000)
        raise ValueError("the engine went away")

    with pytest.raises(ValueError, match="went away"):
        local.store.save_stream(local.repository, chunks(), path="/a", host="acme", run=RUN)
    nothing_is_left(local, [])


@pytest.mark.parametrize("victim", ["worker", "restic", "guard", "everything"])
def test_killed_in_the_middle_of_a_stream(local: Place, victim: str) -> None:
    argv = [sys.executable, "-c", WORKER, str(local.ground), local.repository.url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"begun\n"
        pids = {name: pid for name, pid in processes(str(local.ground)) if name == "restic"}
        guards = [int(pid) for pid in os.popen(f"pgrep -P {worker.pid} -x sh").read().split()]
        assert len(pids) == len(guards) == 1
        chosen = {
            "worker": [worker.pid],
            "restic": list(pids.values()),
            "guard": guards,
            "everything": [worker.pid, *guards, *pids.values()],
        }[victim]
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        assert worker.wait(timeout=30) != 0
    # One that is killed counts as living until its new parent took notice of its end.
    assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()))
    nothing_is_left(local, [])
    if victim == "restic":
        saved = local.store.save_stream(local.repository, [b"after"], path="/a", host="acme", run=RUN)
        assert local.content(saved, "/a") == b"after"


def test_killed_in_the_middle_of_a_prune(local: Place) -> None:
    old = local.save(local.source(a=noise(6_000_000, 1)))
    new = local.save(local.source(a=noise(6_000_000, 2)))
    local.store.remove(local.repository, [old.snapshot])
    killed = threading.Event()

    def killing() -> bool:
        if not killed.is_set() and local.locks():
            for name, pid in processes(str(local.ground)):
                if name == "restic":
                    os.kill(pid, signal.SIGKILL)
                    killed.set()
        return False

    with pytest.raises(RoostError):
        local.store.prune(local.repository, run=replace(RUN, cancelled=killing))
    nothing_is_left(local, [new.snapshot])
    assert local.content(new, "/a") == noise(6_000_000, 2)


def test_cancelled_and_too_late(local: Place) -> None:
    before = local.save(local.source(a=b"1"))
    fed = [0]

    def chunks() -> Iterator[bytes]:
        while True:
            fed[0] += 1
            yield noise(200_000, fed[0] % 50)
            time.sleep(0.01)

    with pytest.raises(Cancelled):
        local.store.save_stream(
            local.repository, chunks(), path="/a", host="acme", run=replace(RUN, cancelled=lambda: fed[0] > 20)
        )
    with pytest.raises(Unavailable, match="within 2 seconds"):
        local.store.save_stream(local.repository, chunks(), path="/a", host="acme", run=replace(RUN, timeout_s=2))
    with pytest.raises(Cancelled):
        local.save(local.source(a=b"2"), run=replace(RUN, cancelled=lambda: True))
    nothing_is_left(local, [before.snapshot])


def test_a_slow_source_and_a_slow_reader_are_waited_for(local: Place) -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(2):
            yield noise(9_000_000, number)
            time.sleep(6)

    patient = replace(RUN, patience_s=4)
    saved = local.store.save_stream(local.repository, chunks(), path="/a", host="acme", run=patient)
    size = 0
    with local.store.read(local.repository, saved.snapshot, "/a", run=patient) as parts:
        for part in parts:
            if not size:
                time.sleep(6)
            size += len(part)
    assert size == 18_000_000


def test_a_lock_of_a_living_run_is_respected(local: Place) -> None:
    def chunks() -> Iterator[bytes]:
        yield noise(3_000_000)
        assert soon(lambda: len(local.locks()) == 1)
        with pytest.raises(Locked) as locked:
            local.store.prune(local.repository, run=RUN)
        assert f"{os.uname().nodename}" in locked.value.message
        # Others may save meanwhile.
        local.save(local.source(a=b"1"))
        yield b"end"

    saved = local.store.save_stream(local.repository, chunks(), path="/a", host="acme", run=RUN)
    assert local.content(saved, "/a") == noise(3_000_000) + b"end"
    assert len(local.ids()) == 2
