"""All programs of a stack, its supervisor, and the lock that lets one launcher at a time change it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from launcher import files, lab_network, leftovers, ports
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.programs import Program, render_program, render_supervisord
from launcher.services import acme, edge, names, postgres, redis, stun, turn
from launcher.supervisor import Supervisor

READY_TIMEOUT_S = 90
STOP_TIMEOUT_S = 150
#: What the services need of the clone.
CODE = ("manage.py", "controlplane", "tenants", "ansible", "templates", "locale", "static", "launcher", "CHANGELOG.md")


def supervisor(layout: Layout) -> Supervisor:
    base = layout.supervisor_socket.parent
    return Supervisor(
        layout.supervisor_socket, base / "supervisord.conf", base / "supervisord.pid", layout.venv / "bin/supervisord"
    )


def servers(layout: Layout, powerdns_key: str) -> list[Program]:
    """The servers that the control plane needs; writes their configuration."""
    own = [postgres.prepare(layout), redis.prepare(layout)]
    outside = [*names.prepare(layout, powerdns_key), acme.prepare(layout), turn.prepare(layout)]
    if layout.is_lab:
        outside.append(stun.prepare(layout))
        # DNS, CA and TURN are other people's machines there, and each node has its own edge.
        return [*own, *(replace(one, within=lab_network.outside(layout), ports=()) for one in outside)]
    return [*own, *outside, edge.prepare(layout)]


def prepare_supervisor(layout: Layout) -> None:
    """The supervisor's own configuration; programs are files beside it."""
    base = files.directory(layout.supervisor_socket.parent, mode=0o700)
    files.directory(base / "programs", mode=0o700)
    files.directory(layout.log, group="roost", mode=0o750)
    text = render_supervisord(
        layout.supervisor_socket, layout.log, base / "supervisord.pid", base / "programs" / "*.conf", "roost"
    )
    files.write(base / "supervisord.conf", text, mode=0o600)


def define(layout: Layout, group: str, programs: Sequence[Program]) -> bool:
    """Write the definitions of a group of programs; True if they changed. Nothing happens until ``reread``."""
    path = layout.supervisor_socket.parent / "programs" / f"{group}.conf"
    text = "; Written by Roost; changes are overwritten.\n" + "\n".join(
        render_program(program, layout.log) for program in programs
    )
    return files.write(path, text, mode=0o600)


def forget(layout: Layout, group: str) -> None:
    (layout.supervisor_socket.parent / "programs" / f"{group}.conf").unlink(missing_ok=True)


def end_leftovers(layout: Layout) -> int:
    """End what an earlier supervisor of this stack left when it was killed; how many processes."""
    if supervisor(layout).running():
        return 0
    found = leftovers.find([layout.supervisor_socket, layout.node / "supervisor.sock"], layout.state / "pg" / "data")
    found += [pid for pid in leftovers.of_tenants(layout.node / "instances") if pid not in found]
    found += [pid for pid in leftovers.of_lines(layout.state / "ssh") if pid not in found]
    leftovers.end(found)
    return len(found)


def check_ports(layout: Layout, programs: Sequence[Program]) -> None:
    """Raises ``Problem`` if anyone else has a port of a program that does not run yet."""
    control = supervisor(layout)
    active = {p.name for p in control.parts() if p.pid} if control.running() else set()
    ports.check(((p.title, port) for p in programs if p.name not in active for port in p.ports), layout.net)


def wait_ready(layout: Layout, program: Program, say: Callable[[str], None] = lambda _: None) -> None:
    """Wait until a program does its work; raises ``Problem`` with the end of its log if it does not."""
    control = supervisor(layout)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        part = next((p for p in control.parts() if p.name == program.name), None)
        try:
            if part and part.state == "RUNNING" and program.ready():
                return
        except OSError:
            pass
        if part and part.state in ("STOPPED", "EXITED", "FATAL"):
            control.start_part(program.name)
        say(f"{program.title}: {part.state.lower() if part else 'not defined'}")
        if time.monotonic() > deadline:
            raise Problem(
                f"{program.title} did not come up within {READY_TIMEOUT_S} s: {program.remedy}.",
                log_tail(layout, program.name),
            )
        time.sleep(0.1)


def log_tail(layout: Layout, name: str, lines: int = 12) -> str:
    try:
        return "\n".join((layout.log / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def states(layout: Layout) -> Mapping[str, str]:
    return {part.name: part.state for part in supervisor(layout).parts()}


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """One launcher changes a stack at a time. The lock ends with the process, however that ends."""
    handle = os.open(layout.state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(handle, 20, 0).decode().strip() or "?"
            raise Problem(
                f"Another launcher (process {who}) is at work on {layout.var}: let it end, then run this again."
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        os.set_inheritable(handle, False)
        yield
    finally:
        os.close(handle)
