"""An instance as its node gets it: directories, files, one process. The same for every engine.

A bundle is carried by ``ansible/library/converge.py``; it holds no templates and no logic. ``digest()``
is what the control plane compares with what the node last applied.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

RUNNING, STOPPED, ABSENT = "running", "stopped", "absent"


@dataclass(frozen=True, slots=True)
class ManagedFile:
    """A file under the bundle's root. ``path`` is relative, without ``..``.

    Files belong to root and the tenant's group; ``mode`` 0o640 lets the engine read and not write.
    ``on_change``: "restart", "reload" or "none".
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o640
    on_change: str = "restart"


@dataclass(frozen=True, slots=True)
class ManagedDir:
    """A directory under the root. ``owner``: "tenant" or "root"; ``group``: "tenant" or "control"."""

    path: str
    mode: int = 0o750
    owner: str = "tenant"
    group: str = "tenant"


@dataclass(frozen=True, slots=True)
class Program:
    """The engine's process, run in the foreground as the tenant's user by the node's supervisor.

    ``ready_socket``: relative path of a unix socket that accepts connections when the engine is up.
    ``stop_wait_s``: how long it may take to end after ``stop_signal`` before it is killed.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    umask: int = 0o007
    memory_bytes: int = 512 * 1024 * 1024
    open_files: int = 4096
    stop_signal: str = "TERM"
    stop_wait_s: int = 15
    ready_socket: str = "run/control.sock"
    ready_timeout_s: int = 30


#: The directories every instance has (see ``values.spec.Paths``).
STANDARD_DIRS = (
    ManagedDir("config", 0o750, owner="root"),
    ManagedDir("certs", 0o750, owner="root"),
    ManagedDir("data", 0o750),
    ManagedDir("uploads", 0o750),
    ManagedDir("log", 0o750),
    ManagedDir("run", 0o2770, group="control"),
)


@dataclass(frozen=True, slots=True)
class Adoption:
    """Before its next start the instance takes the data of another one on the same node, which does not run any more.

    ``id``: names it, once for all; one that was done is not done again. ``key``, ``user``, ``root``: whose data.
    What the instance had until then is kept beside, in ``before-<id>`` below its root.
    """

    id: str
    key: str
    user: str
    root: str

    #: What is taken over: everything that an engine keeps.
    PATHS: ClassVar[tuple[str, ...]] = ("data", "uploads")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything the node needs to make one instance what it should be.

    ``user``: unix user and group of the tenant, made and removed with it. ``root``: absolute directory.
    ``control_group``: the unix group that may enter ``run``. ``state``: running, stopped or absent.
    ``restart``: a process that runs is to be begun anew although nothing else changed, since its program did.
    ``hangs``: it is not waited for until it ends by itself then, since it does not answer. Both are no part of the
    digest, for they are wishes and no state. ``adopt``: whose data it takes over. ``kept``: the one adoption whose
    ``before-<id>`` stays; those of others go.
    """

    key: str
    user: str
    root: str
    control_group: str
    program: Program
    files: tuple[ManagedFile, ...] = ()
    dirs: tuple[ManagedDir, ...] = STANDARD_DIRS
    state: str = RUNNING
    restart: bool = False
    hangs: bool = False
    adopt: Adoption | None = None
    kept: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON shape for the converge module; file contents in base64. What is not wanted of late additions is left
        out, so that a release that knows more changes no digest.
        """
        late: dict[str, Any] = {"kept": self.kept} if self.kept else {}
        if self.adopt is not None:
            late["adopt"] = {**asdict(self.adopt), "paths": list(Adoption.PATHS)}
        return late | {
            "key": self.key,
            "user": self.user,
            "root": self.root,
            "control_group": self.control_group,
            "state": self.state,
            "restart": self.restart,
            "hangs": self.hangs,
            "dirs": [{"path": d.path, "mode": d.mode, "owner": d.owner, "group": d.group} for d in self.dirs],
            "files": [
                {
                    "path": f.path,
                    "content_b64": base64.b64encode(f.content).decode(),
                    "mode": f.mode,
                    "on_change": f.on_change,
                }
                for f in sorted(self.files, key=lambda f: f.path)
            ],
            "program": {
                "argv": list(self.program.argv),
                "env": dict(self.program.env),
                "umask": self.program.umask,
                "memory_bytes": self.program.memory_bytes,
                "open_files": self.program.open_files,
                "stop_signal": self.program.stop_signal,
                "stop_wait_s": self.program.stop_wait_s,
                "ready_socket": self.program.ready_socket,
                "ready_timeout_s": self.program.ready_timeout_s,
            },
        }

    def digest(self) -> str:
        """SHA-256 over everything in it but ``restart`` and ``hangs``, hexadecimal."""
        content = {name: value for name, value in self.as_json().items() if name not in ("restart", "hangs")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
