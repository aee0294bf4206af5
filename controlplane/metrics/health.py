"""``/healthz`` and ``/readyz`` of the processes that have no web server: workers, prober, watcher, clock.

A thread answers at ROOST_HEALTH_LISTEN. Healthy: what goes round in the process (``observing.beat``) has come round
lately. Ready: database and broker answer. The web process has both addresses among its own.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections
from kombu.connection import Connection

from controlplane import observing

log = logging.getLogger(__name__)

ROLES = ("worker-", "clock", "prober", "watcher")
#: What has not come round for so long hangs. The prober's loop waits for the database now and then.
LATE_S = 60.0
#: So long it may take until something came round for the first time.
START_S = 120.0
ASK_S = 3
_started = time.monotonic()


def health() -> tuple[bool, dict[str, Any]]:
    """Whether the process does what it is for, and since when each part of it came round."""
    ages = observing.beats()
    if not ages:
        starting = time.monotonic() - _started < START_S
        return starting, {"status": "starting" if starting else "hangs"}
    well = max(ages.values()) < LATE_S
    return well, {"status": "ok" if well else "hangs", "seconds": {part: round(age, 1) for part, age in ages.items()}}


def readiness() -> tuple[bool, dict[str, Any]]:
    """Whether what it works with answers."""
    said = {"database": _database(), "broker": _broker()}
    ready = all(answer == "ok" for answer in said.values())
    return ready, {"status": "ok" if ready else "unavailable", **said}


def _database() -> str:
    """By a connection of its own: the thread's would be kept for ever."""
    conf = connections["default"].get_connection_params()
    conf = {name: conf[name] for name in ("dbname", "user", "password", "host", "port") if conf.get(name)}
    try:
        with psycopg.connect(**conf, connect_timeout=ASK_S, autocommit=True) as database:
            database.execute("SELECT 1")
    except psycopg.Error as error:
        return type(error).__name__
    return "ok"


def _broker() -> str:
    try:
        with Connection(settings.CELERY_BROKER_URL, connect_timeout=ASK_S) as broker:  # type: ignore[no-untyped-call]
            broker.ensure_connection(max_retries=1, timeout=ASK_S)
    except Exception as error:  # noqa: BLE001  (each transport has errors of its own)
        return type(error).__name__
    return "ok"


class _Answers(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        asked = {"/healthz": health, "/readyz": readiness}.get(self.path)
        well, body = asked() if asked else (False, {"status": "not found"})
        text = json.dumps(body).encode()
        self.send_response(200 if well else 503 if asked else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: it is asked every few seconds."""

    def address_string(self) -> str:
        return "local"


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def listen(where: str) -> socketserver.BaseServer:
    """``address:port`` or ``unix:/path``: answer there until the process ends. Raises ``OSError``."""
    if where.startswith("unix:"):
        path = Path(where.removeprefix("unix:"))
        if path.is_socket() and not _answers(path):
            path.unlink()
        server: socketserver.BaseServer = _UnixServer(str(path), _Answers)
    else:
        host, _, port = where.rpartition(":")
        server = _Server((host.strip("[]"), int(port)), _Answers)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def listen_if_wanted(role: str) -> None:
    """For a process of one of ``ROLES``. One that cannot listen says so and works all the same."""
    where: str = settings.ROOST["HEALTH_LISTEN"]
    if not where or not role.startswith(ROLES):
        return
    try:
        listen(where)
    except (OSError, ValueError) as error:
        log.error("nobody can ask process %d for its health at %s: %s", os.getpid(), where, error)
