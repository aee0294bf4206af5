"""Replaces configurations of an edge and a TURN server and has them taken up, as the roles do but at once.

A file is replaced whole, and only if it differs and its own program accepts it.
"""

from __future__ import annotations

import grp
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
import xmlrpc.client
from typing import Any

LISTEN_S = 5.0
RUN_S = 10.0


def main(argument: dict[str, Any]) -> dict[str, Any]:
    """``{"files": [...]}`` -> ``{"changed": [names], "error": text, "took_s"}``. Each file is tried.

    A file: "name", "path", "content", "mode", "group"; "check" (argv, the new file's path is put behind); how it is
    taken up: "socket" of a supervisord with "supervised" and "signal" (none: it is restarted), or without a socket
    "systemd" (verb and unit); "listens": [[address, port]] that have to accept afterwards.
    """
    began = time.monotonic()
    changed: list[str] = []
    errors: list[str] = []
    for file in argument["files"]:
        try:
            if _replace(file):
                changed.append(file["name"])
                _take_up(file)
            elif not _listens(file, 0.0):
                _take_up(file)  # it was replaced by one who was cut off before this
                changed.append(file["name"])
            if not _listens(file, LISTEN_S):
                errors.append(f"{file['name']} does not listen on its addresses")
        except (OSError, ValueError, KeyError, subprocess.SubprocessError, xmlrpc.client.Error) as error:
            errors.append(f"{file['name']}: {error}")
    return {"changed": changed, "error": "; ".join(errors)[:1000], "took_s": round(time.monotonic() - began, 3)}


def _replace(file: dict[str, Any]) -> bool:
    path, content = file["path"], file["content"].encode()
    try:
        with open(path, "rb") as there:
            if there.read() == content:
                return False
    except FileNotFoundError:
        pass
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".roost-")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
        if file["check"]:
            _run([*file["check"], temporary])
        os.chown(temporary, 0, grp.getgrnam(file["group"]).gr_gid)
        os.chmod(temporary, file["mode"])
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def _take_up(file: dict[str, Any]) -> None:
    if not file["socket"]:
        _run(["systemctl", *file["systemd"]])
        return
    supervisor = xmlrpc.client.ServerProxy("http://localhost", transport=_Unix(file["socket"])).supervisor
    if file["signal"]:
        # By its number, which supervisord takes as well as its name.
        supervisor.signalProcess(file["supervised"], str(int(signal.Signals["SIG" + file["signal"]])))
        return
    try:
        supervisor.stopProcess(file["supervised"], True)
    except xmlrpc.client.Fault:
        pass  # it did not run
    supervisor.startProcess(file["supervised"], True)


def _listens(file: dict[str, Any], limit_s: float) -> bool:
    """True if all accept within this time; an address that is not the machine's does not."""
    end = time.monotonic() + limit_s
    for address, port in file["listens"]:
        while not _accepts(address, port):
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
    return True


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_S)
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise ValueError(f"{argv[0]}: {' '.join(lines[-3:])[:400]}")


class _Unix(xmlrpc.client.Transport):
    """XML-RPC to a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002
        link = http.client.HTTPConnection("localhost", timeout=RUN_S)
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.sock.settimeout(RUN_S)
        link.sock.connect(self.path)
        return link
