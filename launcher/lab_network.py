"""A lab's networks as the launcher needs them: its own (the control plane's) and that of the world outside."""

from __future__ import annotations

import ctypes
import os

from launcher.errors import Problem
from launcher.layout import Layout
from launcher.rig.processes import RigError
from launcher.rig.rig import Rig

#: Names of the two hosts that are a network and nothing more.
CONTROL, OUTSIDE = "cp", "outside"
CLONE_NEWNET = 0x40000000


def rig_of(layout: Layout) -> Rig:
    """The rig that is up. Raises ``Problem`` if it is not."""
    try:
        return Rig.load(layout.rig)
    except RigError as error:
        raise Problem(f"{error} Run `./roost lab down`, then `./roost lab up`.") from error


def outside(layout: Layout) -> list[str]:
    """The prefix of a command that runs in the world outside."""
    return ["nsenter", f"--net=/proc/{rig_of(layout).hosts[OUTSIDE].pid}/ns/net", "--"]


def enter(layout: Layout) -> None:
    """Move this process into the control plane's network, where all of the lab is reached; its children follow."""
    pid = rig_of(layout).hosts[CONTROL].pid
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, CLONE_NEWNET):
            raise Problem(f"The lab's network cannot be entered: {os.strerror(ctypes.get_errno())}.")
    finally:
        os.close(handle)
