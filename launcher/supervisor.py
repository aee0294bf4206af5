"""Speaks with the stack's supervisord over its unix socket (XML-RPC, http://supervisord.org/api.html).

Standard library only, since it also has to work when the virtual environment is broken. What the programs
are is ``programs``' matter.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import Problem
from launcher.processes import CLEAN_ENV, alive

CALL_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Part:
    """One program as supervisord sees it. ``state``: RUNNING, STARTING, BACKOFF, FATAL, STOPPED, EXITED, …"""

    name: str
    state: str
    pid: int
    since_s: float
    said: str


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002  # there is one place only
        return _Connection(self._path)


class Supervisor:
    """One supervisord: ``socket`` is where it answers, ``config`` what it was started with."""

    def __init__(self, socket: Path, config: Path, pid_file: Path, program: Path) -> None:
        self.socket, self.config, self._pid_file, self._program = socket, config, pid_file, program

    @property
    def _api(self) -> Any:
        return xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(str(self.socket))).supervisor

    def pid(self) -> int | None:
        """The process number of the supervisord that was started with this configuration, if it lives."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if alive(pid) and str(self.config).encode() in command else None

    def running(self) -> bool:
        """True if it answers."""
        if self.pid() is None:
            return False
        try:
            return bool(self._api.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return False

    def start(self) -> None:
        """Start it, detached, and wait until it answers."""
        if self.running():
            return
        self.socket.unlink(missing_ok=True)
        log = self.config.with_suffix(".out")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(self._program), "--nodaemon", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=CLEAN_ENV,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not self.running():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Problem("The supervisor of the stack's processes did not start.", log.read_text()[-1500:])
            time.sleep(0.05)

    def stop(self, timeout_s: float) -> None:
        """End it and all of its programs; raises ``Problem`` if it is still there after ``timeout_s``."""
        pid = self.pid()
        if pid is None:
            return
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + timeout_s
        while alive(pid):
            try:
                os.waitpid(pid, os.WNOHANG)  # it is our child if this same process started it
            except ChildProcessError:
                pass
            if time.monotonic() > deadline:
                raise Problem(f"The supervisor (process {pid}) did not end within {timeout_s:.0f} s: see var/log.")
            time.sleep(0.1)

    def reread(self) -> list[str]:
        """Take over changed program definitions: stop what went, restart what changed, start what is new.

        Returns the names of the programs that were touched.
        """
        api = self._api
        try:
            added, changed, removed = api.reloadConfig()[0]
        except xmlrpc.client.Fault as fault:
            raise Problem(f"The supervisor refuses its configuration: {fault.faultString}") from fault
        going = [*changed, *removed]
        for name in going:  # all at once: each may take its time
            api.stopProcessGroup(name, False)
        for name in going:
            api.stopProcessGroup(name)
            self._wait_stopped(name)
            api.removeProcessGroup(name)
        for name in [*added, *changed]:
            api.addProcessGroup(name)
        return [*added, *changed, *removed]

    def _wait_stopped(self, name: str) -> None:
        """Until supervisord itself has to have killed it."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while any(part.pid for part in self.parts() if part.name == name):
            if time.monotonic() > deadline:
                raise Problem(f"{name} does not end: see `./roost logs {name}`.")
            time.sleep(0.05)

    def parts(self) -> list[Part]:
        found = self._api.getAllProcessInfo()
        return [
            Part(
                entry["name"],
                entry["statename"],
                entry["pid"],
                float(entry["now"] - entry["start"]) if entry["pid"] else 0.0,
                entry["spawnerr"] or "",
            )
            for entry in found
        ]

    def start_part(self, name: str) -> None:
        """Start a program that is not running; one that runs already is left as it is."""
        try:
            self._api.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise Problem(f"{name} could not be started: {fault.faultString}") from fault

    def stop_part(self, name: str) -> None:
        try:
            self._api.stopProcess(name, True)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise Problem(f"{name} could not be stopped: {fault.faultString}") from fault

    def restart_part(self, name: str) -> None:
        self.stop_part(name)
        self.start_part(name)
