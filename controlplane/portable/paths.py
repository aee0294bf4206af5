"""File names for what people named, and paths in a bundle that lead nowhere else.

Quoting is by one function, so that a name of 255 bytes of any script, ``..`` or ``con`` is a harmless file name on
every system. Opening follows no link, whoever made the directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from controlplane.values.errors import InvalidInput

#: A longer name is cut, and told apart from its like by a digest.
MAX_NAME = 120
MAX_PATH = 1024
MAX_PARTS = 16
_PLAIN = re.compile(r"[a-z0-9_-]|(?<!^)\.(?!$)")
_PLAIN_CASE = re.compile(r"[A-Za-z0-9_-]|(?<!^)\.(?!$)")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_name(text: str, *, keep_case: bool = False) -> str:
    """``text`` as a file name of at most 120 ASCII characters, other for every other text.

    Letters a-z, digits, ``_``, ``-`` and inner dots stay, all else is ``%XX`` of UTF-8. Capitals are quoted as well,
    for file systems that do not tell them apart, unless ``keep_case`` (for a file that is alone in its directory).
    """
    plain = _PLAIN_CASE if keep_case else _PLAIN
    pieces = [character if plain.match(text, at) else _percent(character) for at, character in enumerate(text)]
    if pieces and _RESERVED.match(text):
        pieces[0] = _percent(text[0])
    name = "".join(pieces) or "%"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{name[:79]}~{digest[:40]}"
    return name


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def checked(path: str, *, field: str = "bundle") -> str:
    """``path`` if it is relative, leads downwards only and has no surprises; else ``InvalidInput``."""
    parts = path.split("/")
    bad = (
        not path
        or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH
        or len(parts) > MAX_PARTS
        or any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
        or any(ord(character) < 32 or character in '\\:\x7f*?"<>|' for character in path)
        or any(0xD800 <= ord(character) < 0xE000 for character in path)
    )
    if bad:
        raise InvalidInput(field, f"{path[:200]!r} is no path inside a bundle.")
    return path


def beside(path: str, href: str) -> str:
    """The path that ``href`` in the file ``path`` means (relative reference, RFC 3986 §4.2), if inside the bundle.

    ``%XX`` is taken as it stands: our file names have it, and no one escapes a check by quoting.
    """
    directory, slash, _ = path.rpartition("/")
    return checked(f"{directory}{slash}{href}")


@contextmanager
def opened(root: Path, path: str) -> Iterator[BinaryIO]:
    """The regular file at ``path`` below ``root``, to read. No part of it may be a link (``InvalidInput``).

    ``FileNotFoundError`` if there is none.
    """
    parts = checked(path).split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_NONBLOCK if last else os.O_DIRECTORY)
            try:
                below = os.open(part, flags, dir_fd=at)
            except FileNotFoundError:
                raise
            except OSError as error:  # ELOOP and ENOTDIR: a link, or a file on the way
                raise InvalidInput("bundle", f"{path!r} in the bundle cannot be opened: {error.strerror}.") from error
            os.close(at)
            at = below
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise InvalidInput("bundle", f"{path!r} in the bundle is no regular file.")
        file = os.fdopen(at, "rb", buffering=0)
    except BaseException:
        os.close(at)
        raise
    with file:
        yield file
