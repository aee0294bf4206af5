"""Is this a machine that the stack can run on, and the users that its services run as."""

from __future__ import annotations

import grp
import os
import shutil
from pathlib import Path

from launcher.errors import Problem
from launcher.processes import group_exists, run, user_exists

CONTROL_USER = "roost"
FIRST_RUN_MIB, LATER_RUN_MIB = 2500, 200


def check_system(os_release: Path = Path("/etc/os-release")) -> None:
    """Debian 12 on Linux, or the sentence that says so."""
    try:
        pairs = dict(line.split("=", 1) for line in os_release.read_text().splitlines() if "=" in line)
    except OSError:
        pairs = {}
    system = {name: value.strip('"') for name, value in pairs.items()}
    if system.get("ID") != "debian" or system.get("VERSION_ID") != "12":
        found = system.get("PRETTY_NAME", "an unknown system")
        raise Problem(
            f"This is {found}, and Roost's local stack needs Debian 12 (its packages of Prosody, ejabberd and the "
            "rest): use a Debian 12 machine, virtual machine or container."
        )


def check_disk(directory: Path, needed_mib: int) -> None:
    """Raises the full-disk sentence if less than ``needed_mib`` is free where ``directory`` is or will be."""
    place = directory
    while not place.exists():
        place = place.parent
    free_mib = shutil.disk_usage(place).free // 2**20
    if free_mib < needed_mib:
        raise Problem(
            f"The disk is full: {place} has {free_mib} MiB left and {needed_mib} MiB are needed. "
            "Free some space, then run this again."
        )


def ensure_users() -> list[str]:
    """The control plane's user; the others come with their packages. Returns what was made."""
    made = []
    if not group_exists(CONTROL_USER):
        run(["groupadd", "--system", CONTROL_USER], timeout_s=30)
        made.append(CONTROL_USER)
    if not user_exists(CONTROL_USER):
        argv = ["useradd", "--system", "--gid", CONTROL_USER, "--no-create-home", "--home-dir", "/nonexistent"]
        run([*argv, "--shell", "/usr/sbin/nologin", CONTROL_USER], timeout_s=30)
    for name in ("postgres", "pdns", "unbound", "turnserver", "haproxy"):
        if not user_exists(name):
            raise Problem(
                f"The user {name} is missing although its package is installed: "
                f"run `dpkg-reconfigure` of that package, then this again."
            )
    # It writes coturn's user database (tenants' secrets) beside coturn itself.
    if CONTROL_USER not in grp.getgrnam("turnserver").gr_mem:
        run(["usermod", "--append", "--groups", "turnserver", CONTROL_USER], timeout_s=30)
    return made


def tenant_users(state: Path) -> list[str]:
    """Users of tenants' engines whose home lies in this stack."""
    import pwd

    return [
        entry.pw_name
        for entry in pwd.getpwall()
        if entry.pw_name.startswith("r-") and Path(entry.pw_dir).is_relative_to(state)
    ]


def is_root() -> bool:
    return os.geteuid() == 0
