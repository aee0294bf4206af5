"""Tenants' processes as programs of the node's supervisord, over its XML-RPC on a unix socket.

What the process may use is set by util-linux (prlimit, setpriv) in front of the engine's command: each execs
the next, so the process that supervisord watches is the engine itself. supervisord keeps the state; nothing
of it is stored here. Source: http://supervisord.org/api.html, http://supervisord.org/configuration.html.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import socket
import time
import xmlrpc.client

from ansible.module_utils.roost_adopt import take_over
from ansible.module_utils.roost_bundle import ABSENT, RUNNING, read_text, write_atomically
from ansible.module_utils.roost_processes import kill_leftovers, remove_stale_socket, wait_ready

UP = ("STARTING", "RUNNING")
ALIVE = (*UP, "BACKOFF", "STOPPING")
CALL_TIMEOUT_S = 20
MAX_TASKS = 512  # processes and threads of the tenant's user together; the same as TasksMax of the units
FAULT_ALREADY_STARTED, FAULT_BAD_NAME, FAULT_ALREADY_ADDED, FAULT_NOT_RUNNING = 60, 10, 90, 70
TEMPLATE = """; Written by Roost; changes are overwritten.
[program:{name}]
command={command}
directory=/
autostart={autostart}
autorestart=true
startsecs=1
startretries=10
stopsignal={signal}
stopwaitsecs={wait}
stopasgroup=false
killasgroup=true
umask={umask}
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


class _Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_TIMEOUT_S)
        self.sock.connect(self.host)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        if self._connection is None or self._connection[0] != host:
            self._connection = host, _Connection(self.path)
        return self._connection[1]


def connect(path):
    """The RPC namespace of the supervisord behind a unix socket; it is opened by the first call."""
    return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path)).supervisor


def quote_word(word):
    """One argument of ``command``: POSIX shell quoting, ``%`` doubled, no inline comment.

    The file's parser cuts a value at " ;" and " #", quoted or not; two quotes between keep the word as it is.
    """
    quoted = shlex.quote(word).replace("%", "%%")
    return re.sub(r"(\s)([;#])", r"\1''\2", quoted)


def quote_log(path):
    """The value of ``stdout_logfile``: the parser expands it twice, so ``%`` is there four times."""
    return path.replace("%", "%%%%")


def command_of(bundle):
    """argv of the whole chain: limits, privileges, environment, engine.

    RLIMIT_DATA bounds private writable memory of each process (not of all of them together).
    """
    program = bundle["program"]
    return [
        "/usr/bin/prlimit",
        f"--nofile={program['open_files']}",
        f"--data={program['memory_bytes']}",
        f"--nproc={MAX_TASKS}",
        "--core=0",
        "--",
        "/usr/bin/setpriv",
        "--reuid=" + bundle["user"],
        "--regid=" + bundle["user"],
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--",
        "/usr/bin/env",
        "--chdir=" + bundle["root"],
        "-i",
        *sorted("{}={}".format(*pair) for pair in program["env"].items()),
        *program["argv"],
    ]


def render(bundle, log_dir):
    """The text of the program's section."""
    program, name = bundle["program"], "roost-" + bundle["key"]
    return TEMPLATE.format(
        name=name,
        command=" ".join(quote_word(word) for word in command_of(bundle)),
        autostart="true" if bundle["state"] == RUNNING else "false",
        signal=program["stop_signal"],
        wait=program["stop_wait_s"],
        umask="{:03o}".format(program["umask"]),
        log=quote_log(os.path.join(log_dir, name + ".log")),
    )


