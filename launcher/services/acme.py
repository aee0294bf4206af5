"""Pebble, Let's Encrypt's ACME server for tests, on TLS with a certificate of a small CA made here with openssl.

It refuses every second nonce on purpose, as its authors advise, and forgets everything when it stops: the control
plane then issues again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from launcher import checks, files
from launcher.layout import Layout
from launcher.processes import run
from launcher.programs import Program

NONCE_REJECT_PERCENT = 50
DAYS = 3650


def prepare(layout: Layout) -> Program:
    base = files.directory(layout.pebble_ca.parent, group="roost", mode=0o755)
    address = layout.pebble_address
    _make_certificate(base, address)
    config = {
        "listenAddress": f"{address}:14000",
        "managementListenAddress": f"{address}:15000",
        "certificate": str(base / "https.pem"),
        "privateKey": str(base / "https.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    text = json.dumps({"pebble": config}, indent=1) + "\n"
    files.write(base / "pebble.json", text)
    # Validations ask the authoritative server, so that no cache shows the challenge before last.
    dns = f"{layout.authoritative_address}:53"
    return Program(
        name="pebble",
        title="Pebble (ACME)",
        argv=["/usr/bin/pebble", "-strict", "-config", str(base / "pebble.json"), "-dnsserver", dns],
        user="roost",
        environment={"PEBBLE_WFE_NONCEREJECT": str(NONCE_REJECT_PERCENT), "PEBBLE_VA_NOSLEEP": "1"},
        ready=lambda: checks.http_ok(f"https://{address}:14000/dir", ca_file=layout.pebble_ca),
        remedy="see `./roost logs pebble`",
        digest=hashlib.sha256((text + dns + (base / "https.pem").read_text()).encode()).hexdigest(),
        priority=30,
        ports=[("tcp", address, 14000), ("tcp", address, 15000)],
    )


def _make_certificate(base: Path, address: str) -> None:
    """A root, and a certificate for the address by it; all or nothing, since a crash may come between."""
    stamp = f"{address}\n"
    marker = base / "made-for"
    if marker.exists() and marker.read_text() == stamp:
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(DAYS)]
        root = ["-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Root of the local ACME server"]
        run(["openssl", "req", "-x509", *ec, *root], timeout_s=30, cwd=work)
        leaf = ["-CA", "root.pem", "-CAkey", "root.key", "-keyout", "https.key", "-out", "https.pem"]
        names = ["-subj", "/CN=Local ACME server", "-addext", f"subjectAltName=IP:{address}"]
        purpose = ["-addext", "extendedKeyUsage=serverAuth", "-addext", "basicConstraints=critical,CA:FALSE"]
        run(["openssl", "req", "-x509", *ec, *leaf, *names, *purpose], timeout_s=30, cwd=work)
        for source, target, mode in (("root.pem", "https-root.pem", 0o644), ("https.pem", "https.pem", 0o644)):
            files.write(base / target, (work / source).read_text(), mode=mode)
        files.write(base / "https.key", (work / "https.key").read_text(), mode=0o640, group="roost")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    files.write(marker, stamp)
