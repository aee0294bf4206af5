"""Processes of this machine as the tests see them: those of containers and of labs, whose users have the same numbers,
are left out."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path


def of_uid(uid: int) -> list[int]:
    """Numbers of the processes whose real user is ``uid``, zombies left out."""
    here = os.readlink("/proc/self/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text(errors="replace")
            fields = {line.split(":")[0]: line.split()[1:] for line in status.splitlines() if ":" in line}
            if fields["Uid"][0] == str(uid) and fields["State"][0] != "Z" and os.readlink(entry / "ns/pid") == here:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def of_user(name: str) -> list[int]:
    """The same by the user's name; none if there is no such user."""
    try:
        return of_uid(pwd.getpwnam(name).pw_uid)
    except KeyError:
        return []


def kill(pid: int) -> None:
    """SIGKILL; it may have ended by itself just now."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
