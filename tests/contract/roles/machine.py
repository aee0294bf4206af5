"""A machine of its own for the roles: this one's files below a copy-on-write root, with processes and a network apart.

Nothing of what happens in it reaches the real machine, and all of it is gone with its first process. It has no SSH
server: ansible runs inside of it, by its local connection.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Mounted below the root: an upper layer in memory, since overlays cannot lie on overlays (containers have one).
SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" overlay "$PLACE/root"
mount -t proc proc "$PLACE/root/proc"
mount -t sysfs sysfs "$PLACE/root/sys"
mount --rbind /dev "$PLACE/root/dev"
for name in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$PLACE/root/$name"; done
chmod 755 "$PLACE/root/run"
ip link set lo up
exec chroot "$PLACE/root" sleep 1200
"""


class Machine:
    """``run`` executes inside; ``root`` is its root as this machine sees it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")
        self.within = ("nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--root", "--wdns=/")

    def run(self, *argv: str, check: bool = True, timeout_s: float = 120) -> str:
        done = subprocess.run([*self.within, *argv], capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def without(self, *packages: str) -> None:
        """Take packages away, with their files at hand for whoever installs them again (there is no network in it)."""
        outside = ("nsenter", f"--target={self.pid}", "--mount", "--root", "--wdns=/")
        fetch = [
            "apt-get",
            "-q",
            "-y",
            "--no-install-recommends",
            "--download-only",
            "--reinstall",
            "install",
            *packages,
        ]
        for attempt in range(2):
            done = subprocess.run([*outside, *fetch], capture_output=True, text=True, timeout=300, check=False)
            if done.returncode == 0:
                break
            assert attempt == 0, done.stderr[-2000:]
            subprocess.run([*outside, "apt-get", "-q", "update"], capture_output=True, timeout=300, check=False)
        self.run("dpkg", "--purge", "--force-depends", "--force-remove-reinstreq", *packages)


@contextmanager
def machine() -> Iterator[Machine]:
    place = Path(tempfile.mkdtemp(prefix="rm", dir="/tmp"))
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SETUP]
    holder = subprocess.Popen(argv, env={**os.environ, "PLACE": str(place)}, stderr=subprocess.PIPE, text=True)
    try:
        made = Machine(_first_process(holder))
        yield made
    finally:
        holder.kill()
        holder.wait()
        place.rmdir()


def _first_process(holder: subprocess.Popen[str]) -> int:
    """The number of the machine's first process, once it is in its root."""
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert holder.poll() is None, holder.stderr.read() if holder.stderr else ""
        found = children.read_text().split()
        if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "sleep":
            return int(found[0])
        time.sleep(0.02)
    raise AssertionError("the machine did not come up")
