"""Writes files of one tenant on its node, with that tenant's rights and no more (``tenantfiles`` reads them so).

Directories are made on the way, no link is followed, and a file gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import struct
import subprocess
from collections.abc import Iterable
from pathlib import PurePosixPath

from controlplane.drivers.node.base import Line, NodeTarget
from controlplane.drivers.node.tenantfiles import SILENCE_S, start
from controlplane.values.errors import Rejected, Unavailable

_WRITE = """
def main(argument):
    become(argument["user"])
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    top = os.open(argument["root"], flags)
    def below(path):
        *directories, name = path.split("/")
        if "" in directories or not name or {".", ".."} & {*directories, name}:
            raise OSError(22, "no plain path")
        at = os.dup(top)
        try:
            for directory in directories:
                try:
                    os.mkdir(directory, 0o750, dir_fd=at)
                except FileExistsError:
                    pass
                deeper = os.open(directory, flags, dir_fd=at)
                os.close(at)
                at = deeper
        except OSError:
            os.close(at)
            raise
        return at, name
    def exactly(count):
        data = b""
        while len(data) < count:
            part = os.read(0, count - len(data))
            if not part:
                os._exit(0)
            data += part
        return data
    def one(wanted):
        at, name = below(wanted["path"])
        part = ".roost-" + str(os.getpid())
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640, dir_fd=at)
        except OSError:
            os.close(at)
            raise
        return at, name, part, fd
    while True:
        wanted = json.loads(exactly(struct.unpack(">I", exactly(4))[0]))
        error, fd = "", -1
        try:
            at, name, part, fd = one(wanted)
        except OSError as problem:
            error = problem.strerror or "error"
        while True:
            length = struct.unpack(">I", exactly(4))[0]
            if length in (0, 0xFFFFFFFF):
                break
            data = exactly(length)
            try:
                while data and not error:
                    data = data[os.write(fd, data):]
            except OSError as problem:
                error = problem.strerror or "error"
        if fd >= 0:
            try:
                os.fsync(fd)
                if length or error:
                    os.unlink(part, dir_fd=at)
                else:
                    os.utime(fd, (wanted["at"], wanted["at"]))
                    os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)
            except OSError as problem:
                error = error or problem.strerror or "error"
            os.close(fd)
            os.close(at)
        os.write(1, json.dumps(error).encode() + b"\\n")
"""
_CHUNK = 256 * 1024
_CALLED_OFF = 0xFFFFFFFF


class TenantWriter:
    """Writes below ``root``, one file after the other, through one process. A context manager."""

    def __init__(self, line: Line, target: NodeTarget, *, user: str, root: PurePosixPath | str) -> None:
        self._line, self._target, self._user, self._root = line, target, user, str(root)
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, path: str, chunks: Iterable[bytes], *, at: float) -> None:
        """A file of these bytes at ``path``, with the time ``at`` (seconds); in place of one that is there.

        ``Rejected`` if it cannot be written there, ``Unavailable`` if the line breaks. If ``chunks`` raises, there is
        no file.
        """
        header = json.dumps({"path": path, "at": at}).encode()
        self._send(struct.pack(">I", len(header)) + header)
        try:
            for chunk in chunks:
                for begin in range(0, len(chunk), _CHUNK):
                    piece = chunk[begin : begin + _CHUNK]
                    self._send(struct.pack(">I", len(piece)) + piece)
        except BaseException:
            with contextlib.suppress(Unavailable, Rejected):
                self._send(struct.pack(">I", _CALLED_OFF))
                self._answer()
            raise
        self._send(struct.pack(">I", 0))
        error = self._answer()
        if error:
            raise Rejected(f"{path} cannot be written on {self._target.name}: {error}.")

    def _send(self, data: bytes) -> None:
        if self._process is None:
            self._process = start(
                self._line, self._target, user=self._user, source=_WRITE, argument={"root": self._root}
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        said = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(timeout=SILENCE_S):
                    raise Unavailable(
                        f"{self._target.name} said nothing for {SILENCE_S:.0f} s while files were written."
                    )
                part = os.read(self._process.stdout.fileno(), 4096)
                if not part:
                    raise self._ended()
                said += part
        return str(json.loads(said))

    def _ended(self) -> Unavailable | Rejected:
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(OSError):
            process.kill()
        said = process.communicate()[1].decode(errors="replace").strip().splitlines() or ["no message"]
        if process.returncode == 1:
            return Rejected(f"Files of {self._user} on {self._target.name} cannot be written: {said[-1][:300]}")
        return Unavailable(f"The line to {self._target.name} broke while files were written: {said[-1][:300]}")

    def __enter__(self) -> TenantWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(OSError):
                process.kill()
            process.communicate()
