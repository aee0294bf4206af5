"""Puts a file from anyone (an XML document, or a tar archive, either of them gzipped or not) into an empty directory.

Only regular files with paths that lead downwards come out of an archive; anything else ends it. What a small file can
grow to is limited, and so is what the archive's own headers may want of memory.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from controlplane.portable.documents import CHUNK, USUAL, Limits
from controlplane.portable.paths import checked
from controlplane.values.errors import InvalidInput

#: The name that a single XML document gets.
SINGLE = "data.xml"
#: The most that is read at once; tarfile would take a header's word for it.
_MOST = 1 << 20


class _Forward:
    """What tarfile needs of a file, on a stream: forwards only, never much at once, and not without end."""

    def __init__(self, start: bytes, stream: BinaryIO, limit: int) -> None:
        self._start, self._stream, self._limit, self._at = start, stream, limit, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST:
            raise InvalidInput("bundle", "A header of the archive is larger than any path needs.")
        pieces = [self._start[:size]] if self._start else []
        self._start = self._start[size:]
        missing = size - sum(map(len, pieces))
        while missing and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._at += len(data)
        if self._at > self._limit:
            raise InvalidInput("bundle", f"The archive has more than {self._limit} bytes when it is unpacked.")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise InvalidInput("bundle", "The archive's headers overlap.")
        while self._at < position and self.read(min(CHUNK, position - self._at)):
            pass
        return self._at


def unpack(stream: BinaryIO, root: Path, *, limits: Limits = USUAL) -> list[str]:
    """What ``stream`` has, into ``root`` (made if need be, has to be empty); returns the paths of up to 100 files.

    Needs no more memory than a megabyte or two. Raises ``InvalidInput``; what was unpacked until then is left for the
    caller to remove with ``root``.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if next(root.iterdir(), None) is not None:
        raise FileExistsError(f"{root} is not empty")
    start = _exactly(stream, 2)
    try:
        if start == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=_Joined(start, stream), mode="rb") as packed:  # type: ignore[call-overload]
                return _unpacked(_exactly(packed, 512), packed, root, limits)
        return _unpacked(start + _exactly(stream, 510), stream, root, limits)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput("bundle", f"The archive is damaged or cut off: {error}.") from error
    except (UnicodeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("bundle", f"The archive cannot be read: {error}.") from error


def _unpacked(start: bytes, stream: BinaryIO | gzip.GzipFile, root: Path, limits: Limits) -> list[str]:
    source = _Forward(start, stream, limits.unpacked_bytes)  # type: ignore[arg-type]
    if start[257:262] != b"ustar":
        if not start.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0").startswith(b"<"):
            raise InvalidInput(
                "bundle", "This is neither XML nor a tar archive.", remedy="Give an XML file, a .tar or a .tar.gz."
            )
        _copy(source, root / SINGLE)
        return [SINGLE]
    names: list[str] = []
    count = 0
    with tarfile.open(fileobj=source, mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            archive.members.clear()  # it would remember each
            count += 1
            if count > limits.files:
                raise InvalidInput("bundle", f"The archive has more than {limits.files} files.")
            path = _path_of(member)
            if path is None:
                continue
            target = root / path
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise InvalidInput("bundle", f"{path!r} in the archive is below a file.") from error
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            _copy(content, target, member.size)
            if len(names) < 100:
                names.append(path)
    if not names:
        raise InvalidInput("bundle", "The archive has no files.")
    return names


def _path_of(member: tarfile.TarInfo) -> str | None:
    """Where a member goes, None for a directory. Links, devices, sparse files and path tricks are refused."""
    name = member.name
    while name.startswith("./"):  # as `tar -c .` writes them
        name = name[2:]
    if member.type == tarfile.DIRTYPE:
        if name.rstrip("/") not in ("", "."):
            checked(name.rstrip("/"))
        return None
    path = checked(name)
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise InvalidInput("bundle", f"{path!r} in the archive is no regular file (a link, a device or the like).")
    return path


def _copy(source: object, target: Path, size: int | None = None) -> None:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput("bundle", f"{target.name[:200]!r} is in the archive twice.") from error
    written = 0
    with os.fdopen(descriptor, "wb") as file:
        while piece := source.read(CHUNK):  # type: ignore[attr-defined]
            file.write(piece)
            written += len(piece)
    if size is not None and written != size:
        raise InvalidInput("bundle", "The archive is cut off.")


class _Joined:
    """The stream with what was read of it put back."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start, self._stream = start, stream

    def read(self, size: int = -1) -> bytes:
        if self._start:
            head, self._start = self._start[:size], self._start[size:]
            return head
        return self._stream.read(size)


def _exactly(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """So many bytes, or all there are."""
    data = b""
    while len(data) < size and (piece := stream.read(size - len(data))):
        data += piece
    return data
