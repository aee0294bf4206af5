"""Tenants' processes as hardened units of systemd. Source: systemd.exec(5), systemd.service(5), systemd.unit(5).

systemd keeps the state and the control group ends every process of a unit; nothing of it is stored here.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess

from ansible.module_utils.roost_adopt import take_over
from ansible.module_utils.roost_bundle import ABSENT, RUNNING, Refused, read_text, write_atomically
from ansible.module_utils.roost_processes import kill_leftovers, remove_stale_socket, wait_ready

TEMPLATE = """# Written by Roost; changes are overwritten.
[Unit]
Description=XMPP server of tenant {key}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
Group={user}
UMask={umask}
WorkingDirectory={root}
Environment={env}
ExecStart={argv}
KillSignal=SIG{signal}
TimeoutStopSec={wait}
Restart=always
RestartSec=2
LimitNOFILE={files}
LimitCORE=0
MemoryMax={memory}
MemorySwapMax=0
TasksMax=512
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=no
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
RemoveIPC=yes

[Install]
WantedBy=multi-user.target
"""


def quote_word(word, dollar=True):
    """One word of ExecStart or Environment in double quotes, C escapes, ``%`` and (in ExecStart) ``$`` doubled."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"%s"' % (text.replace("$", "$$") if dollar else text)


def quote_path(path):
    """A path in a list of paths (ReadWritePaths) or alone (WorkingDirectory)."""
    if re.search(r"[\s\"'\\]", path):
        raise Refused(f"The path {path!r} has characters that a unit's path cannot hold.")
    return path.replace("%", "%%")


def render(bundle):
    """The text of the unit."""
    program, root = bundle["program"], bundle["root"]
    writable = [posixpath.join(root, entry["path"]) for entry in bundle["dirs"] if entry["owner"] == "tenant"]
    return TEMPLATE.format(
        key=bundle["key"],
        user=bundle["user"],
        umask="{:04o}".format(program["umask"]),
        root=quote_path(root),
        env=" ".join(quote_word("{}={}".format(*pair), dollar=False) for pair in sorted(program["env"].items())),
        argv=" ".join(quote_word(word) for word in program["argv"]),
        signal=program["stop_signal"],
        wait=program["stop_wait_s"],
        files=program["open_files"],
        memory=program["memory_bytes"],
        writable=" ".join(quote_path(path) for path in writable),
    )


class Systemd:
    """Applies units of many bundles at once, with few calls of systemctl."""

    def __init__(self, runtime_dir, check, ready_limit_s):
        self.ready_limit_s = ready_limit_s
        self.runtime_dir = runtime_dir
        self.check = check

    @staticmethod
    def systemctl(*args, timeout_s=120):
        """(exit status, output) of systemctl; no secret is in its arguments."""
        done = subprocess.run(
            ["systemctl", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def states(self, works):
        """Process name -> properties, for these works."""
        names = [work.process + ".service" for work in works]
        wanted = "--property=Id,ActiveState,SubState,LoadState,NeedDaemonReload,Result,UnitFileState"
        code, text = self.systemctl("show", wanted, *names)
        if code:
            raise OSError("systemctl show: {}".format((text.strip().splitlines() or ["no answer"])[-1]))
        found = {}
        for block in text.strip().split("\n\n"):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found[fields.get("Id", "").rpartition(".service")[0]] = fields
        return found

    def converge(self, works):
        try:
            self._converge(works)
        except (OSError, subprocess.TimeoutExpired) as error:
            for work in works:
                work.error = work.error or f"Unavailable: systemd does not answer ({error})."

    def _converge(self, works):
        if not works:
            return
        seen = self.states(works)
        for work in works:
            work.was_up = seen.get(work.process, {}).get("ActiveState") in ("active", "activating", "reloading")
            work.running = work.was_up
        written = [work for work in works if self._write_unit(work)]
        start = [w for w in works if w.state == RUNNING and not w.was_up]
        again = [w for w in works if w.state == RUNNING and w.was_up and "restart" in w.pending]
        stop = [w for w in works if w.state != RUNNING and w.was_up]
        for work in start + again + stop:
            work.note(f"process: {'started' if work in start else 'restarted' if work in again else 'stopped'}")
        if self.check:
            return
        gone = [w for w in works if w.state == ABSENT and seen.get(w.process, {}).get("LoadState") != "not-found"]
        hanging = [w.process + ".service" for w in again if w.bundle.get("hangs") and not w.error]
        if hanging:  # it would not hear the request to end; the stop comes before systemd begins it again
            self.systemctl("kill", "--signal=KILL", *hanging)
        self._call(stop + again, "stop")
        for work in start + again:
            kill_leftovers(work)
            remove_stale_socket(work)
            work.running = False
            take_over(work)
        self._call(
            [w for w in works if w.state != RUNNING and seen[w.process].get("UnitFileState") == "enabled"], "disable"
        )
        for work in gone:
            if os.path.lexists(self._path(work)):
                os.unlink(self._path(work))
        if written or gone or any(fields.get("NeedDaemonReload") == "yes" for fields in seen.values()):
            code, text = self.systemctl("daemon-reload")
            if code:
                raise OSError(text.strip())
        self._call(start + again, "reset-failed")
        self._call(
            [w for w in works if w.state == RUNNING and seen[w.process].get("UnitFileState") != "enabled"], "enable"
        )
        self._call(start + again, "start", "--no-block")
        for work in again:
            work.restarted = True
        for work in stop:
            work.running = False
        wait_ready(works, lambda: self.look(works), self.ready_limit_s)

    def look(self, works):
        """See ``wait_ready``. Units restart for ever, so none gives up by itself before the time is over."""
        return {
            name: (
                fields.get("ActiveState") == "active",
                fields.get("ActiveState") == "failed",
                "{}/{}, result {}; see journalctl -u {}".format(
                    fields.get("ActiveState"), fields.get("SubState"), fields.get("Result"), name
                ),
            )
            for name, fields in self.states(works).items()
        }

    def _call(self, works, verb, *options):
        """One systemctl for all; if it fails, one each, so that the fault is its owner's."""
        works = [work for work in works if not work.error]
        if not works or self.systemctl(verb, *options, *[w.process + ".service" for w in works])[0] == 0:
            return
        for work in works:
            code, text = self.systemctl(verb, *options, work.process + ".service")
            if code and verb not in ("reset-failed", "disable"):
                last = (text.strip().splitlines() or ["no message"])[-1]
                work.error = f"systemctl {verb} {work.process} failed: {last}"

    def _path(self, work):
        return os.path.join(self.runtime_dir, work.process + ".service")

    def _write_unit(self, work):
        """True if the file was written. An absent one's is removed after the stop, which needs it."""
        path = self._path(work)
        present = read_text(path)
        if work.state == ABSENT:
            if present is not None:
                work.note("process definition: removed")
            return False
        try:
            wanted = render(work.bundle)
        except Refused as refused:
            work.error = str(refused)
            return False
        if present == wanted:
            return False
        work.note(f"process definition: {'created' if present is None else 'changed'}")
        if work.was_up and work.state == RUNNING:
            work.intend("restart")
        if not self.check:
            write_atomically(path, wanted, 0o600)
        return True

    def forget(self, work):
        """The journal keeps its own time of retention."""
