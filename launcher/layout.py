"""Where everything of one stack is: directories, addresses, names. A pure value, but for ``find``, which looks.

The state is in ``var/`` beside the launcher. If other users cannot get there (a clone in /root), or the path is so
long that unix sockets below it would not fit into their 108 bytes, ``var`` is a link to /var/lib/roost-<hash>.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import Problem

#: The longest state directory below which every socket's path fits: an instance's control socket is the longest.
MAX_STATE_PATH = 48
ZONE = "roost.example"
DEFAULT_NET, TEST_NET = 77, 78
TEST_VAR = "var-test"
LAB_VAR, LAB_NET = "var-lab", 87


@dataclass(frozen=True, slots=True)
class Layout:
    """``clone``: where this launcher lies. ``var``: what a person calls the state directory. ``state``: its real path.

    ``net``: second number of the loopback addresses 127.<net>.0.0/16 that belong to this stack.
    """

    clone: Path
    var: Path
    state: Path
    net: int
    #: In a lab: the first three numbers of the addresses that all of its hosts reach. Else it is all on loopback.
    prefix: str = ""

    @property
    def is_lab(self) -> bool:
        """True if the nodes are hosts of a rig and nothing but the control plane is on this machine's own network."""
        return bool(self.prefix)

    @property
    def rig(self) -> Path:
        """The state of the rig; a short path that is the same for all who look for its processes."""
        return self.state / "rig"

    @property
    def own_network(self) -> str:
        """Whoever is in it belongs to this stack."""
        return f"{self.prefix}.0/24" if self.is_lab else "127.0.0.0/8"

    @property
    def app(self) -> Path:
        """The services' copy of the code: what they run does not change under them while one edits."""
        return self.state / "app"

    @property
    def venv(self) -> Path:
        return self.state / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def supervisor_socket(self) -> Path:
        return self.state / "supervisor" / "s.sock"

    @property
    def node(self) -> Path:
        return self.state / "node"

    @property
    def postgres_socket_dir(self) -> Path:
        return self.state / "pg" / "run"

    @property
    def redis_socket(self) -> Path:
        return self.state / "redis" / "redis.sock"

    @property
    def edge(self) -> Path:
        return self.state / "edge"

    @property
    def turn(self) -> Path:
        return self.state / "turn"

    @property
    def backups(self) -> Path:
        """The default place for backups."""
        return self.state / "backups"

    @property
    def pebble_ca(self) -> Path:
        """The root of Pebble's own HTTPS; not of the certificates that it issues."""
        return self.state / "pebble" / "https-root.pem"

    def address(self, host: int) -> str:
        return f"{self.prefix}.{host}" if self.is_lab else f"127.{self.net}.0.{host}"

    @property
    def edge_address(self) -> str:
        return self.address(1)

    @property
    def web_address(self) -> str:
        return f"{self.address(1)}:8000"

    @property
    def web_url(self) -> str:
        return f"http://{self.web_address}"

    @property
    def pebble_address(self) -> str:
        return self.address(3)

    @property
    def turn_address(self) -> str:
        return self.address(4)

    @property
    def resolver_address(self) -> str:
        return self.address(53)

    @property
    def authoritative_address(self) -> str:
        return self.address(54)

    @property
    def powerdns_url(self) -> str:
        return f"http://{self.authoritative_address}:8081"

    @property
    def instance_network(self) -> str:
        return f"127.{self.net}.128.0/17"

    @property
    def is_test(self) -> bool:
        """True for ``./roost test``'s own stack and for any other whose directory is named var-test-…: they can be
        told to kill workers at given places (ROOST_FAULT_DIR), and have no demonstration tenants."""
        return self.var.name == TEST_VAR or self.var.name.startswith(f"{TEST_VAR}-")


def find(clone: Path, environment: dict[str, str]) -> Layout:
    """The layout of the stack that ROOST_VAR and ROOST_NET (or their defaults) name. Makes nothing."""
    name = environment.get("ROOST_VAR") or "var"
    if "/" in name or name in {".", ".."} or not name.startswith("var"):
        raise Problem(f"ROOST_VAR has to be the name of a directory beside roost that begins with var, not {name!r}.")
    var = clone / name
    state = Path(os.path.realpath(var)) if os.path.lexists(var) else wanted_state(clone, name)
    net = _net(environment, state, name)
    return Layout(clone, var, state, net, lab_prefix(net) if (state / "rig").exists() else "")


def lab_prefix(net: int) -> str:
    """Of a lab's public network, 198.18.<net>.0/24 (RFC 2544); the rig has the same in ``launcher/rig/network.py``."""
    return f"198.18.{net}"


def wanted_state(clone: Path, name: str) -> Path:
    """Where the state belongs for this place of the clone."""
    var = clone / name
    if len(str(var)) <= MAX_STATE_PATH and all_may_enter(clone) and plain(str(var)):
        return var
    return Path("/var/lib") / f"roost-{hashlib.sha256(str(var).encode()).hexdigest()[:8]}"


def plain(path: str) -> bool:
    """True if no configuration format needs quoting for this path."""
    return all(c.isascii() and (c.isalnum() or c in "/._-+@") for c in path)


def all_may_enter(directory: Path) -> bool:
    """True if every user may pass through this directory and those above it."""
    return all(d.stat().st_mode & 0o001 for d in (directory, *directory.parents))


def _net(environment: dict[str, str], state: Path, name: str) -> int:
    text = environment.get("ROOST_NET", "")
    if not text:
        try:
            text = (state / "net").read_text().strip()
        except OSError:
            text = str(TEST_NET if name == TEST_VAR else DEFAULT_NET)
    if not text.isdigit() or not 1 <= int(text) <= 254:
        raise Problem(f"ROOST_NET has to be a number from 1 to 254, not {text!r}.")
    return int(text)


def make_state(layout: Layout) -> None:
    """Make the state directory (and the link to it), or say why what is there does not do."""
    if os.path.lexists(layout.var):
        _check_existing(layout)
    if not layout.state.is_dir():
        layout.state.mkdir(mode=0o755, parents=True)
    if layout.state != layout.var and not layout.var.is_symlink():
        layout.var.symlink_to(layout.state)
    layout.state.chmod(0o755)
    (layout.state / "net").write_text(f"{layout.net}\n")


def _check_existing(layout: Layout) -> None:
    if layout.var.is_symlink():
        if not layout.state.is_dir():
            layout.state.mkdir(mode=0o755, parents=True)
        return
    if not layout.var.is_dir():
        raise Problem(f"{layout.var} is in the way: move it away, then run this again.")
    wanted = wanted_state(layout.clone, layout.var.name)
    if wanted != layout.var:
        if not any(layout.var.iterdir()):
            layout.var.rmdir()
            wanted.mkdir(mode=0o755, parents=True, exist_ok=True)
            layout.var.symlink_to(wanted)
            return
        raise Problem(
            f"{layout.var} lies where the services' users cannot reach it (or its path is too long): "
            f"run `./roost destroy`, or move the clone back to where {layout.var.name} was made."
        )
