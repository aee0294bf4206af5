"""What Roost needs to change a node: apply bundles, all of a node in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.values.bundle import Bundle


@dataclass(frozen=True, slots=True)
class NodeTarget:
    """How to reach a node. ``connection``: "local" or "ssh". ``runtime``: "supervisor" or "systemd".

    ``state_dir``: where the node keeps locks and fences, ``runtime_dir``: where process definitions go.
    ``supervisor_socket``: the unix socket of the node's supervisord (runtime "supervisor" only).
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
