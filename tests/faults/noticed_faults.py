"""The faults themselves, against the real servers of the stack: how each is made, and undone where Roost cannot.

A fault touches one tenant, or one server that all share. Everything is undone by ``clean`` at the latest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

from launcher.layout import ZONE
from tests.faults import noticed_certificate
from tests.faults.noticed_story import Fault
from tests.stack.live import Live, Tenant, until

FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
HOUR = "+3600s"
DISK = "8m"


REACH = "(ports|tls|host-meta)"


def of(tenant: Tenant, checks: str) -> str:
    """The subjects of incidents of these checks, a regular expression."""
    return f"^instance:{tenant.key}:{checks}$"


def killed(live: Live, tenant: Tenant) -> Fault:
    """Whenever it is started again, before it listens: an engine that crashes at its start."""
    name = live.engine_program(tenant)

    def kill() -> None:
        if pid := live.pid(name, live.node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return Fault(
        f"engine killed, again and again, {tenant.engine}",
        of(tenant, REACH),
        frozenset({"EngineDown"}),
        kill,
        keep=kill,
    )


def hung(live: Live, tenant: Tenant) -> Fault:
    pid = live.engine_pid(tenant)

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    return Fault(
        f"engine hung (SIGSTOP), {tenant.engine}",
        of(tenant, REACH),
        frozenset({"EngineSilent"}),
        lambda: os.kill(pid, signal.SIGSTOP),
        clean=go_on,
    )


def certificate_expired(live: Live, tenant: Tenant) -> Fault:
    """From the stack's own CA, for the right names, over since a moment ago."""

    def begin() -> None:
        certificates = live.layout.node / "instances" / tenant.key / "certs"
        chain = noticed_certificate.over_soon(live, (certificates / "key.pem").read_bytes(), certificates / "chain.pem")
        _overwrite(certificates / "chain.pem", chain)
        live.control(tenant).reload()

    return Fault("certificate expired", of(tenant, "tls"), frozenset({"CertificateExpired"}), begin)


def wrong_certificate(live: Live, tenant: Tenant, other: Tenant) -> Fault:
    """Another tenant's files are in its place. ejabberd serves none rather than one for other names."""
    cause = "TlsFails" if tenant.engine == "ejabberd" else "WrongCertificate"

    def begin() -> None:
        instances = live.layout.node / "instances"
        for name in ("chain.pem", "key.pem"):
            _overwrite(instances / tenant.key / "certs" / name, (instances / other.key / "certs" / name).read_text())
        live.control(tenant).reload()

    return Fault(f"wrong certificate served, {tenant.engine}", of(tenant, "tls"), frozenset({cause}), begin)


def _overwrite(path: Path, text: str) -> None:
    """In place: owner and mode stay."""
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


def record_removed(live: Live, tenant: Tenant) -> Fault:
    """By hand, at the name server; again, if the zone's own regular look was quicker."""

    def remove() -> None:
        gone = {"name": f"_xmpp-client._tcp.{tenant.domain}.", "type": "SRV", "changetype": "DELETE"}
        live.powerdns("PATCH", f"zones/{ZONE}.", {"rrsets": [gone]})

    return Fault("DNS record removed by hand", of(tenant, "resolve"), frozenset({"DnsMissing"}), remove, keep=remove)


def name_server_down(live: Live, tenant: Tenant) -> Fault:
    return Fault(
        "DNS server down",
        of(tenant, "resolve"),
        frozenset({"DnsServerDown"}),
        lambda: live.main.stop_part("pdns"),
        mend=lambda: live.main.start_part("pdns"),
        clean=lambda: live.main.start_part("pdns"),
    )


# -- the TURN server


def turn_stopped(live: Live, tenant: Tenant) -> Fault:
    return Fault(
        "coturn stopped",
        of(tenant, "turn"),
        frozenset({"TurnUnreachable"}),
        lambda: live.main.stop_part("coturn"),
        mend=lambda: live.main.start_part("coturn"),
        clean=lambda: live.main.start_part("coturn"),
    )


