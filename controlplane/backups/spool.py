"""Directories on disk in which something is put together, gone when that is done; also when its maker was killed.

Each is locked as long as it is in use. What has no lock is of somebody who died, and the next who comes removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from controlplane.values.errors import Rejected


@contextmanager
def directory(prefix: str) -> Iterator[Path]:
    """A new one of ours alone (0700) until the end of the block; left-overs are taken away first."""
    base = _base()
    clear()
    place = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=base))
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (place / ".held").touch(mode=0o600)  # an empty one may be one that is just being made
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def clear() -> int:
    """Remove what nobody holds; how many there were."""
    removed = 0
    for entry in _base().iterdir():
        with contextlib.suppress(OSError):
            handle = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(entry.iterdir()):
                    shutil.rmtree(entry, ignore_errors=True)
                    removed += 1
            finally:
                os.close(handle)
    return removed


def free_bytes() -> int:
    """Room that is left there."""
    return shutil.disk_usage(_base()).free


def _base() -> Path:
    base = Path(settings.ROOST["SPOOL_DIR"])
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Rejected(f"The spool {base} cannot be made: {error.strerror}.", remedy="Set ROOST_SPOOL_DIR.") from None
    found = base.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Rejected(f"The spool {base} is not ours alone.", remedy="Give it to Roost's user, with mode 0700.")
    return base
