"""A node of its own for each test: a real supervisord in a short temporary directory, and bundles of a toy engine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from controlplane.drivers.node.ansible import AnsibleNode
from controlplane.drivers.node.base import NodeTarget
from controlplane.values.bundle import Bundle, ManagedFile, Program
from tests.contract.node import toy
from tests.servers.processes import kill
from tests.servers.processes import of_user as processes_of

CONTROL_GROUP = "roost-test"
PYTHON = "/usr/bin/python3"


@dataclass
class Node:
    """A supervisord with an include directory, and what tests made on it."""

    place: Path
    made: list[Bundle] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    fence: int = 1

    @property
    def target(self) -> NodeTarget:
        return NodeTarget(
            name="n1",
            connection="local",
            runtime="supervisor",
            address="127.65.0.1",
            state_dir=str(self.place / "state"),
            runtime_dir=str(self.place / "programs"),
            supervisor_socket=str(self.place / "s.sock"),
        )

    @property
    def driver(self) -> AnsibleNode:
        return AnsibleNode(self.place / "ansible")

    def start(self) -> None:
        (self.place / "programs").mkdir(exist_ok=True)
        (self.place / "toy engine.py").write_text(toy.ENGINE)
        config = self.place / "supervisord.conf"
        config.write_text(
            "[unix_http_server]\nfile=%(here)s/s.sock\nchmod=0700\n"
            "[supervisord]\nnodaemon=true\nuser=root\nlogfile=%(here)s/supervisord.log\npidfile=%(here)s/s.pid\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            "[include]\nfiles=programs/*.conf\n"
        )
        argv = [str(Path(sys.executable).with_name("supervisord")), "-n", "-c", str(config)]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (self.place / "s.sock").exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None

    def kill(self) -> None:
        """End supervisord so that its programs live on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)
        self.process = None

    def bundle(self, *, files: tuple[ManagedFile, ...] | None = None, mode: str = "socket") -> Bundle:
        """A new instance of the toy engine; it listens on run/control.sock unless ``mode`` says otherwise."""
        key = "t" + secrets.token_hex(3)
        made = Bundle(
            key=key,
            user=f"r-{key}",
            root=str(self.place / "tenants" / key),
            control_group=CONTROL_GROUP,
            program=Program(
                argv=(PYTHON, "-S", str(self.place / "toy engine.py"), mode),
                env=(("GREETING", "100% 'grün' \"x\" ;# $HOME"),),
                memory_bytes=256 * 1024 * 1024,
                open_files=777,
                ready_socket="" if mode == "plain" else "run/control.sock",
                ready_timeout_s=10,
                stop_wait_s=5,
            ),
            files=files
            or (
                ManagedFile("config/engine.cfg", b"listen = 'secret-in-config'\n", on_change="restart"),
                ManagedFile("certs/key.pem", b"secret-in-key\n", on_change="reload"),
                ManagedFile("config/motd", b"hello\n", on_change="none"),
            ),
        )
        self.made.append(made)
        return made

    def converge(self, *bundles: Bundle, **options: object):
        options.setdefault("fence", self.fence)
        options.setdefault("timeout_s", 120)
        return self.driver.converge(self.target, bundles, **options)

    def clean(self) -> None:
        """Remove everything by the system's own tools, whatever the test did."""
        if self.process is None:
            self.start()
        self.stop()
        for bundle in self.made:
            for pid in processes_of(bundle.user):
                kill(pid)
            subprocess.run(["userdel", bundle.user], check=False, capture_output=True)
            subprocess.run(["groupdel", bundle.user], check=False, capture_output=True)
        shutil.rmtree(self.place)


def with_file(bundle: Bundle, path: str, content: bytes) -> Bundle:
    """The bundle with another content of one of its files."""
    files = tuple(replace(f, content=content) if f.path == path else f for f in bundle.files)
    return replace(bundle, files=files)


@pytest.fixture(scope="session")
def control_group() -> Iterator[str]:
    subprocess.run(["groupadd", "--system", "-f", CONTROL_GROUP], check=True)
    yield CONTROL_GROUP
    subprocess.run(["groupdel", CONTROL_GROUP], check=False)


@pytest.fixture
def node(control_group: str) -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("making unix users needs root")
    made = Node(Path(tempfile.mkdtemp(prefix="rn", dir="/tmp")))
    made.place.chmod(0o755)
    made.start()
    try:
        yield made
    finally:
        made.clean()
