"""What both runtimes need of processes: whether one accepts connections, and that none of a user is left."""

from __future__ import annotations

import os
import posixpath
import signal
import socket
import time

from ansible.module_utils.roost_bundle import RUNNING, Refused
from ansible.module_utils.roost_tree import DIRECTORY, find_user, open_below


def _directory_of_socket(work):
    root_fd = os.open(work.root, DIRECTORY)
    try:
        return open_below(root_fd, posixpath.dirname(work.program["ready_socket"]))
    finally:
        os.close(root_fd)


def accepts(work):
    """True if the ready socket accepts a connection (or the program has none).

    The path goes through /proc, because a unix socket's address holds 107 bytes at most.
    """
    if not work.program["ready_socket"]:
        return True
    try:
        fd = _directory_of_socket(work)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(f"/proc/self/fd/{fd}/{posixpath.basename(work.program['ready_socket'])}")
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def remove_stale_socket(work):
    """Remove the socket file of a process that is gone, so that a ready one is the new one's."""
    if not work.program["ready_socket"]:
        return
    try:
        fd = _directory_of_socket(work)
    except OSError:
        return
    try:
        os.unlink(posixpath.basename(work.program["ready_socket"]), dir_fd=fd)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        pass
    finally:
        os.close(fd)


def processes_of(uid):
    """Process numbers of a user, zombies left out, and those of containers, whose users have numbers of their own."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat("/proc/" + name).st_uid != uid:
                # A process that gave up being dumpable shows root as its owner: ask its status too.
                with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as stream:
                    status = stream.read()
                line = next((row for row in status.splitlines() if row.startswith("Uid:")), "Uid: -1")
                if str(uid) not in line.split()[1:]:
                    continue
            if _in_container(name):
                continue
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:
                if stream.read().rpartition(")")[2].split()[0] not in ("Z", "X"):
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
    return found


def _in_container(name):
    """True if a process is known to count processes otherwise than this one: it is in a namespace below."""
    try:
        return os.readlink(f"/proc/{name}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except (PermissionError, FileNotFoundError):  # the latter: it is ending just now, and still counts until it has
        return False


def kill_leftovers(work, timeout_s=5.0):
    """SIGKILL every process of the tenant's user, until there is none.

    They come from a supervisor that died without its children, or from an engine that left its process group.
    """
    entry = find_user(work)
    if entry is None:
        return
    deadline = time.monotonic() + timeout_s
    noted = False
    while True:
        found = processes_of(entry.pw_uid)
        if not found:
            return
        if not noted:
            work.note(f"{len(found)} leftover process(es) of {work.user}: killed")
            noted = True
        if work.check:
            return
        if time.monotonic() > deadline:
            raise Refused(f"Processes of {work.user} do not end: {found}.")
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


def wait_ready(works, look, limit_s):
    """Wait until each wanted process runs and accepts; sets ``running`` or ``error``.

    ``limit_s``: how long the run waits at most. A process that is up by then but does not accept yet is no error
    before its own time is over: the caller asks it later. One that is not up, having ended again, is.

    ``look``: () -> {process name: (up, given up, words)}; it is asked a few times a second, the sockets often.
    """
    started = time.monotonic()
    waiting = [work for work in works if work.state == RUNNING and not work.error]
    for work in waiting:
        work.running = False
    states, asked = look(), time.monotonic()
    while waiting:
        still = []
        for work in waiting:
            up, given_up, words = states.get(work.process, (False, False, "unknown to the supervisor"))
            if up and accepts(work):
                work.running = True
            elif given_up:
                work.error = f"{work.process} ended instead of running: {words}."
            elif time.monotonic() - started > limit_s and not up:
                work.error = f"{work.process} does not stay up: {words}."
            elif limit_s < time.monotonic() - started <= work.program["ready_timeout_s"]:
                pass
            elif time.monotonic() - started > work.program["ready_timeout_s"]:
                place = work.program["ready_socket"] or "any socket"
                limit = work.program["ready_timeout_s"]
                work.error = f"{work.process} did not accept connections on {place} within {limit} s: {words}."
            else:
                still.append(work)
        waiting = still
        if waiting:
            time.sleep(0.02)
            if time.monotonic() - asked > 0.2:
                states, asked = look(), time.monotonic()
