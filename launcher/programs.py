"""What a supervised program is, and how it is written into supervisord's configuration.

A program carries a digest of what it depends on; a changed digest is a changed definition, and supervisord's
``update`` then restarts exactly the programs that are no longer what they should be.
"""

from __future__ import annotations

import pwd
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One long-running process in the foreground.

    ``ready``: returns True when the program does its work (not only when it runs); may raise ``OSError``.
    ``remedy``: what a person does when it does not come up. ``ports``: (protocol, address, port) that it takes.
    """

    name: str
    title: str
    argv: Sequence[str]
    user: str
    ready: Callable[[], bool]
    remedy: str = ""
    directory: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    stop_signal: str = "TERM"
    stop_wait_s: int = 20
    stop_group: bool = False
    priority: int = 500
    ports: Sequence[tuple[str, str, int]] = ()
    #: A command that puts the program somewhere else (another network); root's, so the user changes after it.
    within: Sequence[str] = ()


def escaped(text: str) -> str:
    """Percent signs mean expansion everywhere in supervisord's configuration."""
    return text.replace("%", "%%")


def environment_value(pairs: Mapping[str, str]) -> str:
    """``KEY="value",…``. supervisord knows no escapes in there, so what would need one is refused (``ValueError``)."""
    for name, value in pairs.items():
        if any(c in value for c in "\n\r\0\"'"):
            raise ValueError(
                f"{name} has a quote or a line break in it, which supervisord's configuration cannot carry"
            )
    return escaped(",".join(f'{name}="{value}"' for name, value in sorted(pairs.items())))


def command_value(argv: Sequence[str]) -> str:
    """An argument list as supervisord splits it again; `` ;`` would begin a comment, so quotes guard it."""
    return escaped(" ".join(shlex.quote(word) for word in argv))


def _command(program: Program) -> list[str]:
    if not program.within:
        return list(program.argv)
    entry = pwd.getpwnam(program.user)
    become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", "--"]
    return [*program.within, *(become if program.user != "root" else ()), *program.argv]


def render_program(program: Program, log_dir: Path) -> str:
    environment = {"ROOST_PROGRAM_DIGEST": program.digest, **program.environment}
    if program.user != "root":
        environment.setdefault("HOME", "/nonexistent")
    lines = [
        f"[program:{program.name}]",
        f"command={command_value(_command(program))}",
        f"directory={escaped(str(program.directory))}",
        f"user={'root' if program.within else program.user}",
        f"environment={environment_value(environment)}",
        f"priority={program.priority}",
        "autostart=true",
        "autorestart=true",
        "startsecs=1",
        # Never FATAL: what a program waits for (a database, a broker) may come back after any time.
        "startretries=1000000",
        f"stopsignal={program.stop_signal}",
        f"stopwaitsecs={program.stop_wait_s}",
        f"stopasgroup={'true' if program.stop_group else 'false'}",
        "killasgroup=true",
        "umask=022",
        "redirect_stderr=true",
        f"stdout_logfile={escaped(str(log_dir / (program.name + '.log')))}",
        "stdout_logfile_maxbytes=5MB",
        "stdout_logfile_backups=2",
    ]
    return "\n".join(lines) + "\n"


def render_supervisord(socket: Path, log_dir: Path, pid_file: Path, include: Path, name: str) -> str:
    """The configuration of one supervisord whose programs are the files that ``include`` (a pattern) finds."""
    return f"""\
; Written by Roost; changes are overwritten.
[unix_http_server]
file={escaped(str(socket))}
chmod=0600

[supervisord]
logfile={escaped(str(log_dir / (name + ".log")))}
logfile_maxbytes=5MB
logfile_backups=2
loglevel=info
pidfile={escaped(str(pid_file))}
nodaemon=true
silent=true
minfds=8192
minprocs=1024
umask=022
user=root
directory=/
childlogdir={escaped(str(log_dir))}
strip_ansi=true
identifier={name}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{escaped(str(socket))}

[include]
files={escaped(str(include))}
"""
