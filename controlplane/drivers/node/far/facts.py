"""What a machine tells of itself. Asks the kernel and dpkg; changes nothing, and leaves out what it cannot learn."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

MIB = 1024 * 1024


def main(argument: dict[str, Any]) -> dict[str, Any]:
    """``{"root": a directory of the disk that counts, "packages": [names]}`` -> facts, sizes in MiB, times in s."""
    facts: dict[str, Any] = {
        "cpus": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "kernel": os.uname().release,
    }
    for part in (_memory, lambda: _disk(argument["root"]), _system, _addresses):
        try:
            facts.update(part())
        except (OSError, ValueError, IndexError, KeyError):
            continue
    facts["versions"] = _versions(argument["packages"])
    facts["time"] = time.time()
    return facts


def _memory() -> dict[str, int]:
    found: dict[str, int] = {}
    with open("/proc/meminfo") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) // 1024
    return {"memory_mib": found["MemTotal"], "memory_available_mib": found["MemAvailable"]}


def _disk(root: str) -> dict[str, int]:
    while not os.path.exists(root):
        root = os.path.dirname(root)
    found = os.statvfs(root)
    return {
        "disk_total_mib": found.f_blocks * found.f_frsize // MIB,
        "disk_free_mib": found.f_bavail * found.f_frsize // MIB,
    }


def _system() -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with open("/proc/uptime") as file:
        facts["uptime_s"] = int(float(file.read().split()[0]))
    with open("/proc/sys/kernel/random/boot_id") as file:
        facts["boot_id"] = file.read().strip()
    try:
        with open("/etc/debian_version") as file:
            facts["debian"] = file.read().strip()
    except OSError:
        facts["debian"] = ""
    return facts


def _addresses() -> dict[str, Any]:
    shown = json.loads(_said(["ip", "-j", "address", "show", "up"]) or "[]")
    interfaces = {}
    for link in shown:
        found = [one["local"] for one in link.get("addr_info", []) if one.get("scope") == "global" and "local" in one]
        if found:
            interfaces[link["ifname"]] = found[:32]
    addresses = sorted({address for found in interfaces.values() for address in found})
    return {"addresses": addresses[:64], "interfaces": dict(sorted(interfaces.items())[:32])}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    text = _said(["dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\\n", *packages])
    rows = [line.split(" ") for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def _said(argv: Sequence[str]) -> str:
    """The output of a command; what it does not know makes it fail, and the rest is in it all the same."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
