"""What a certificate needs around it: a real Pebble that asks a real Unbound and Knot, and a web server for HTTP-01."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import dns.message
import dns.query
import dns.rdatatype

from controlplane.drivers.dns.rfc2136 import Rfc2136
from controlplane.values.names import DomainName
from controlplane.values.records import Change, RecordSet
from controlplane.values.secret import Secret
from tests.servers.dns import TSIG_NAME, TSIG_SECRET, KnotServer, Server
from tests.servers.pebble import Pebble

ZONE, CUSTOMER = "roost.example", "customer.example"
HTTP_PORT = 5002


@dataclass
class Resolver(Server):
    """Unbound without a cache, which asks ``authority`` for the zones: CNAMEs across zones need one."""

    authority: str = ""

    def argv(self) -> list[str]:
        return ["unbound", "-d", "-c", str(self.directory / "unbound.conf")]

    def prepare(self) -> None:
        stubs = "".join(f'stub-zone:\n  name: "{zone}."\n  stub-addr: {self.authority}\n' for zone in (ZONE, CUSTOMER))
        (self.directory / "unbound.conf").write_text(
            f'server:\n  interface: {self.address}\n  access-control: 127.0.0.0/8 allow\n  username: ""\n'
            f'  chroot: ""\n  directory: "{self.directory}"\n  pidfile: ""\n  use-syslog: no\n  num-threads: 1\n'
            f'  module-config: "iterator"\n  do-not-query-localhost: no\n  do-ip6: no\n'
            f"  cache-max-ttl: 0\n  cache-max-negative-ttl: 0\n  infra-host-ttl: 0\n"
            f"remote-control:\n  control-enable: no\n{stubs}"
        )


class CaWorld:
    """Everything on ``prefix``.x, such as ``127.64.1``. Zones ``roost.example`` and ``customer.example``."""

    def __init__(self, prefix: str, *, nonce_reject: int = 50, eab: dict[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ca"))
        self.knot = KnotServer(self.directory / "knot", f"{prefix}.54", zones=(ZONE, CUSTOMER))
        self.resolver = Resolver(self.directory / "unbound", f"{prefix}.53", authority=f"{prefix}.54")
        self.web_address = f"{prefix}.80"
        self.pebble = Pebble(
            self.directory / "pebble",
            f"{prefix}.3",
            dns_server=f"{prefix}.53:53",
            http_port=HTTP_PORT,
            nonce_reject=nonce_reject,
            eab=eab,
        )
        self.dns = Rfc2136(f"{prefix}.54", key_name=TSIG_NAME, key_secret=Secret(TSIG_SECRET))

    def __enter__(self) -> Self:
        self.knot.__enter__()
        self.resolver.__enter__()
        self.pebble.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self.pebble.stop()
        self.resolver.stop()
        self.knot.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def put(self, zone: str, name: str, type: str, *rdatas: str) -> None:
        self.dns.apply(DomainName(zone), [Change("upsert", RecordSet.of(name, type, 5, rdatas))])

    def drop(self, zone: str, name: str, type: str) -> None:
        there = self.dns.read(DomainName(zone), [(name, type)]).get((name, type))
        if there is not None:
            self.dns.apply(DomainName(zone), [Change("delete", there)])

    def txt(self, name: str) -> set[str]:
        """The TXT values at a name, as the name server serves them."""
        answer = dns.query.tcp(dns.message.make_query(f"{name}.", "TXT"), self.knot.address, timeout=5)
        return {
            b"".join(rdata.strings).decode()
            for rrset in answer.answer
            if rrset.rdtype == dns.rdatatype.TXT
            for rdata in rrset
        }


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something holds; fails after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


class ChallengeWeb:
    """Answers ``/.well-known/acme-challenge/<token>`` on port 5002 with what ``lookup(token)`` gives."""

    def __init__(self, address: str, lookup: Callable[[str], str | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = lookup(self.path.rpartition("/")[2])
                self.send_response(200 if text else 404)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer((address, HTTP_PORT), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.server.shutdown()
        self.server.server_close()