def turn_wrong_secret(live: Live, tenant: Tenant) -> Fault:
    """coturn reads another database than Roost writes, with another secret in it."""
    config = live.layout.turn / "turnserver.conf"
    right = config.read_text()
    own, other = live.layout.turn / "turn.sqlite", live.layout.turn / "other.sqlite"

    def begin() -> None:
        shutil.copy2(own, other)
        shutil.chown(other, "roost", "turnserver")
        with contextlib.closing(sqlite3.connect(other)) as database:
            database.execute("UPDATE turn_secret SET value = value || 'x'")
            database.commit()
        _overwrite(config, right.replace(str(own), str(other)))
        live.main.restart_part("coturn")

    def mend() -> None:
        if config.read_text() != right:
            _overwrite(config, right)
            live.main.restart_part("coturn")
        other.unlink(missing_ok=True)

    return Fault(
        "coturn with the wrong secret", of(tenant, "turn"), frozenset({"TurnWrongSecret"}), begin, mend=mend, clean=mend
    )


def relay_closed(live: Live, tenant: Tenant) -> Fault:
    """A packet filter takes what goes to coturn's relay ports, of this stack's coturn only."""
    ports = "49152-50151"
    wall = Wall(live, "relay", f"ip daddr {live.layout.turn_address} udp dport {ports}")
    return Fault(
        "relay range closed",
        of(tenant, "turn"),
        frozenset({"RelayClosed"}),
        wall.build,
        mend=wall.remove,
        clean=wall.remove,
    )


class Wall:
    """A rule of the machine's packet filter, in a table of its own, for what this stack sends and nobody else."""

    def __init__(self, live: Live, name: str, match: str) -> None:
        self._table, self._match = f"roost_{live.layout.net}_{name}", match

    def build(self) -> None:
        self.remove()
        chain = "type filter hook output priority 0; policy accept;"
        text = f"table inet {self._table} {{\nchain out {{\n{chain}\n{self._match} drop\n}}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=10)

    def remove(self) -> None:
        subprocess.run(["nft", "delete", "table", "inet", self._table], capture_output=True, timeout=10, check=False)


# -- the tenant's machine


def disk_full(live: Live, tenant: Tenant) -> Fault:
    """The instance's data lie on a small file system of their own, which is filled to the last byte."""
    data = live.layout.node / "instances" / tenant.key / "data"
    ballast = data / "ballast"

    def begin() -> None:
        aside = data.with_name("data.aside")
        aside.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(aside)], check=True, timeout=10)
        subprocess.run(["cp", "-a", f"{data}/.", str(aside)], check=True, timeout=30)
        shutil.copystat(data, aside)
        os.chown(aside, data.stat().st_uid, data.stat().st_gid)
        subprocess.run(["mount", "--bind", str(aside), str(data)], check=True, timeout=10)
        fill()

    def fill() -> None:
        with contextlib.suppress(OSError), ballast.open("ab") as file:
            while True:
                file.write(b"\0" * 4096)
                file.flush()

    def clean() -> None:
        aside = data.with_name("data.aside")
        if not aside.exists():
            return
        ballast.unlink(missing_ok=True)
        if os.path.ismount(data):
            subprocess.run(["umount", "-l", str(data)], check=True, timeout=10)
            subprocess.run(["cp", "-a", f"{aside}/.", str(data)], check=True, timeout=30)
        if os.path.ismount(aside):
            subprocess.run(["umount", "-l", str(aside)], check=True, timeout=10)
        aside.rmdir()

    def mend() -> None:
        ballast.unlink()

    return Fault(
        "disk full",
        of(tenant, "(archive|upload|muc|login|disco)"),
        frozenset({"DiskFull"}),
        begin,
        keep=fill,
        mend=mend,
        clean=clean,
    )


def clock_off(live: Live, tenant: Tenant) -> Fault:
    """The engine alone lives an hour later, by libfaketime; the machine's clock is never touched."""
    definition = live.layout.node / "programs" / f"{live.engine_program(tenant)}.conf"
    right = definition.read_text()
    library = next(Path("/").glob(FAKETIME.lstrip("/")))

    def begin() -> None:
        later = f"-i LD_PRELOAD={library} FAKETIME={HOUR} FAKETIME_DONT_FAKE_MONOTONIC=1 "
        assert " -i " in right
        _overwrite(definition, right.replace(" -i ", f" {later}", 1))
        live.node.reread()

    def mend() -> None:
        if definition.read_text() != right:
            _overwrite(definition, right)
            live.node.reread()
            until(lambda: live.control(tenant).health().version, "the engine answers")

    return Fault("clock off by an hour", of(tenant, "clock"), frozenset({"ClockOff"}), begin, mend=mend, clean=mend)
