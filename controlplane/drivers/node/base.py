"""What Roost needs of a node: change it (apply bundles, prepare it), and a line to what runs on it.

A line leads to the node's unix sockets and runs small questions there; nothing of a node is changed over it but an
edge's routing table and our own key, for which seconds count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from controlplane.values.bundle import Bundle
from controlplane.values.errors import Rejected
from controlplane.values.secret import Secret


class HostKeyUnknown(Rejected):
    """The node shows no key that is pinned. ``seen``: what it shows, as ``"ssh-ed25519 AAAA…"`` each."""

    def __init__(self, message: str, *, remedy: str = "", seen: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.seen = seen


class KeyRefused(Rejected):
    """The node is there and is the right one, and does not accept our key."""


@dataclass(frozen=True, slots=True)
class NodeTarget:
    """How to reach a node. ``connection``: "local" or "ssh". ``runtime``: "supervisor" or "systemd".

    ``state_dir``: where the node keeps locks and fences, ``runtime_dir``: where process definitions go.
    ``supervisor_socket``: the unix socket of the node's supervisord (runtime "supervisor" only).
    ``host_keys``: the only ones that are believed (none: nobody is). ``private_key``: ours, OpenSSH's PEM.
    """

    name: str
    connection: str
    runtime: str
    address: str
    state_dir: str
    runtime_dir: str
    supervisor_socket: str = ""
    ssh_user: str = "root"
    ssh_port: int = 22
    host_keys: tuple[str, ...] = ()
    private_key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What one bundle's convergence did. ``error`` is empty on success; others of the run are unaffected.

    ``reload_needed``: files changed that the engine reads again on reload (the control plane commands it).
    """

    key: str
    changed: bool = False
    restarted: bool = False
    reload_needed: bool = False
    running: bool = False
    error: str = ""
    diff: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a preparation that changed something (or would, in check mode). ``diff``: before and after."""

    role: str
    name: str
    diff: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation did. ``versions`` (and ``before``): package -> version of engines, HAProxy and coturn."""

    tasks: tuple[Task, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return len(self.tasks)


class NodeDriver(Protocol):
    """Errors: ``Unavailable`` (host unreachable, lock held), ``Rejected`` (the run itself failed)."""

    name: str

    def converge(
        self,
        target: NodeTarget,
        bundles: Sequence[Bundle],
        *,
        fence: int,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        ready_limit_s: int = 600,
    ) -> Mapping[str, Applied]:
        """Apply all; one entry per bundle. ``fence``: the node refuses a lower one than it has seen.

        ``ready_limit_s``: the run waits so long at most for engines to accept; one that is up but not ready by
        then is no error (``running`` is False), one that does not stay up is.
        """

    def prepare(
        self,
        target: NodeTarget,
        *,
        groups: Sequence[str],
        variables: Mapping[str, Any],
        fence: int,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        upgrade: bool = False,
    ) -> Prepared:
        """Install and configure the machine itself. ``groups``: nodes, edges, turn. ``upgrade``: newest packages of
        engines, HAProxy and coturn; nothing is restarted but HAProxy and coturn. ``check``: only say what would change.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command on the node said."""

    code: int
    out: str
    err: str


class Line(Protocol):
    """A way to one node, opened by its first use and kept. Errors: ``Unavailable`` (not reached, or it broke
    meanwhile), ``HostKeyUnknown``, ``KeyRefused``; ``Rejected`` for a question that failed there. Of a node that is
    this machine all of it is plain and local.
    """

    def socket(self, path: str) -> Path:
        """A local unix socket that leads to the socket ``path`` on the node, made if there is none yet."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 20.0) -> Answer:
        """Run a command; its words reach it as they are. A status other than 0 is no error here."""

    def ask(self, source: str, argument: Any, *, timeout_s: float = 20.0) -> Any:
        """Run Python of the standard library (3.9 or later) that defines ``main(argument)``; JSON in, JSON out."""

    def open(self, *, timeout_s: float = 9.0) -> None:
        """Make sure that it is open, for ``command``. It may break at any time after."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """What to run here so that ``argv`` runs there, as the account itself, with its standard streams. It goes
        through the open connection and opens none (see ``streams``).
        """

    def close(self) -> None:
        """Hang up; the next use opens it again."""
