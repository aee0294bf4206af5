"""Processes of a rig: marked by a variable in their environment, so that they are found after any crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

MARK = "ROOST_RIG"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RigError(Exception):
    """Something of the rig could not be made; the message says what and what a tool said."""


def environment(rig: Path) -> dict[str, str]:
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", MARK: str(rig)}


def run(argv: Sequence[str], *, stdin: str = "", timeout_s: float = 60.0, check: bool = True) -> str:
    """A command's standard output; ``RigError`` with what it said if it fails."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"{argv[0]}: {error}") from error
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing")[-600:]
        raise RigError(f"{' '.join(argv)[:200]} failed ({done.returncode}): {said}")
    return done.stdout


def start(argv: Sequence[str], rig: Path, log: Path) -> int:
    """Start a process that outlives this one; its number."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(rig),
            start_new_session=True,
            cwd="/",
        )
    return process.pid


def lives(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_marked(pid: int, rig: Path) -> bool:
    """True for a process that this rig started."""
    try:
        return f"{MARK}={rig}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def marked(rig: Path) -> list[int]:
    """All processes of this rig, whoever started them."""
    return [pid for pid in _others() if is_marked(pid, rig)]


def in_networks(pids: Sequence[int]) -> list[int]:
    """All processes in the networks of these, whoever started them; never in that of this machine.

    This process and those above it are left out: a test, or a shell, may have gone into one of them.
    """
    above = _ancestors()
    # Process 1 may not be looked at everywhere; then the oldest ancestor that may.
    outer = next((name for name in map(_network, reversed(above)) if name), "")
    wanted = {_network(pid) for pid in pids} - {outer, ""}
    if not outer or not wanted:
        return []
    return [pid for pid in _others() if pid not in above and _network(pid) in wanted]


def _others() -> list[int]:
    return [int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit() and int(e.name) != os.getpid()]


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _ancestors() -> list[int]:
    """The oldest last."""
    pid = os.getpid()
    found = [pid]
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        found.append(pid)
    return found


def kill(pids: Sequence[int], limit_s: float = 10.0) -> None:
    """SIGKILL; returns when none of them is left."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + limit_s
    while any(lives(pid) for pid in pids):
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise RigError(f"Processes {[pid for pid in pids if lives(pid)]} do not end.")
        time.sleep(0.02)
