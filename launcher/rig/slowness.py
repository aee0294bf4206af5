"""Delay on a host's public link, both ways, by ``slow_cable``: not every kernel has netem(8), and one way will do.

The host's port in the hub goes to a small bridge with one TAP device, and the other device takes its place.
"""

from __future__ import annotations

import time
from pathlib import Path

from launcher.rig.network import PUBLIC, inside, ip, port_of
from launcher.rig.processes import RigError, kill, lives, marked, run, start

PROGRAM = Path(__file__).with_name("slow_cable.py")
START_LIMIT_S = 10.0


def add(rig: Path, hub: int, name: str, milliseconds: int) -> None:
    """Each way takes so much longer."""
    port = port_of(name, PUBLIC)
    near, far, bridge = _devices(name)
    program = ["/usr/bin/python3", str(PROGRAM), near, far, str(milliseconds)]
    pid = start([*inside(hub), *program], rig, rig / f"{name}.slow.log")
    deadline = time.monotonic() + START_LIMIT_S
    while not (_exists(hub, near) and _exists(hub, far)):
        if not lives(pid) or time.monotonic() > deadline:
            kill([pid])
            raise RigError(f"The link of {name} cannot be slowed: {(rig / f'{name}.slow.log').read_text()[-300:]}")
        time.sleep(0.02)
    ip(
        hub,
        f"link add {bridge} type bridge forward_delay 0",
        f"link set {bridge} up",
        f"link set {near} master {bridge} up",
        f"link set {far} master {PUBLIC} up",
        f"link set {port} master {bridge}",
    )


def remove(rig: Path, hub: int, name: str) -> None:
    """As fast as usual again; nothing happens if it is."""
    near, _, bridge = _devices(name)
    kill([pid for pid in marked(rig) if _is_of(pid, near)])
    if _exists(hub, bridge):
        port = port_of(name, PUBLIC)
        if _exists(hub, port):
            ip(hub, f"link set {port} master {PUBLIC}")
        ip(hub, f"link delete {bridge}")


def _devices(name: str) -> tuple[str, str, str]:
    return f"a-{name}"[:15], f"b-{name}"[:15], f"slow-{name}"[:15]


def _exists(hub: int, device: str) -> bool:
    return bool(run([*inside(hub), "ip", "-br", "link", "show", "dev", device], check=False))


def _is_of(pid: int, device: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(PROGRAM).encode() in words and device.encode() in words
