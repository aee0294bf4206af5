"""Runs the tests' jobs, several at a time where they do not disturb each other, and counts what their reports say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.errors import Problem

JOB_TIMEOUT_S = 1500
SHOWN_LINES = 150
#: More failures than this in one job are no accident of a busy machine.
MOST_TRIED_AGAIN = 8
#: pytest's exit status when tests ran and some failed.
SOME_FAILED = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One command. ``report``: the JUnit file that it writes, if it is a run of pytest.

    ``after``: names of jobs that have to be over before it begins, however they went; those that are not run do not
    count.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    report: Path | None = None
    timeout_s: float = JOB_TIMEOUT_S
    after: frozenset[str] = frozenset()


@dataclass(slots=True)
class Count:
    """Tests, and jobs that failed by name. ``again``: those of the jobs that failed, with the tests to try again."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    broken: list[str] = field(default_factory=list)
    again: list[tuple[Job, list[str]]] = field(default_factory=list)

    def line(self) -> str:
        """One line that says it all, in the form that test runners close with."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def run_all(jobs: Sequence[Job], count: Count, *, at_once: int, logs: Path) -> None:
    """Run them in their order, as far as each may begin; print a line for each, and the output of those that fail."""
    logs.mkdir(parents=True, exist_ok=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what it puts into the background; jobs would inherit that and could not be ended kindly.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    row = _Row(jobs)
    running: list[subprocess.Popen[bytes]] = []

    def take() -> None:
        for job in row:
            try:
                _run(job, count, logs, running)
            finally:
                row.over(job)

    pool = ThreadPoolExecutor(at_once)
    taking = [pool.submit(take) for _ in range(at_once)]
    try:
        wait(taking, return_when=FIRST_EXCEPTION)
        for future in (one for one in taking if one.done()):
            future.result()
    except BaseException:
        row.stop()
        for process in running:
            _end(process)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def try_again(count: Count, *, logs: Path) -> None:
    """What failed while others used the machine, once more and alone: it counts as failed if it fails again.

    What passes only then is named, since it tells of a limit that is too short or of a test that disturbs another.
    """
    todo, count.again = count.again, []
    for job, tests in todo:
        report = job.report.with_suffix(".again.xml") if job.report is not None else None
        first = [word for word in job.argv if not word.startswith(("tests/", "--junitxml=", "--ignore="))]
        alone = list(dict.fromkeys(tests))
        once = replace(job, name=f"{job.name}, again", argv=[*first, f"--junitxml={report}", *alone], report=report)
        second = Count()
        run_all([once], second, at_once=1, logs=logs)
        if not second.broken and second.passed >= len(alone):
            count.broken.remove(job.name)
            count.failed -= len(tests)
            count.passed += len(alone)
            print(f"     passed at the second try, alone: {', '.join(alone)}", flush=True)


class _Row:
    """The jobs that wait, for several threads: each takes the first that may begin, until none is left."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)
        self._pending = {job.name for job in jobs}
        self._changed = threading.Condition()
        early: set[str] = set()
        for job in jobs:
            late = (job.after & self._pending) - early
            if late:
                raise ValueError(f"{job.name} stands before what it has to wait for: {', '.join(sorted(late))}")
            early.add(job.name)

    def __iter__(self) -> Iterator[Job]:
        while (job := self._next()) is not None:
            yield job

    def _next(self) -> Job | None:
        with self._changed:
            while self._waiting:
                for job in self._waiting:
                    if not job.after & self._pending:
                        self._waiting.remove(job)
                        return job
                self._changed.wait()
            return None

    def over(self, job: Job) -> None:
        with self._changed:
            self._pending.discard(job.name)
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody begins another one."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()


def _run(job: Job, count: Count, logs: Path, running: list[subprocess.Popen[bytes]]) -> None:
    start = time.monotonic()
    log = logs / f"{re.sub(r'[^A-Za-z0-9]+', '-', job.name)}.log"
    if job.report is not None:
        job.report.unlink(missing_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            job.argv,
            cwd=job.cwd,
            env=dict(job.environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a stuck one ends with what it started
        )
    running.append(process)
    try:
        code: int | str = process.wait(timeout=job.timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        code = f"stopped after {job.timeout_s:.0f} s"
    _finish(job, code, log.read_text(errors="replace").splitlines(), time.monotonic() - start, count)


def _finish(job: Job, code: int | str, lines: list[str], took_s: float, count: Count) -> None:
    last = lines[-1].strip("= ") if job.report is not None and lines else ""
    if job.report is not None and not _read(job.report, count) and code == 0:
        code = "wrote no report"
    if code == 0:
        print(f"  ✓  {job.name:<44} {took_s:6.1f} s  {last}", flush=True)
        return
    count.broken.append(job.name)
    tests = _failed(job.report) if job.report is not None and code == SOME_FAILED else []
    if 0 < len(tests) <= MOST_TRIED_AGAIN:
        count.again.append((job, tests))
    cut = [f"… ({len(lines) - SHOWN_LINES} lines before)"] if len(lines) > SHOWN_LINES else []
    shown = "\n".join(f"    {line}" for line in [*cut, *lines[-SHOWN_LINES:]])
    print(f"{shown}\n  ✗  {job.name:<44} {took_s:6.1f} s  exit status {code}", flush=True)


def _read(report: Path, count: Count) -> bool:
    try:
        suites = ET.parse(report).getroot().iter("testsuite")
    except (OSError, ET.ParseError):
        return False
    for suite in suites:
        number = {name: int(suite.get(name, "0")) for name in ("tests", "errors", "failures", "skipped")}
        bad = number["errors"] + number["failures"]
        count.failed += bad
        count.skipped += number["skipped"]
        count.passed += number["tests"] - bad - number["skipped"]
    return True


def _failed(report: Path) -> list[str]:
    """The tests that a report calls failed, in pytest's words (``tests/x/test_y.py::Class::test_z[a]``).

    One whose clean-up failed, too, is there twice, as the report counts it.
    """
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):
        if case.find("failure") is None and case.find("error") is None:
            continue
        file = case.get("file", "")
        inner = case.get("classname", "").removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
        found.append("::".join([file, *filter(None, [inner.replace(".", "::")]), case.get("name", "")]))
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a job that we started, and its own process group."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            break
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            continue


def verdict(count: Count) -> int:
    """Print the closing line; the exit code."""
    if count.broken:
        print(f"Failed: {', '.join(count.broken)}")
    print(count.line(), flush=True)
    if not count.passed and not count.failed and not count.broken:
        raise Problem("No test ran: the selection matches none.")
    return 1 if count.broken or count.failed else 0
