"""Processes of this stack that lost their supervisor (it was killed): found by their marks, and ended.

supervisord puts its own address into its children's environment, and a tenant's engine, which starts with an empty
one, is the only program of its user; so no other process can be meant. Containers and a lab's hosts have users of their
own with the same numbers: what is in another process namespace is never meant.
"""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from launcher.processes import alive


def find(sockets: Iterable[Path], postgres_data: Path | None = None) -> list[int]:
    """Process numbers of children of the supervisors that answered at these sockets."""
    marks = {f"SUPERVISOR_SERVER_URL=unix://{socket}".encode() for socket in sockets}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if marks.intersection(variables) and _ours(entry) and alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    if postgres_data is not None:  # it writes its state over its environment
        pid = _postmaster(postgres_data)
        if pid and pid not in found:
            found.append(pid)
    return found


def of_tenants(instances: Path) -> list[int]:
    """Process numbers of the users whose home is below ``instances``."""
    uids = {entry.pw_uid for entry in pwd.getpwall() if Path(entry.pw_dir).parent == instances}
    found = []
    for entry in Path("/proc").iterdir() if uids else ():
        try:
            # Not the owner of the directory: that is root for a process that may not be dumped.
            status = (entry / "status").read_text(errors="replace") if entry.name.isdigit() else ""
        except OSError:
            continue
        line = next((line for line in status.splitlines() if line.startswith("Uid:")), "")
        if uids.intersection(int(word) for word in line.split()[1:2]) and _ours(entry) and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def of_lines(directory: Path) -> list[int]:
    """Process numbers of the connections to nodes whose sockets are below ``directory``; they outlive their makers."""
    mark = f"{directory}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and _name(int(entry.name)) == "ssh" and mark in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _ours(process: Path) -> bool:
    """True if it counts its processes as we do, as far as one may look."""
    try:
        return os.readlink(process / "ns" / "pid") == os.readlink("/proc/self/ns/pid")
    except PermissionError:
        return True
    except OSError:  # it has ended
        return False


def _postmaster(data: Path) -> int | None:
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        return pid if alive(pid) and Path(f"/proc/{pid}/cwd").resolve() == data else None
    except (OSError, ValueError, IndexError):
        return None


def end(pids: Iterable[int], patience_s: float = 15.0) -> None:
    """Ask them to end (PostgreSQL: fast), and end by force what has not gone by then."""
    pids = list(pids)
    for pid in pids:
        _signal(pid, signal.SIGINT if _name(pid) == "postgres" else signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in pids:
        if alive(pid):
            _signal(pid, signal.SIGKILL)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