class Supervisor:
    """Applies processes of many bundles at once. Faults of one program become that bundle's error."""

    def __init__(self, runtime_dir, state_dir, socket_path, check, ready_limit_s):
        self.ready_limit_s = ready_limit_s
        self.runtime_dir = runtime_dir
        self.log_dir = os.path.join(state_dir, "log")
        self.socket_path = socket_path
        self.check = check
        self.rpc = connect(socket_path)

    def processes(self):
        """Process name -> info, of every program of the supervisor."""
        return {info["name"]: info for info in self.rpc.getAllProcessInfo()}

    def look(self):
        """See ``wait_ready``."""
        return {
            name: (
                info["statename"] in UP,
                info["statename"] in ("FATAL", "STOPPED", "EXITED", "UNKNOWN"),
                "{} {}; its output is in {}".format(info["statename"], info["spawnerr"], info["logfile"]),
            )
            for name, info in self.processes().items()
        }

    def converge(self, works):
        """Definitions, stops, starts; all stops and all starts run side by side."""
        try:
            self._converge(works)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            for work in works:
                work.error = (
                    work.error
                    or f"Unavailable: supervisord does not answer at {self.socket_path} ({type(error).__name__})."
                )

    def _converge(self, works):
        seen = self.processes()
        for work in works:
            state = seen.get(work.process, {}).get("statename", "")
            work.was_up = state in UP
            work.running = work.was_up
        written = [work for work in works if self._write_definition(work, work.process in seen)]
        if self.check:
            self._predict(works, seen)
            return
        added, changed, removed = [], [], []
        if written or any(w.pending or (w.process in seen) == (w.state == ABSENT) for w in works):
            try:
                added, changed, removed = self.rpc.reloadConfig()[0]
            except xmlrpc.client.Fault as fault:  # its text may quote a command, so it is not repeated
                for work in works:
                    work.error = f"supervisord refuses its configuration (fault {fault.faultCode}); its log says why."
                return
        self._stop(works, seen, set(changed))
        for work in [work for work in works if not work.error]:
            self._start(work, seen, set(added), set(changed), set(removed))
        wait_ready(works, self.look, self.ready_limit_s)

    def _path(self, work):
        return os.path.join(self.runtime_dir, work.process + ".conf")

    def _write_definition(self, work, known):
        """True if the file was written or removed."""
        path = self._path(work)
        present = read_text(path)
        if work.state == ABSENT:
            if present is None:
                return False
            work.note("process definition: removed")
            if not self.check:
                os.unlink(path)
            return True
        wanted = render(work.bundle, self.log_dir)
        if present == wanted and known:
            return False
        if present != wanted:
            work.note(f"process definition: {'created' if present is None else 'changed'}")
            if work.was_up and work.state == RUNNING:
                work.intend("restart")
            if not self.check:
                os.makedirs(self.log_dir, mode=0o750, exist_ok=True)
                write_atomically(path, wanted)
        return True

    def _predict(self, works, seen):
        for work in works:
            state = seen.get(work.process, {}).get("statename", "")
            if work.state == RUNNING and not work.was_up:
                work.note("process: started")
            elif work.state == RUNNING and "restart" in work.pending:
                work.note("process: restarted")
            elif work.state != RUNNING and state in ALIVE:
                work.note("process: stopped")

    def _stop(self, works, seen, changed):
        """Stop what must not run or has to run anew, and wait for all of it."""
        stopping = []
        for work in works:
            state = seen.get(work.process, {}).get("statename", "")
            anew = "restart" in work.pending or work.process in changed or state == "BACKOFF"
            if work.error or state not in ALIVE or (work.state == RUNNING and not anew):
                continue
            if not (work.state == RUNNING and work.was_up):
                work.note("process: stopped")
            try:
                self.rpc.stopProcess(work.process, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode not in (FAULT_NOT_RUNNING, FAULT_BAD_NAME):
                    work.error = f"{work.process} cannot be stopped: fault {fault.faultCode}."
                    continue
            if work.bundle.get("hangs"):  # on its way to the end it is not begun again by itself
                with contextlib.suppress(xmlrpc.client.Fault):
                    self.rpc.signalProcess(work.process, "KILL")
            stopping.append(work)
        deadline = time.monotonic() + max([work.program["stop_wait_s"] for work in stopping], default=0) + 10
        while stopping:
            now = self.processes()
            stopping = [w for w in stopping if now.get(w.process, {}).get("statename", "") in ALIVE]
            if stopping and time.monotonic() > deadline:
                for work in stopping:
                    work.error = f"{work.process} does not end."
                return
            if stopping:
                time.sleep(0.02)

    def _start(self, work, seen, added, changed, removed):
        """Bring one program's definition into force, and start it if it is to run."""
        name = work.process
        try:
            if name in seen and (name in changed or name in removed):
                self.rpc.removeProcessGroup(name)
            if work.state != RUNNING:
                work.running = False
            if work.state == ABSENT:
                return
            up = work.was_up and not ("restart" in work.pending or name in changed)
            if not up:
                kill_leftovers(work)
                remove_stale_socket(work)
                take_over(work)
                if work.error:
                    return
            if name in added or name in changed or name not in seen:
                self._ignore(FAULT_ALREADY_ADDED, self.rpc.addProcessGroup, name)
            if work.state == RUNNING and not up:
                self._ignore(FAULT_ALREADY_STARTED, self.rpc.startProcess, name, False)
                work.running = False
                work.restarted = work.was_up
                work.note(f"process: {'restarted' if work.was_up else 'started'}")
        except xmlrpc.client.Fault as fault:
            work.error = f"supervisord refused {name}: fault {fault.faultCode}."

    @staticmethod
    def _ignore(code, call, *args):
        try:
            call(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != code:
                raise

    def forget(self, work):
        """Remove what is left of an absent instance's process: its output."""
        for suffix in (".log", ".log.1"):
            path = os.path.join(self.log_dir, work.process + suffix)
            if os.path.lexists(path) and not self.check:
                os.unlink(path)
