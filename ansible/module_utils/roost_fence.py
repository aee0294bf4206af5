"""The node's lock and the highest fence it has seen: who may change it, and who was overtaken meanwhile.

Shared by the module that converges instances and by the one that begins a preparation.
"""

from __future__ import annotations

import fcntl
import os
import time

from ansible.module_utils.roost_bundle import read_text, write_atomically


class Turned(Exception):
    """The whole run is refused; ``reason`` is "locked" or "fence"."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


def take_lock(state_dir, timeout_s):
    """Hold the node: a run whose worker was killed lives on and has to end first. Returns the open file."""
    fd = os.open(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise Turned("locked", f"Another run has held this node for {timeout_s} s.") from error
            time.sleep(0.05)


def pass_fence(state_dir, fence, check):
    """Refuse a caller that was overtaken; remember the highest seen. Call it with the lock held."""
    path = os.path.join(state_dir, "fence")
    text = (read_text(path) or "0").strip()
    seen = int(text) if text.isdigit() else 0
    if fence < seen:
        raise Turned("fence", f"The node has seen fence {seen}; this run has {fence} and is refused.")
    if fence > seen and not check:
        write_atomically(path, f"{fence}\n")
