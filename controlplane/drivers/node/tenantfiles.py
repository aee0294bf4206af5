"""Files of one tenant on its node, with that tenant's rights and no more: a program there becomes its user at once.

Whoever is root there could be led astray by a link that a tenant made; its own user can read only what it may anyway.
Which files are wanted is told by whoever holds the line.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from controlplane.drivers.node.base import Line, NodeTarget
from controlplane.drivers.node.lines import ENVIRONMENT
from controlplane.values.errors import Rejected, Unavailable

#: A node that says nothing for so long is given up.
SILENCE_S = 60.0
_GONE, _BROKEN = 0xFFFFFFFF, 0xFFFFFFFE
#: Reads a program from its standard input, which stays open behind it, so that no argument vector shows it.
_START = """\
import os
n = b""
while not n.endswith(b"\\n"):
    n += os.read(0, 1) or os._exit(3)
t = b""
while len(t) < int(n):
    t += os.read(0, int(n) - len(t)) or os._exit(3)
exec(compile(t, "files", "exec"))
"""
#: Modules first: the user that it becomes may not be able to read them. Then for good: no saved id is left.
_BECOME = """\
import json, os, pwd, stat, struct, sys
def become(name):
    entry = pwd.getpwnam(name)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    if os.getresuid() != (entry.pw_uid,) * 3:
        sys.exit("this account may not become " + name)
    os.umask(0o027)
"""
#: Goes down directory by directory and follows no link; what is not a plain file is not there.
_READ = """
def main(argument):
    become(argument["user"])
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    top = os.open(argument["root"], flags | os.O_DIRECTORY)
    def find(path):
        *directories, name = path.split("/")
        if "" in directories or not name or {".", ".."} & {*directories, name}:
            raise FileNotFoundError(path)
        at = os.dup(top)
        try:
            for directory in directories:
                below = os.open(directory, flags | os.O_DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
            return os.open(name, flags, dir_fd=at)
        finally:
            os.close(at)
    def whole(data):
        while data:
            data = data[os.write(1, data):]
    asked = os.fdopen(0, "rb", closefd=False)
    for line in asked:
        try:
            file = find(json.loads(line))
        except OSError:
            whole(struct.pack(">I", 0xFFFFFFFF))
            continue
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                whole(struct.pack(">I", 0xFFFFFFFF))
                continue
            whole(struct.pack(">I", 0))
            while chunk := os.read(file, 262144):
                whole(struct.pack(">I", len(chunk)) + chunk)
            whole(struct.pack(">I", 0))
        except OSError:
            whole(struct.pack(">I", 0xFFFFFFFE))
        finally:
            os.close(file)
"""


def start(
    line: Line, target: NodeTarget, *, user: str, source: str, argument: dict[str, Any]
) -> subprocess.Popen[bytes]:
    """Run Python on the node as ``user``. ``source`` defines ``main(argument)`` and calls ``become(argument["user"])``
    first. Its standard streams are pipes; it ends when its input does.

    Needs root there: over SSH the account is root or may use sudo; on this machine our process is root, or was and
    kept it as its saved user id only (``privileges``).
    """
    line.open()
    near = target.connection == "local"
    sudo = [] if near or target.ssh_user == "root" else ["sudo", "-n", "--"]
    process = subprocess.Popen(
        line.command([*sudo, "python3", "-I", "-c", _START]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(ENVIRONMENT),
        start_new_session=True,
        preexec_fn=_regain if near and os.geteuid() != 0 and os.getresuid()[2] == 0 else None,
    )
    text = f"{_BECOME}{source}\nmain(json.loads({json.dumps({**argument, 'user': user})!r}))\n".encode()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"%d\n%s" % (len(text), text))
        process.stdin.flush()
    return process


def _regain() -> None:
    """In the child: what the saved id allows, for the moment until it becomes a tenant's user."""
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)


class TenantFiles:
    """Reads files of an instance below ``root``, one after the other, through one process. A context manager.

    ``kib_s``: KiB per second that are read at most, 0 is no limit.
    """

    def __init__(self, line: Line, target: NodeTarget, *, user: str, root: PurePosixPath | str, kib_s: int = 0) -> None:
        self._line, self._target, self._user, self._root = line, target, user, str(root)
        self._pace_s = 1 / (kib_s * 1024) if kib_s else 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._name = target.name

    def read(self, path: str) -> Iterator[bytes] | None:
        """The bytes of the file at ``path``, relative to the root. None: there is none, it is no plain file, or the way
        to it goes over a link. The one before has to be read to its end. ``Unavailable`` if the line breaks.
        """
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._ended() from None
        if self._number() == _GONE:
            return None
        return self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        began, done = time.monotonic(), 0
        while length := self._number():
            if length == _BROKEN:
                raise Unavailable(f"A file of {self._user} on {self._name} could not be read to its end.")
            yield self._bytes(length)
            done += length
            if self._pace_s:
                time.sleep(min(5.0, max(0.0, began + done * self._pace_s - time.monotonic())))

    def _number(self) -> int:
        return int(struct.unpack(">I", self._bytes(4))[0])

    def _bytes(self, length: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        data = bytearray()
        while len(data) < length:
            self._wait(self._process.stdout)
            part = os.read(self._process.stdout.fileno(), length - len(data))
            if not part:
                raise self._ended()
            data += part
        return bytes(data)

    def _wait(self, stream: IO[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(timeout=SILENCE_S):
                raise Unavailable(f"{self._name} said nothing for {SILENCE_S:.0f} s while files were read.")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = start(
                self._line, self._target, user=self._user, source=_READ, argument={"root": self._root}
            )
        return self._process

    def _ended(self) -> Unavailable | Rejected:
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(OSError):
            process.kill()
        said = process.communicate()[1].decode(errors="replace").strip().splitlines() or ["no message"]
        if process.returncode == 1:
            return Rejected(f"Files of {self._user} on {self._name} cannot be read: {said[-1][:300]}")
        return Unavailable(f"The line to {self._name} broke while files were read: {said[-1][:300]}")

    def __enter__(self) -> TenantFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(OSError):
                process.kill()
            process.communicate()
