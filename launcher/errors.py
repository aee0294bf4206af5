"""The one kind of failure that a person sees: a sentence that says what is wrong and what to do about it.

Everything else that escapes is a defect of the launcher and shows a traceback.
"""

from __future__ import annotations

import errno

DISK_FULL = "No space left on device"


class Problem(Exception):
    """``str()`` of it is one or two clear sentences; ``detail`` holds what a tool said, in lines."""

    def __init__(self, sentence: str, detail: str = "") -> None:
        super().__init__(sentence)
        self.detail = detail.strip()


def disk_full(what: str) -> Problem:
    """The sentence for ENOSPC, wherever it came from."""
    return Problem(
        f"The disk is full (while working on {what}): free some space, then run the same command again; "
        "it continues where it stopped."
    )


def from_os_error(error: OSError) -> Problem | None:
    """Translate an error of the operating system that a person can do something about, else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(str(error.filename or "a file"))
    if error.errno == errno.EROFS:
        return Problem(f"{error.filename} is on a read-only file system: put the clone on a disk that can be written.")
    return None
