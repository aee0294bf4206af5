"""Where a bundle's files are written: a directory, or a tar archive (gzip or plain) that is streamed.

A file counts only when it is whole: in a directory it gets its name then, in an archive its header is written then.
Files come to be in the same order with the same bytes for the same data, so that repositories find few new blocks.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from controlplane.portable.paths import checked

#: A file of an archive is kept in memory up to this, above that on disk, since its header wants its size beforehand.
SPOOL_BYTES = 1 << 20


class Sink(Protocol):
    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A new file at ``path`` to write into. It is there when the block ends, and not if it ends by an error."""

    def close(self) -> None:
        """No more files."""

    def abort(self) -> None:
        """No more files, and the bundle is not whole."""


class Directory:
    """Below ``root``, which is made if need be, and has to be empty. Files 0600, directories 0700."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if next(root.iterdir(), None) is not None:
            raise FileExistsError(f"{root} is not empty")

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        target = self._root / checked(path)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".part-", dir=self._root)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            if target.exists():
                raise FileExistsError(f"{path} would be written twice")
            os.rename(name, target)
        except BaseException:
            os.unlink(name)
            raise

    def close(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """What is there stays for the caller to remove."""


class Tar:
    """Into ``stream``, which needs no seeking. ``compress``: gzip; leave it off for a repository that compresses."""

    def __init__(self, stream: BinaryIO, *, compress: bool = True, mtime: int = 0) -> None:
        self._mtime = mtime
        self._packed = gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6, mtime=mtime) if compress else None
        self._tar = tarfile.open(fileobj=self._packed or stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        member = tarfile.TarInfo(checked(path))
        member.mode, member.mtime = 0o600, self._mtime
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
            yield file  # type: ignore[misc]  # it has what we use of BinaryIO
            member.size = file.tell()
            file.seek(0)
            self._tar.addfile(member, file)
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would remember each

    def close(self) -> None:
        self._tar.close()
        if self._packed is not None:
            self._packed.close()

    def abort(self) -> None:
        """Writes no end, so that everybody sees that it was cut off."""
        self._tar.fileobj.closed = True  # type: ignore[attr-defined]  # or its __del__ would write one
