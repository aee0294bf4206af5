"""Real authoritative name servers on loopback addresses: PowerDNS with SQLite, and Knot with a TSIG key.

Each runs in the foreground under its own short directory, with its caches off, and is ended by its process id.
"""

from __future__ import annotations

import base64
import signal
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query
import requests

API_KEY = "a-powerdns-key"
TSIG_NAME = "roost-key"
TSIG_SECRET = base64.b64encode(b"thirty-two octets of a tsig key!").decode()

#: The schema of PowerDNS' gsqlite3 backend (Debian ships only its upgrades).
SCHEMA = """
CREATE TABLE domains (id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL COLLATE NOCASE,
  master VARCHAR(128) DEFAULT NULL, last_check INTEGER DEFAULT NULL, type VARCHAR(8) NOT NULL,
  notified_serial INTEGER DEFAULT NULL, account VARCHAR(40) DEFAULT NULL, options VARCHAR(65535) DEFAULT NULL,
  catalog VARCHAR(255) DEFAULT NULL);
CREATE UNIQUE INDEX name_index ON domains(name);
CREATE TABLE records (id INTEGER PRIMARY KEY, domain_id INTEGER DEFAULT NULL, name VARCHAR(255) DEFAULT NULL,
  type VARCHAR(10) DEFAULT NULL, content VARCHAR(65535) DEFAULT NULL, ttl INTEGER DEFAULT NULL,
  prio INTEGER DEFAULT NULL, disabled BOOLEAN DEFAULT 0, ordername VARCHAR(255), auth BOOL DEFAULT 1,
  FOREIGN KEY(domain_id) REFERENCES domains(id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE INDEX records_lookup_idx ON records(name, type);
CREATE INDEX records_lookup_id_idx ON records(domain_id, name, type);
CREATE INDEX records_order_idx ON records(domain_id, ordername);
CREATE TABLE supermasters (ip VARCHAR(64) NOT NULL, nameserver VARCHAR(255) NOT NULL COLLATE NOCASE,
  account VARCHAR(40) NOT NULL);
CREATE TABLE comments (id INTEGER PRIMARY KEY, domain_id INTEGER NOT NULL, name VARCHAR(255) NOT NULL,
  type VARCHAR(10) NOT NULL, modified_at INT NOT NULL, account VARCHAR(40) DEFAULT NULL,
  comment VARCHAR(65535) NOT NULL);
CREATE TABLE domainmetadata (id INTEGER PRIMARY KEY, domain_id INT NOT NULL, kind VARCHAR(32) COLLATE NOCASE,
  content TEXT);
CREATE INDEX domainmetaidindex ON domainmetadata(domain_id);
CREATE TABLE cryptokeys (id INTEGER PRIMARY KEY, domain_id INT NOT NULL, flags INT NOT NULL, active BOOL,
  published BOOL DEFAULT 1, content TEXT);
CREATE INDEX domainidindex ON cryptokeys(domain_id);
CREATE TABLE tsigkeys (id INTEGER PRIMARY KEY, name VARCHAR(255) COLLATE NOCASE, algorithm VARCHAR(50) COLLATE NOCASE,
  secret VARCHAR(255));
"""


@dataclass
class Server:
    """A name server's process. ``stop`` and ``start`` may be called again, for faults."""

    directory: Path
    address: str
    process: subprocess.Popen[bytes] | None = None
    log_name: str = field(default="server.log", init=False)

    def argv(self) -> list[str]:
        raise NotImplementedError

    def prepare(self) -> None:
        raise NotImplementedError

    def ready(self) -> bool:
        question = dns.message.make_query("ready.invalid.", "A")
        try:
            dns.query.tcp(question, self.address, timeout=1)
        except (OSError, EOFError, dns.exception.DNSException):
            return False
        return True

    @property
    def log(self) -> str:
        return (self.directory / self.log_name).read_text(errors="replace")

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> None:
        with (self.directory / self.log_name).open("ab") as log:
            self.process = subprocess.Popen(self.argv(), stdout=log, stderr=subprocess.STDOUT, cwd=self.directory)
        deadline = time.monotonic() + 20
        while not self.ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.argv()[0]} did not start:\n{self.log}")
            time.sleep(0.03)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
            self.process = None


@dataclass
class PowerDnsServer(Server):
    """Port 53 for questions, 8081 for the HTTP API. ``requests()`` tells what the API was asked."""

    marks: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.address}:8081"

    def argv(self) -> list[str]:
        return ["pdns_server", f"--config-dir={self.directory}"]

    def prepare(self) -> None:
        with sqlite3.connect(self.directory / "pdns.sqlite") as database:
            database.executescript(SCHEMA)
        settings = {
            "daemon": "no", "guardian": "no", "launch": "gsqlite3",
            "gsqlite3-database": self.directory / "pdns.sqlite", "local-address": self.address, "local-port": 53,
            "socket-dir": self.directory, "api": "yes", "api-key": API_KEY, "webserver": "yes",
            "webserver-address": self.address, "webserver-port": 8081, "webserver-allow-from": "127.0.0.0/8",
            "webserver-loglevel": "normal", "cache-ttl": 0, "query-cache-ttl": 0, "negquery-cache-ttl": 0,
            "zone-cache-refresh-interval": 0, "receiver-threads": 1, "distributor-threads": 1, "loglevel": 6,
            "default-soa-content": "ns1.@ hostmaster.@ 0 10800 3600 604800 5",
        }  # fmt: skip
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.directory / "pdns.conf").write_text(text)

    def ready(self) -> bool:
        try:
            socket.create_connection((self.address, 8081), timeout=1).close()
        except OSError:
            return False
        return super().ready()

    def requests(self, method: str) -> int:
        """How many requests of this method the API has answered since its start.

        The log is written after the answer; a request of our own that the log has shows that it is complete.
        """
        self.marks += 1
        mark = f"/mark-{self.marks} "
        requests.get(f"{self.url}/api/v1{mark.strip()}", headers={"X-API-Key": API_KEY}, timeout=5)
        deadline = time.monotonic() + 5
        while mark not in self.log and time.monotonic() < deadline:
            time.sleep(0.01)
        return sum(1 for line in self.log.splitlines() if f'"{method} ' in line and "/mark-" not in line)


@dataclass
class KnotServer(Server):
    """Knot with empty zones that one TSIG key may update and read; ``zones`` by name."""

    zones: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        return ["knotd", "-c", str(self.directory / "knot.conf")]

    def prepare(self) -> None:
        blocks = []
        for zone in self.zones:
            (self.directory / f"{zone}.zone").write_text(
                f"$ORIGIN {zone}.\n@ 60 SOA ns1 hostmaster 1 3600 600 86400 5\n@ 60 NS ns1\nns1 60 A {self.address}\n"
            )
            blocks.append(
                f"  - domain: {zone}\n    file: {self.directory}/{zone}.zone\n    acl: update\n"
                f"    journal-content: none\n    zonefile-load: whole\n"
            )
        (self.directory / "knot.conf").write_text(
            f"server:\n  listen: {self.address}@53\n  rundir: {self.directory}\n"
            f"database:\n  storage: {self.directory}\n"
            f"log:\n  - target: stderr\n    any: info\n"
            f"key:\n  - id: {TSIG_NAME}\n    algorithm: hmac-sha256\n    secret: {TSIG_SECRET}\n"
            f"acl:\n  - id: update\n    key: {TSIG_NAME}\n    action: update\n"
            f"zone:\n{''.join(blocks)}"
        )
