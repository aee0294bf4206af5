"""Several real processes measure into one directory; what those that were killed had measured stays, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.metrics import shared

ROOT = Path(__file__).resolve().parents[3]
#: Measures so often as it is told, says so, and lives until it is ended. A child of its fork measures once.
PROCESS = """
import os, sys
from django.conf import settings
settings.configure(ROOST={"METRICS_DIR": os.environ["ROOST_METRICS_DIR"]})
from controlplane import observing
from controlplane.metrics import instruments
observing.listen(instruments.take)
for _ in range(int(sys.argv[1])):
    observing.observed("reconcile.pass", 0.02, kind="Instance", queue="heal", outcome="done")
if sys.argv[2:] == ["fork"]:
    if os.fork() == 0:
        observing.observed("reconcile.pass", 0.02, kind="Instance", queue="heal", outcome="failed")
        os._exit(0)
    os.wait()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, settings) -> Path:
    settings.ROOST = {**settings.ROOST, "METRICS_DIR": str(tmp_path)}
    return tmp_path


class Process:
    def __init__(self, place: Path, times: int, *words: str) -> None:
        environment = {**os.environ, "ROOST_METRICS_DIR": str(place), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(times), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def total(text: str, outcome: str = "done") -> float:
    found = [s for f in text_string_to_metric_families(text) for s in f.samples]
    return sum(s.value for s in found if s.name == "roost_reconcile_passes_total" and s.labels["outcome"] == outcome)


def test_all_processes_are_added_up(place: Path) -> None:
    processes = [Process(place, 2), Process(place, 3, "fork")]
    try:
        text, living = shared.collected()
        assert total(text) == 5
        assert total(text, "failed") == 1  # a fork has a seat of its own
        assert {one.pid for one in living} == {p.process.pid for p in processes}
    finally:
        for process in processes:
            process.kill()
    assert "roost_reconcile_pass_seconds_bucket" in text


def test_what_the_dead_measured_stays_and_their_files_do_not(place: Path) -> None:
    for number in range(1, 4):
        Process(place, 2).kill()
        text, living = shared.collected()
        assert total(text) == 2 * number
        assert living == []
    text, _ = shared.collected()
    assert total(text) == 6
    assert sorted(path.name for path in place.iterdir()) == ["counter_0.db", "histogram_0.db", "lock"]


def test_dying_between_adding_and_removing_counts_nothing_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Process(place, 4).kill()
    unlink = Path.unlink

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".db"):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            shared.collected()
    assert total(shared.collected()[0]) == 4
    assert total(shared.collected()[0]) == 4


def test_a_damaged_file_is_left_out(place: Path) -> None:
    Process(place, 4).kill()
    (broken,) = place.glob("counter_*.db")
    data = bytearray(broken.read_bytes())
    data[8:12] = b"\xff\xff\xff\x7f"
    broken.write_bytes(data)
    assert total(shared.collected()[0]) == 0
    assert not list(place.glob("*.alive"))


@pytest.mark.parametrize("name", ["", "none"])
def test_no_directory_is_no_fault(settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    settings.ROOST = {**settings.ROOST, "METRICS_DIR": name}
    assert shared.collected() == ("", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/v/celery/__main__.py", "-A", "x", "worker", "-Q", "heal", "-c", "6"], "worker-heal"),
        (["/v/bin/celery", "-A", "x", "worker", "-Q", "reconcile,probe"], "worker-reconcile"),
        (["/v/celery/__main__.py", "-A", "x", "beat"], "clock"),
        (["/v/gunicorn/__main__.py", "controlplane.wsgi"], "web"),
        (["manage.py", "prober", "--place", "x"], "prober"),
        (["manage.py", "watcher"], "watcher"),
        (["manage.py", "shell"], "manage"),
        (["-c"], "other"),
    ],
)
def test_roles(argv: list[str], role: str) -> None:
    assert shared.role(argv) == role
