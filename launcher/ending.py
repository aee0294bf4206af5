"""``down`` and ``destroy``: only what this stack started or made is ended and removed."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from launcher import machine, stack
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.processes import run


def down(layout: Layout) -> int:
    """Stop everything; a second time it finds nothing to do."""
    if not layout.state.is_dir():
        print("Nothing runs: there is no stack here.")
        return 0
    with stack.exclusive(layout):
        start = time.monotonic()
        stopped = _stop(layout)
    print(f"Stopped ({time.monotonic() - start:.1f} s). Data is kept." if stopped else "Nothing was running.")
    return 0


def _stop(layout: Layout) -> bool:
    control = stack.supervisor(layout)
    was_running = control.pid() is not None
    control.stop(stack.STOP_TIMEOUT_S)
    return bool(stack.end_leftovers(layout)) or was_running


def destroy(layout: Layout, *, ask: bool) -> int:
    """Stop everything and remove the state directory and the tenants' users. Packages and the user roost stay."""
    if not layout.state.is_dir():
        print("Nothing to remove: there is no stack here.")
        return 0
    if ask and not _sure(layout.state):
        print("Nothing was removed.")
        return 1
    with stack.exclusive(layout):
        _stop(layout)
        for user in machine.tenant_users(layout.state):
            run(["userdel", user], timeout_s=60, check=False)
        _check_unmounted(layout.state)
    shutil.rmtree(layout.state)
    if layout.var.is_symlink():
        layout.var.unlink()
    print(f"Removed {layout.state}. Debian packages and the user {machine.CONTROL_USER} stay; others may use them.")
    return 0


def _sure(state: Path) -> bool:
    if not sys.stdin.isatty():
        raise Problem("destroy asks before it removes all data; without a terminal say `./roost destroy --yes`.")
    answer = input(f"This stops everything and removes {state} with all tenants, messages and keys. Type yes: ")
    return answer.strip().lower() == "yes"


def _check_unmounted(state: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [place for place in mounted if place.startswith(f"{state}/")]
    if inside:
        raise Problem(f"Something is mounted in {state} ({inside[0]}): unmount it, then run this again.")
