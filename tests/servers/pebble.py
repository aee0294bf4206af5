"""A real Pebble (the ACME server for tests) on a loopback address, with an HTTPS certificate of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.servers.little_ca import LittleCa


@dataclass
class Pebble:
    """A context manager. ``restart()`` forgets everything: accounts, orders and the CA's root.

    ``dns_server``: "address:port" that validations ask; ``http_port``: where HTTP-01 is fetched.
    ``nonce_reject``: percentage of good nonces refused. ``eab``: kid -> HMAC key that newAccount then needs.
    ``sleep_s``: Pebble's random pause before each validation, 0 for none.
    """

    directory: Path
    address: str
    dns_server: str = ""
    http_port: int = 5002
    nonce_reject: int = 0
    authz_reuse: int = 0
    eab: dict[str, str] | None = None
    sleep_s: int = 0
    port: int = 14000
    management_port: int = 15000
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory_url(self) -> str:
        return f"https://{self.address}:{self.port}/dir"

    @property
    def roots_url(self) -> str:
        return f"https://{self.address}:{self.management_port}/roots/0"

    @property
    def ca_file(self) -> str:
        return str(self.directory / "pebble-https-root.pem")

    @property
    def log(self) -> str:
        return (self.directory / "pebble.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        ca = LittleCa("Root of Pebble's HTTPS")
        chain, key = ca.issue([self.address])
        Path(self.ca_file).write_text(ca.root_pem)
        (self.directory / "https.pem").write_text(chain)
        (self.directory / "https.key").write_text(key)
        config: dict[str, Any] = {
            "listenAddress": f"{self.address}:{self.port}",
            "managementListenAddress": f"{self.address}:{self.management_port}",
            "certificate": str(self.directory / "https.pem"),
            "privateKey": str(self.directory / "https.key"),
            "httpPort": self.http_port,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bool(self.eab),
            "externalAccountMACKeys": self.eab or {},
        }
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        argv = ["pebble", "-strict", "-config", str(self.directory / "pebble.json")]
        if self.dns_server:
            argv += ["-dnsserver", self.dns_server]
        pause = {"PEBBLE_VA_SLEEPTIME": str(self.sleep_s)} if self.sleep_s else {"PEBBLE_VA_NOSLEEP": "1"}
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin"),
            "PEBBLE_WFE_NONCEREJECT": str(self.nonce_reject),
            "PEBBLE_AUTHZREUSE": str(self.authz_reuse),
            **pause,
        }
        with (self.directory / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=env)
        deadline = time.monotonic() + 20
        for port in (self.port, self.management_port):
            while True:
                try:
                    socket.create_connection((self.address, port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise RuntimeError(f"Pebble did not start:\n{self.log}") from None
                    time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def certificate_status(self, serial: str) -> dict[str, Any]:
        """What Pebble's management interface says of a certificate (``Status``: Valid or Revoked)."""
        url = f"https://{self.address}:{self.management_port}/cert-status-by-serial/{serial}"
        answer = requests.get(url, verify=self.ca_file, timeout=10)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result
