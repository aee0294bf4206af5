"""A lab as the tests of the fleet see it: its API, its hosts, and the world outside. It is brought up once for all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import lab_network, stack, up, venv
from launcher.layout import Layout, find, make_state
from launcher.rig.machine import Host
from launcher.rig.processes import marked
from launcher.rig.rig import Rig
from tests.stack.live import Answer, Api, until

VAR, NET = "var-test-lab", 88
NODES = ("n1", "n2", "n3")


def clone() -> Path:
    return Path(os.environ.get("ROOST_TEST_CLONE") or Path(__file__).resolve().parents[2])


def environment() -> dict[str, str]:
    """A person's, and none of the variables of the stack that the other tests use."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROOST_", "DJANGO_"))}
    return {**kept, "ROOST_VAR": VAR, "ROOST_NET": str(NET)}


def roost(*words: str, timeout_s: float = 600.0, check: bool = True) -> str:
    """What ``./roost`` says to a person."""
    done = subprocess.run(
        [str(clone() / "roost"), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0 or not check, f"roost {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass
class Tenant:
    """``password``: of the account ``user``."""

    key: str
    domain: str
    engine: str
    password: str = ""

    @property
    def jid(self) -> str:
        return f"user@{self.domain}"


@dataclass
class Lab:
    layout: Layout
    api: Api
    tenants: list[Tenant] = field(default_factory=list)

    @property
    def rig(self) -> Rig:
        return Rig.load(self.layout.rig)

    def host(self, name: str) -> Host:
        return self.rig.hosts[name]

    def get(self, path: str) -> Any:
        return said(self.api.ask("GET", path))

    def post(self, path: str, body: object = None) -> Any:
        return said(self.api.ask("POST", path, body or {}))

    def patch(self, path: str, body: object) -> Any:
        return said(self.api.ask("PATCH", path, body))

    def conditions(self, name: str) -> dict[str, Any]:
        """Of a node."""
        return {row["type"]: row for row in self.get(f"nodes/{name}/")["conditions"]}

    def status(self, name: str, condition: str) -> str:
        return str(self.conditions(name)[condition]["status"])

    def instance(self, tenant: Tenant) -> Any:
        return self.get(f"instances/{tenant.key}/")

    def on(self, name: str) -> list[Tenant]:
        return [tenant for tenant in self.tenants if self.instance(tenant)["node"] == name]

    def all_ready(self, tenants: Sequence[Tenant], *, timeout_s: float = 180.0) -> None:
        """Wait until each is Ready at its present generation."""

        def question() -> bool:
            late = [(row["domain"], row["summary"]) for row in map(self.instance, tenants) if not row["ready"]]
            assert not late, late
            return True

        until(question, "all are Ready", timeout_s=timeout_s)

    def nodes_ready(self, names: Sequence[str], *, timeout_s: float = 120.0) -> None:
        def question() -> bool:
            for name in names:
                found = self.conditions(name)
                bad = [c for c in found.values() if c["status"] != "True" and c["type"] != "Accepting"]
                assert found, f"{name}: nobody has looked yet"
                assert not bad, (name, bad)
            return True

        until(question, "all nodes are Ready", timeout_s=timeout_s)

    def send(self, sender: Tenant, receiver: Tenant, text: str = "hello") -> str:
        """Two strangers' clients in the world outside: by SRV, the edges and TLS; how it travelled."""
        roots = self.layout.state / "stranger-roots.pem"
        url = f"https://{self.layout.pebble_address}:15000/roots/0"
        roots.write_text(fetch(url, self.layout.pebble_ca))
        lines = [sender.jid, sender.password, receiver.jid, receiver.password, text]
        done = subprocess.run(
            [*lab_network.outside(self.layout), str(self.layout.python), "-m", "launcher.message"],
            input="\0".join([*lines, f"{self.layout.resolver_address}@53", str(roots)]),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd=self.layout.app,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.layout.app), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def manage(self, code: str) -> str:
        """Python in the control plane's own surroundings, as the worker of nodes runs (root); what it prints."""
        values = dict(
            line.split("=", 1) for line in (self.layout.state / "environment").read_text().splitlines() if "=" in line
        )
        done = subprocess.run(
            [str(self.layout.python), "manage.py", "shell", "-v", "0", "-c", code],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=self.layout.app,
            env={**values, "PATH": f"{self.layout.venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def worker_pids(self) -> list[int]:
        """Of the worker that runs ansible, with its children."""
        part = next(part for part in stack.supervisor(self.layout).parts() if part.name == "node-worker")
        assert part.pid
        found, todo = [], [part.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                todo += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except OSError:
                continue
        return found


def said(answer: Answer) -> Any:
    assert answer.status < 400, (answer.status, answer.body)
    return answer.body


def fetch(url: str, ca_file: Path) -> str:
    from launcher import checks

    return str(checks.get_json_or_text(url, ca_file=ca_file))


def begin() -> Lab:
    """Bring it up (its own code path: ``./roost lab up``) and step into the control plane's network."""
    roost("lab", "down")
    share_packages(find(clone(), environment()))
    roost("lab", "up", "--nodes", str(len(NODES)), "--no-demo")
    layout = find(clone(), environment())
    assert layout.is_lab
    lab_network.enter(layout)
    token = json.loads((layout.state / "secrets").read_text())["token"]
    return Lab(layout, Api(layout.web_url, token))


def share_packages(layout: Layout) -> None:
    """Give the lab a copy of the environment that these tests run in, if it is of the same lock files: it would install
    all of them once more. Where that is not so (another launcher's environment), it installs them itself."""
    locks = up.locks(layout, layout.is_test)
    own, place = Path(sys.prefix), layout.venv
    if venv.is_current(place, locks) or not venv.is_current(own, locks):
        return
    make_state(layout)
    shutil.rmtree(place, ignore_errors=True)
    # But for bytecode that is being written at this moment, under another name.
    unfinished = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(own, place, symlinks=True, ignore=unfinished, copy_function=_shared)
    for script in [place / "pyvenv.cfg", *(place / "bin").iterdir()]:
        if script.is_file() and not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(bytes(own), bytes(place)))
    (place / "roost-key").write_text(venv.key(locks, place))


def _shared(source: str, target: str) -> None:
    """A package's file under a second name: nobody writes into those (Python puts new bytecode in their place). The
    rest, which names its place, is a file of its own."""
    if "/site-packages/" in source:
        with contextlib.suppress(OSError):  # on another file system
            os.link(source, target)
            return
    shutil.copy2(source, target)


def leftovers(layout: Layout) -> dict[str, object]:
    """What a lab that is down must not leave: processes, mounts, links, namespaces with names."""
    mounts = [line for line in Path("/proc/1/mountinfo").read_text().splitlines() if str(layout.rig) in line]
    return {"processes": marked(layout.rig), "mounts": mounts, "state": (layout.state / "rig").exists()}
