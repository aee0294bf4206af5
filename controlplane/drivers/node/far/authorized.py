"""Our lines in an account's authorized_keys: those whose comment is ours. All others stay as they are."""

from __future__ import annotations

import os
import pwd
import tempfile
from typing import Any


def main(argument: dict[str, Any]) -> int:
    """``{"user", "comment", "line", "alone"}``: have ``line`` in it; with ``alone`` no other line with that comment.

    Answers how many lines are ours afterwards. The file is replaced whole, so nobody ever reads half of it.
    """
    account = pwd.getpwnam(argument["user"])
    directory = os.path.join(account.pw_dir, ".ssh")
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
        os.chown(directory, account.pw_uid, account.pw_gid)
    path = os.path.realpath(os.path.join(directory, "authorized_keys"))
    before = _read(path)
    after = _changed(before, argument["comment"].encode(), argument["line"].encode(), argument["alone"])
    if after != before:
        _replace(path, after, account)
    return sum(_is_ours(line, argument["comment"].encode()) for line in after.splitlines())


def _changed(text: bytes, comment: bytes, line: bytes, alone: bool) -> bytes:
    wanted = _key(line)
    kept = [
        one for one in text.splitlines(keepends=True) if not _is_ours(one, comment) or _key(one) == wanted or not alone
    ]
    if not any(_is_ours(one, comment) and _key(one) == wanted for one in kept):
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        kept.append(line + b"\n")
    return b"".join(kept)


def _is_ours(line: bytes, comment: bytes) -> bool:
    words = line.split()
    return len(words) >= 3 and words[-1] == comment and not line.lstrip().startswith(b"#") and _key(line) is not None


def _key(line: bytes) -> bytes | None:
    """The base64 of the key in a line; options before it may hold anything, but no word that begins like this."""
    return next((word for word in line.split() if word.startswith(b"AAAA")), None)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _replace(path: str, content: bytes, account: pwd.struct_passwd) -> None:
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".authorized_keys")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            found = os.stat(path)
            os.chmod(temporary, found.st_mode & 0o777)
            os.chown(temporary, found.st_uid, found.st_gid)
        except FileNotFoundError:
            os.chmod(temporary, 0o600)
            os.chown(temporary, account.pw_uid, account.pw_gid)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
