"""Running other programs: argument lists only, each with a time-out, failures as one sentence with the tool's words.

Long-running services are the supervisor's (``supervise``); here is what runs and ends.
"""

from __future__ import annotations

import grp
import os
import pwd
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import DISK_FULL, Problem, disk_full

#: The environment of everything the stack runs: nothing of the caller's shell leaks into services.
CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}


@dataclass(frozen=True, slots=True)
class Ran:
    """``code`` is the exit status; ``out`` holds standard output and ``err`` the other, as text."""

    code: int
    out: str
    err: str = ""


def user_arguments(user: str | None) -> dict[str, object]:
    """Arguments for ``subprocess`` that drop to ``user`` with that user's own groups."""
    if user is None or user == pwd.getpwuid(os.getuid()).pw_name:
        return {}
    entry = pwd.getpwnam(user)
    groups = [gid for gid in os.getgrouplist(user, entry.pw_gid) if gid != entry.pw_gid]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
    stdin: str = "",
) -> Ran:
    """Run to the end and return what it said. ``check``: a non-zero exit raises ``Problem``."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=dict(CLEAN_ENV if env is None else env),
            cwd=cwd or "/",
            check=False,
            **user_arguments(user),  # type: ignore[call-overload]  # a dict of keyword arguments, not a fixed shape
        )
    except FileNotFoundError as error:
        raise Problem(f"The program {argv[0]} is missing.", str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"{shown(argv)} gave no answer within {timeout_s:.0f} s.") from error
    ran = Ran(done.returncode, done.stdout, done.stderr)
    if check and ran.code:
        raise failure(argv, ran.code, ran.err or ran.out)
    return ran


def run_streaming(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
) -> str:
    """Run, hand each line of output on as it comes, and return all of it; a non-zero exit raises ``Problem``."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(CLEAN_ENV if env is None else env),
            cwd=cwd or "/",
            **user_arguments(user),  # type: ignore[call-overload]  # as above
        )
    except FileNotFoundError as error:
        raise Problem(f"The program {argv[0]} is missing.", str(error)) from error
    try:
        lines = _read_lines(process, on_line, time.monotonic() + timeout_s)
        code = process.wait(timeout=30)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        raise
    text = "\n".join(lines)
    if code:
        raise failure(argv, code, text)
    return text


def _read_lines(process: subprocess.Popen[bytes], on_line: Callable[[str], None], deadline: float) -> list[str]:
    lines: list[str] = []
    pending = b""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if time.monotonic() > deadline:
                raise Problem(f"{shown(process.args)} took too long and was stopped.", "\n".join(lines[-10:]))  # type: ignore[arg-type]  # always a list here
            if not selector.select(timeout=1):
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *whole, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
            for raw in whole:
                lines.append(raw.decode(errors="replace"))
                on_line(lines[-1])
    if pending:
        lines.append(pending.decode(errors="replace"))
        on_line(lines[-1])
    return lines


def failure(argv: Sequence[str], code: int, output: str) -> Problem:
    """The sentence for a command that failed, with its last lines; a full disk is named as such."""
    if DISK_FULL in output:
        return disk_full(shown(argv))
    tail = "\n".join([line for line in output.splitlines() if line.strip()][-12:])
    return Problem(f"{shown(argv)} failed (exit status {code}).", tail)


def shown(argv: Sequence[str]) -> str:
    """The start of a command, as one shows it to a person."""
    words = [Path(argv[0]).name, *argv[1:]]
    text = " ".join(words)
    return text if len(text) <= 70 else text[:67] + "..."


def alive(pid: int) -> bool:
    """True if a process with this number exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
