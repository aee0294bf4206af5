"""A real sshd on a loopback address, with host keys and an authorized_keys of its own, for logins as root.

It runs in a mount namespace in which /root/.ssh is the test's, so nothing of the real account is touched; everything
that it runs sees the rest of this machine as it is. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

SSHD = Path("/usr/sbin/sshd")
#: ``exec``: so that the first process is sshd itself.
SETUP = """
set -e
mount --make-rprivate /
mkdir -p /root/.ssh /run/sshd
mount --bind "$HOME_SSH" /root/.ssh
exec /usr/sbin/sshd -D -e -f "$CONFIG"
"""


def make_key(path: Path, kind: str = "ed25519") -> str:
    """A key pair at ``path``; its public line without the comment."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@dataclass
class Sshd:
    """A context manager. ``host_keys``: the public lines that it shows."""

    address: str
    port: int = 22022
    kinds: tuple[str, ...] = ("ed25519",)
    place: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rs", dir="/tmp")))
    host_keys: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    extra: str = ""

    @property
    def authorized(self) -> Path:
        return self.place / "home" / "authorized_keys"

    @property
    def log(self) -> Path:
        return self.place / "log"

    def __enter__(self) -> Self:
        (self.place / "home").mkdir(mode=0o700)
        self.authorized.touch(mode=0o600)
        self.new_host_keys()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.place)

    def new_host_keys(self) -> None:
        """Others than before, for the next start."""
        self.host_keys = tuple(make_key(self.place / f"host_{kind}", kind) for kind in self.kinds)

    def start(self) -> None:
        config = self.place / "sshd_config"
        lines = [f"HostKey {self.place}/host_{kind}" for kind in self.kinds]
        config.write_text(
            "\n".join(
                [
                    f"ListenAddress {_bracketed(self.address)}:{self.port}",
                    *lines,
                    "PidFile none",
                    "UsePAM no",
                    "PermitRootLogin prohibit-password",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "AuthorizedKeysFile %h/.ssh/authorized_keys",
                    "LogLevel VERBOSE",
                    self.extra,
                    "",
                ]
            )
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", SETUP],
                env={**os.environ, "HOME_SSH": str(self.place / "home"), "CONFIG": str(config)},
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while not _listens(self.address, self.port):
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Like a machine that loses power, but for the network: connections are closed."""
        if self.process is None:
            return
        for pid in [*self.sessions(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(timeout=10)
        self.process = None

    def sessions(self) -> list[int]:
        """sshd's processes of open connections (with privilege separation two of each user's but root's)."""
        assert self.process is not None
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            for child in map(int, children):
                try:
                    if Path(f"/proc/{child}/comm").read_text().strip() == "sshd":
                        found.append(child)
                        waiting.append(child)
                except OSError:
                    continue
        return found

    def logins(self) -> int:
        """How often somebody logged in."""
        return self.log.read_text().count("Accepted publickey")

    def allow(self, public_key: str) -> None:
        with self.authorized.open("a") as stream:
            stream.write(public_key + "\n")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
