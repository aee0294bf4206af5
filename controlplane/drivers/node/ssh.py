"""The line to another machine: one OpenSSH connection per node and user, shared by all processes of that user.

The first use opens a master connection; commands and forwarded unix sockets go through it, so each costs
milliseconds. Only pinned host keys are believed, and our key lies on disk only while a connection is being opened.
``hostkeys`` reads keys, ``lines`` says how Python gets there; who may be reached is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from controlplane.drivers.node import hostkeys
from controlplane.drivers.node.base import Answer, HostKeyUnknown, KeyRefused, NodeTarget
from controlplane.drivers.node.lines import ENVIRONMENT, execute, judge, program
from controlplane.values.errors import Rejected, RoostError, Unavailable

CONNECT_S = 5
#: A connection is open after this time, or is given up.
OPEN_S = 9.0
#: What the master is told and asked for is local and quick.
TELL_S = 5.0
#: An unused master ends by itself.
PERSIST_S = 120
#: Whoever asks again so soon after a failure gets the same answer.
FAILED_S = 2.0
#: Directories of targets that nobody used for so long are taken away.
STALE_S = 86_400.0
_PATH = re.compile(r"/[A-Za-z0-9._/+@-]+")
#: What ssh says when the other side proves to be nobody that is pinned.
_UNKNOWN = ("host key verification failed", "host key is known for", "identification has changed")
_REFUSED = ("permission denied", "too many authentication failures")
#: sshd's MaxSessions; it is a matter of moments.
_BUSY = "session open refused by peer"
_MUX = ("mux_client", "control socket connect", "unknown port 65535")


def options(target: NodeTarget, directory: Path) -> list[str]:
    """Options of the connection itself. ``directory`` holds ``key`` and ``known_hosts``."""
    pairs = {
        "HostKeyAlias": target.name,
        "UserKnownHostsFile": str(directory / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "CheckHostIP": "no",
        "IdentityFile": str(directory / "key"),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "PasswordAuthentication": "no",
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "ConnectionAttempts": "1",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "2",
        "TCPKeepAlive": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "StreamLocalBindUnlink": "yes",
        "StreamLocalBindMask": "0177",
        "EscapeChar": "none",
        "LogLevel": "ERROR",
    }
    return ["-F", "/dev/null", *(word for name, value in pairs.items() for word in ("-o", f"{name}={value}"))]


class SshLine:
    """``Line`` over SSH. ``directory``: where connections of all users and nodes lie (sockets: keep it short).

    Safe to use from many threads and processes: opening is done under a lock, everything else is the master's.
    """

    def __init__(self, target: NodeTarget, directory: Path) -> None:
        self.target, self.name = target, target.name
        self._base = directory / str(os.geteuid())
        self._place = self._base / _identity(target)
        self.control = self._place / "m"
        self._failure: tuple[float, RoostError] | None = None

    def socket(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise Rejected(f"{path!r} cannot be forwarded: it is no plain absolute path.")
        near = self._place / f"f{hashlib.sha256(path.encode()).hexdigest()[:12]}"
        if near.exists() and _answers(self.control):
            return near
        deadline = time.monotonic() + OPEN_S + TELL_S
        self.open(timeout_s=OPEN_S)
        with self._locked(deadline):
            if not near.exists():
                said = self._tell("forward", "-L", f"{near}:{path}")
                if said.code != 0:
                    raise Unavailable(f"{self.name} did not forward {path}: {_last(said.err)}")
        return near

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 20.0) -> Answer:
        """As the account's login shell runs it; through sudo if that account is not root's."""
        deadline = time.monotonic() + timeout_s
        words = [*(() if self.target.ssh_user == "root" else ("sudo", "-n", "--")), *argv]
        # Nobody waits for it any more then, and a process that nobody ends would stay for good.
        command = shlex.join(["timeout", "-k", "2", str(math.ceil(timeout_s) + 1), *words])
        while True:
            self.open(timeout_s=min(OPEN_S, deadline - time.monotonic()))
            mine = [*self.session_options(), "-l", self.target.ssh_user, "--", self.name, command]
            try:
                said = execute(self.name, ["ssh", *mine], stdin=stdin, timeout_s=deadline - time.monotonic())
            except Unavailable:
                self._distrust()
                raise
            trouble = said.err.lower()
            if said.code != 255 or not any(word in trouble for word in (_BUSY, *_MUX)):
                if said.code == 255 and not _answers(self.control):
                    raise Unavailable(f"The line to {self.name} broke: {_last(said.err)}")
                return said
            if _BUSY not in trouble or time.monotonic() > deadline - 0.5:
                raise Unavailable(f"The line to {self.name} broke: {_last(said.err)}")
            time.sleep(0.2)

    def ask(self, source: str, argument: Any, *, timeout_s: float = 20.0) -> Any:
        return judge(self.name, self.run(["python3", "-I", "-"], stdin=program(source, argument), timeout_s=timeout_s))

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["ssh", *self.session_options(), "-l", self.target.ssh_user, "--", self.name, shlex.join(argv)]

    def close(self) -> None:
        if not self._place.exists():
            return
        with contextlib.suppress(Unavailable), self._locked(time.monotonic() + TELL_S):
            if _answers(self.control):
                self._tell("exit")
            self._clear()

    def session_options(self) -> list[str]:
        """Options of whoever goes through the open connection and opens none (a lost one is not made up for)."""
        pairs = ("ControlMaster=no", f"ControlPath={self.control}", "ProxyCommand=false", "BatchMode=yes")
        return ["-F", "/dev/null", "-T", *(word for pair in (*pairs, "LogLevel=ERROR") for word in ("-o", pair))]

    def open(self, *, timeout_s: float = OPEN_S) -> None:
        """Make sure that there is a connection. It may break at any time after."""
        if _answers(self.control):
            return
        if self._failure is not None and time.monotonic() - self._failure[0] < FAILED_S:
            raise self._failure[1]
        deadline = time.monotonic() + max(0.5, timeout_s)
        try:
            self._prepare()
            with self._locked(deadline):
                if not _answers(self.control):
                    self._start(deadline)
        except RoostError as error:
            self._failure = (time.monotonic(), error)
            raise
        self._failure = None

    def _start(self, deadline: float) -> None:
        self._clear()
        if not self.target.host_keys:
            raise self._unknown()
        with self._secrets() as place, (place / "said").open("w+b") as said:
            argv = ["ssh", *options(self.target, place), "-M", "-N", "-f", "-o", f"ControlPersist={PERSIST_S}"]
            argv += ["-o", f"ControlPath={self.control}", "-p", str(self.target.ssh_port), "-l", self.target.ssh_user]
            process = subprocess.Popen(
                [*argv, "--", self.target.address],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=ENVIRONMENT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=max(0.5, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise Unavailable(f"{self._where()} did not open a connection in time.") from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            said.seek(0)
            text = said.read().decode(errors="replace")
        if code != 0:
            raise self._classified(text)
        if not _answers(self.control):
            raise Unavailable(f"The connection to {self._where()} broke at once.")

    def _classified(self, text: str) -> RoostError:
        lowered = text.lower()
        if any(words in lowered for words in _UNKNOWN):
            return self._unknown()
        if any(words in lowered for words in _REFUSED):
            return KeyRefused(
                f"{self._where()} does not accept our key for {self.target.ssh_user}.",
                remedy=f"Put the node's public key into ~{self.target.ssh_user}/.ssh/authorized_keys there.",
            )
        return Unavailable(f"{self._where()} is not reached: {_last(text)}")

    def _unknown(self) -> RoostError:
        try:
            seen = hostkeys.scan(self.target.address, self.target.ssh_port, timeout_s=OPEN_S)
        except Unavailable as error:
            return error
        if set(seen) & set(self.target.host_keys):
            return Unavailable(f"{self._where()} showed another host key a moment ago.")
        shown = ", ".join(hostkeys.fingerprint(line) for line in seen)
        return HostKeyUnknown(f"{self._where()} shows no host key that is trusted. It shows {shown}.", seen=seen)

    def _where(self) -> str:
        return f"{self.name} ({self.target.address} port {self.target.ssh_port})"

    def _tell(self, what: str, *words: str) -> Answer:
        argv = ["ssh", "-F", "/dev/null", "-O", what, "-o", f"ControlPath={self.control}", *words, "--", self.name]
        return execute(self.name, argv, stdin=b"", timeout_s=TELL_S)

    def _distrust(self) -> None:
        """After a time-out: a master that does not even answer here is left behind; the next use opens another."""
        try:
            if self._tell("check").code == 0:
                return
        except Unavailable:
            pass
        with contextlib.suppress(Unavailable), self._locked(time.monotonic() + TELL_S):
            self._clear()

    def _prepare(self) -> None:
        """Make the directories: ours is ours alone, also where others may make theirs."""
        try:
            self._base.parent.mkdir(parents=True, exist_ok=True)
            self._base.mkdir(mode=0o700, exist_ok=True)
            found = self._base.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise Rejected(f"{self._base} is not ours alone.", remedy="Remove it; it is made again.")
            if not self._place.exists():
                _remove_stale(self._base)
                self._place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Rejected(
                f"{self._base} cannot be made: {error.strerror}.",
                remedy="Let the worker's user write to ROOST_SSH_DIR.",
            ) from error

    def _clear(self) -> None:
        """Remove what an ended connection left: its sockets, and keys if its maker was killed."""
        for entry in self._place.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != "lock":
                entry.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _secrets(self) -> Iterator[Path]:
        """A directory with our key and the pinned host keys, gone when the connection is open."""
        place = Path(tempfile.mkdtemp(prefix="k", dir=self._place))
        try:
            key = self.target.private_key
            _write_private(place / "key", key.reveal().strip() + "\n" if key else "")
            lines = "".join(f"{self.name} {hostkeys.parse(line)}\n" for line in self.target.host_keys)
            _write_private(place / "known_hosts", lines)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        lock = os.open(self._place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"Others are still opening the line to {self.name}.") from None
                    time.sleep(0.02)
            os.utime(self._place)
            yield
        finally:
            os.close(lock)


def _identity(target: NodeTarget) -> str:
    """Twelve letters for everything that a connection depends on: another key or host key is another connection."""
    key = target.private_key.reveal() if target.private_key else ""
    parts = (target.name, target.address, str(target.ssh_port), target.ssh_user, *target.host_keys, key)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _answers(control: Path) -> bool:
    """True if a master listens there; a hundredth of what asking it by ``ssh -O check`` costs."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(1.0)
        try:
            stream.connect(str(control))
        except OSError:
            return False
    return True


def _remove_stale(base: Path) -> None:
    for entry in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > STALE_S and not _answers(entry / "m"):
                shutil.rmtree(entry, ignore_errors=True)


def _last(text: str) -> str:
    """What ssh said last, without its trailing noise."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:300]


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
