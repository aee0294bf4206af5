"""One host of the rig: a root of its own above this machine's files, its own processes, users, network and sshd.

Its first process is supervisord, so killing that is cutting its power; what it wrote stays for the next boot as long as
the rig is up. It has no systemd.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.rig import network
from launcher.rig.processes import MARK, RigError, children, is_marked, kill, lives, run, start

#: Nobody on a host sets this machine's clock or stops it.
FORBIDDEN = "-sys_time,-sys_boot,-sys_module,-sys_rawio"
#: As process 1 of the new namespaces, once its network is there: a root of its own, then supervisord in it. What is
#: set below /proc/sys is set for all of this machine, but for the network, so only that can be written.
BOOT = r"""
set -eu
name=$1 disk=$2 mark=$3 forbidden=$4
shift 4
while [ ! -e "$disk/go" ]; do sleep 0.02; done
root=$disk/root
mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" overlay "$root"
for hidden; do
    if [ -d "$root$hidden" ]; then mount -t tmpfs -o ro,mode=755,size=4k hidden "$root$hidden"; fi
done
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k dev "$root/dev"
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    set -- $device
    mknod -m 666 "$root/dev/$1" c "$2" "$3"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${stream#*:}" "$root/dev/${stream%:*}"; done
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -m 755 "$root/run/sshd"
mkdir -m 1777 "$root/run/lock"
cd "$root"
if [ ! -e "$disk/installed" ]; then
    # Nothing of this machine's own secrets, tenants and nodes: a new machine has none.
    rm -rf root/.ssh srv/roost var/lib/roost-* etc/roost etc/ssh/ssh_host_* etc/supervisor/conf.d/* usr/local/lib/roost
    rm -f etc/resolv.conf etc/hostname etc/hosts etc/sysctl.d/*roost* var/log/supervisor/*
    sed -i -e '/^r-/d' -e '/^roost:/d' etc/passwd etc/group etc/shadow etc/gshadow
    sed -i -e 's/^root:[^:]*:/root:*:/' etc/shadow
    cp -a "$disk/files/." .
    touch "$disk/installed"
fi
hostname "$name"
pivot_root . .
umount -l .
exec env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 "$mark" \
    setpriv --bounding-set "$forbidden" --inh-caps "$forbidden" -- \
    /usr/bin/supervisord -n -c /etc/supervisor/supervisord.conf
"""
#: A host that is only a network: it has its own resolver too.
PLACE = r"""
if [ -e /etc/resolv.conf ]; then mount --bind "$1" /etc/resolv.conf; fi
exec sleep infinity
"""
RESOLV_CONF = "nameserver {resolver}\noptions timeout:2 attempts:2\n"
SUPERVISOR = """\
[unix_http_server]
file=/run/supervisor.sock
chmod=0700
[supervisord]
logfile=/var/log/supervisor/supervisord.log
pidfile=/run/supervisord.pid
childlogdir=/var/log/supervisor
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///run/supervisor.sock
[include]
files = /etc/supervisor/conf.d/*.conf
"""
SSHD_PROGRAM = """\
[program:sshd]
command=/usr/sbin/sshd -D -e
autorestart=true
redirect_stderr=true
stdout_logfile=/var/log/supervisor/sshd.log
"""
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PrintMotd no
MaxStartups 50
MaxSessions 100
Subsystem sftp internal-sftp
"""


@dataclass(slots=True)
class Host:
    """``number``: the last of its addresses. ``holder``: the process whose death is the host's; 0 while it is off.

    ``full`` False: only a network of its own, for what needs no more (the world outside, the control plane).
    ``hidden``: directories of this machine that it does not see.
    """

    name: str
    number: int
    plan: network.Plan
    rig: Path
    hub: int
    full: bool = True
    holder: int = 0
    addresses: dict[str, list[str]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    #: TCP ports that the router before it lets in; None: there is none.
    nat_ports: list[int] | None = None

    @property
    def pid(self) -> int:
        """The host's first process, as this machine counts."""
        if not self.full:
            return self.holder
        found = children(self.holder)
        if not found:
            raise RigError(f"{self.name} is off.")
        return found[0]

    @property
    def public(self) -> str:
        return self.addresses[network.PUBLIC][0].partition("/")[0]

    @property
    def private(self) -> str:
        return self.plan.private(self.number)

    @property
    def is_on(self) -> bool:
        # A number alone may be another process' by now.
        there = bool(self.holder) and lives(self.holder) and is_marked(self.holder, self.rig)
        return there and (not self.full or bool(children(self.holder)))

    @property
    def disk(self) -> Path:
        """Where its files are, as the hub sees it."""
        return self.rig / "hosts" / self.name

    def file(self, path: str) -> Path:
        """A file of a host that is on, as this machine reaches it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def boot(self) -> None:
        """Switch it on; returns when its network and its sshd are there."""
        if self.is_on:
            return
        if not self.addresses:
            self.addresses = {
                network.PUBLIC: [f"{self.plan.public(self.number)}/24", f"{self.plan.public6(self.number)}/64"],
                network.PRIVATE: [f"{self.private}/24"],
            }
        log = self.rig / f"{self.name}.log"
        network.remove_ports(self.hub, self.name)
        if self.full:
            self._make_disk()
            apart = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL"]
            words = ["/bin/sh", "-c", BOOT, "boot", self.name, str(self.disk), f"{MARK}={self.rig}", FORBIDDEN]
            into_hub = [
                "nsenter",
                f"--mount=/proc/{self.hub}/ns/mnt",
                f"--root=/proc/{self.hub}/root",
                "--wdns=/",
                "--",
            ]
            argv = [*into_hub, *apart, "--propagation", "private", "--", *words, *self.hidden]
        else:
            resolv_conf = self.rig / f"{self.name}.resolv.conf"
            resolv_conf.write_text(RESOLV_CONF.format(resolver=self.plan.public(53)))
            apart = ["unshare", "--net", "--mount", "--propagation", "private", "--"]
            argv = [*apart, "/bin/sh", "-c", PLACE, "place", str(resolv_conf)]
        self.holder = start(argv, self.rig, log)
        self._wait(lambda: self.is_on and _differs(self.pid, "net"), "start", log)
        network.prepare(self.pid)
        for bridge, device in ((network.PUBLIC, "eth0"), (network.PRIVATE, "eth1")):
            network.wire(self.hub, self.pid, self.name, bridge, device, self.addresses[bridge])
        if self.full:
            (self._disk_here / "go").touch()
            self._wait(self._listens, "start its sshd", log)

    def _listens(self) -> bool:
        return ":22 " in run([*network.inside(self.pid), "ss", "-Hltn"], check=False)

    def _wait(self, done: Any, what: str, log: Path, limit_s: float = 20.0) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline or not lives(self.holder):
                raise RigError(f"{self.name} did not {what}: {log.read_text()[-500:]}")
            time.sleep(0.05)

    @property
    def _disk_here(self) -> Path:
        """Its files as this process sees them: they are mounted in the hub."""
        return Path(f"/proc/{self.hub}/root{self.disk}")

    def _make_disk(self) -> None:
        """Its own files, before its first boot."""
        disk = self._disk_here
        (disk / "go").unlink(missing_ok=True)
        if (disk / "root").is_dir():
            return
        files = disk / "files"
        for place, mode in (("", 0o755), ("etc", 0o755), ("etc/ssh", 0o755), ("root", 0o700), ("root/.ssh", 0o700)):
            (files / place).mkdir(parents=True, exist_ok=True)
            (files / place).chmod(mode)
        texts = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{self.plan.public(self.number)} {self.name}\n",
            "etc/resolv.conf": RESOLV_CONF.format(resolver=self.plan.public(53)),
            "etc/supervisor/supervisord.conf": SUPERVISOR,
            "etc/supervisor/conf.d/sshd.conf": SSHD_PROGRAM,
            "etc/ssh/sshd_config": SSHD_CONFIG,
            "root/.ssh/authorized_keys": "",
        }
        for name, text in texts.items():
            path = files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (files / "root/.ssh/authorized_keys").chmod(0o600)
        # Its key is nowhere but where only root can look.
        key = files / "etc/ssh/ssh_host_ed25519_key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key)])
        for place in ("upper", "work", "root"):
            (disk / place).mkdir()
        # A home of its own, empty: root's here may have anything in its shell's files, and every login would run it.
        home = disk / "upper/root"
        home.mkdir(mode=0o700)
        os.setxattr(home, "trusted.overlay.opaque", b"y")

    def off(self) -> None:
        """Cut its power: every process of it is gone at once, and nobody is told; its disk stays."""
        network.set_links(self.hub, self.name, up=False)
        if self.holder and is_marked(self.holder, self.rig):
            kill([*children(self.holder), self.holder] if self.full else [self.holder])
        self.holder = 0
        # Its network ends when its last process has ended; its cables need not wait for that.
        network.remove_ports(self.hub, self.name)

    def run(self, *argv: str, check: bool = True, timeout_s: float = 60.0, stdin: str = "") -> str:
        """A command in the host; its standard output."""
        return run([*self.into(), *argv], check=check, timeout_s=timeout_s, stdin=stdin)

    def into(self) -> list[str]:
        """The prefix of a command that runs in the host."""
        if not self.full:
            return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--wdns=/", "--"]
        bounded = ["setpriv", "--bounding-set", FORBIDDEN, "--inh-caps", FORBIDDEN, "--"]
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wdns=/", "--", *bounded]

    @property
    def host_key(self) -> str:
        """What its sshd shows: type and key."""
        return " ".join(self.file("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def new_host_key(self) -> None:
        """As after a new installation. Sessions that are open end with their sshd."""
        self.run("rm", "-f", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub")
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key")
        self.end_sessions()
        self.program("restart", "sshd")

    def end_sessions(self) -> None:
        self.run("pkill", "-KILL", "-f", "^sshd: ", check=False)

    def program(self, verb: str, name: str) -> str:
        """start, stop or restart one of its programs."""
        return self.run("supervisorctl", verb, name, check=False)

    def authorize(self, line: str) -> None:
        """Let a key in as root."""
        path = self.file("/root/.ssh/authorized_keys")
        text = path.read_text()
        if line not in text:
            path.write_text(f"{text}{line}\n")

    def change_address(self, number: int) -> None:
        """Another public address, IPv4 and IPv6; the old ones become black holes."""
        old = self.addresses[network.PUBLIC]
        new = [f"{self.plan.public(number)}/24", f"{self.plan.public6(number)}/64"]
        if old == new:
            return
        network.end_hole(self.hub, new)
        if self.is_on:
            network.readdress(self.pid, "eth0", old, new)
        self.addresses[network.PUBLIC] = new
        network.make_hole(self.hub, old)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "number": self.number,
            "full": self.full,
            "holder": self.holder,
            "addresses": self.addresses,
            "hidden": self.hidden,
            "nat_ports": self.nat_ports,
        }


def _differs(pid: int, kind: str) -> bool:
    """True once the process has a namespace of its own."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()
    except OSError:
        return False
