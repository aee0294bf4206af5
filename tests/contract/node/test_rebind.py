"""New addresses for a real HAProxy and a real coturn that a real supervisord runs; connections that are open stay."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.config import BACKENDS_MAP, PROXY65_MAP, EdgeConfig, render_haproxy_cfg
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.drivers.node import far
from controlplane.drivers.node.lines import LocalLine
from controlplane.drivers.turn.config import render_turnserver_conf
from controlplane.drivers.turn.database import create_database
from controlplane.values.names import DomainName
from tests.servers.coturn import turn_config

pytestmark = [pytest.mark.servers, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OLD, NEW, ENGINE, TURN_OLD, TURN_NEW = "127.67.2.1", "127.67.2.2", "127.67.2.3", "127.67.2.4", "127.67.2.5"
HEADER = b"<?xml version='1.0'?><stream:stream to='acme.example' xmlns:stream='http://etherx.jabber.org/streams'>"


class Machine:
    """Its directory, what its supervisord runs, and the files as a plan describes them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "s.sock"

    def haproxy_cfg(self, address: str) -> str:
        return render_haproxy_cfg(
            EdgeConfig(
                addresses=(address,),
                socket=str(self.directory / "admin.sock"),
                map_dir=str(self.directory),
                control_group="root",
                proxy65_ports=(20000, 20009),
            )
        )

    def edge(self, address: str, content: str = "") -> dict[str, Any]:
        return {
            "name": "HAProxy",
            "path": str(self.directory / "haproxy.cfg"),
            "content": content or self.haproxy_cfg(address),
            "mode": 0o644,
            "group": "root",
            "check": ["haproxy", "-c", "-f"],
            "systemd": [],
            "supervised": "haproxy",
            "signal": "USR2",
            "socket": str(self.socket),
            "listens": [[address, 5269]],
        }

    def turn(self, address: str) -> dict[str, Any]:
        return {
            **self.edge(address),
            "name": "coturn",
            "path": str(self.directory / "turnserver.conf"),
            "content": render_turnserver_conf(turn_config(self.directory, address)),
            "mode": 0o640,
            "check": [],
            "supervised": "coturn",
            "signal": "",
            "listens": [[address, 3478]],
        }

    def rebind(self, *files: dict[str, Any]) -> Any:
        return LocalLine("here").ask(far.source("rebind"), {"files": list(files)})


@pytest.fixture
def machine() -> Iterator[Machine]:
    directory = Path(tempfile.mkdtemp(prefix="rebind", dir="/tmp"))
    directory.chmod(0o755)
    made = Machine(directory)
    for name in (BACKENDS_MAP, PROXY65_MAP):
        (directory / name).touch()
    (directory / "haproxy.cfg").write_text(made.haproxy_cfg(OLD))
    create_database(directory / "turn.sqlite")
    (directory / "turnserver.conf").write_text(render_turnserver_conf(turn_config(directory, TURN_OLD)))
    (directory / "supervisord.conf").write_text(
        f"[unix_http_server]\nfile={made.socket}\n"
        f"[supervisord]\nlogfile={directory}/log\npidfile={directory}/pid\nnodaemon=true\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:haproxy]\ncommand=/usr/sbin/haproxy -W -db -f {directory}/haproxy.cfg\nstdout_logfile=NONE\n"
        f"[program:coturn]\ncommand=/usr/bin/turnserver -c {directory}/turnserver.conf\nstdout_logfile=NONE\n"
    )
    process = subprocess.Popen(
        ["supervisord", "-c", str(directory / "supervisord.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: accepts(OLD, 5269) and accepts(TURN_OLD, 3478))
        yield made
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory)


def accepts(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def wait(done: Any) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_session_that_is_open_outlives_the_change_of_address(machine: Machine) -> None:
    with socket.create_server((ENGINE, 7002)) as engine:
        HaproxyEdge(machine.directory / "admin.sock", machine.directory, None).publish(
            [DomainName("acme.example")], Backend(ENGINE, 7000), 20000
        )
        with socket.create_connection((OLD, 5269), timeout=5) as peer:
            peer.sendall(HEADER)
            engine.settimeout(5)
            inside, _ = engine.accept()
            inside.settimeout(5)
            said = machine.rebind(machine.edge(NEW))
            assert (said["changed"], said["error"]) == (["HAProxy"], "")
            assert accepts(NEW, 5269)
            wait(lambda: not accepts(OLD, 5269))
            time.sleep(6)  # longer than a hasty edge would leave it
            inside.sendall(b"still here")
            assert peer.recv(100) == b"still here"
            inside.close()
        with socket.create_connection((NEW, 5269), timeout=5) as again:
            again.sendall(HEADER)
            engine.accept()[0].close()  # the new process has the old one's routes


def test_what_is_so_already_is_left_alone(machine: Machine) -> None:
    said = machine.rebind(machine.edge(OLD), machine.turn(TURN_OLD))
    assert (said["changed"], said["error"]) == ([], "")


def test_coturn_begins_anew_at_the_new_address_with_the_same_secrets(machine: Machine) -> None:
    before = (machine.directory / "turn.sqlite").read_bytes()
    said = machine.rebind(machine.turn(TURN_NEW))
    assert (said["changed"], said["error"]) == (["coturn"], "")
    assert accepts(TURN_NEW, 3478)
    assert not accepts(TURN_OLD, 3478)
    assert (machine.directory / "turn.sqlite").read_bytes() == before
    assert (machine.directory / "turnserver.conf").stat().st_mode & 0o777 == 0o640


def test_a_configuration_that_haproxy_refuses_changes_nothing(machine: Machine) -> None:
    said = machine.rebind(machine.edge(NEW, content="frontend nonsense\n  bond :5269\n"), machine.turn(TURN_NEW))
    assert said["changed"] == ["coturn"]
    assert "HAProxy" in said["error"]
    assert (machine.directory / "haproxy.cfg").read_text() == machine.haproxy_cfg(OLD)
    assert accepts(OLD, 5269)
    assert [path.name for path in machine.directory.glob(".roost-*")] == []


def test_one_that_was_cut_off_before_the_reload_is_finished(machine: Machine) -> None:
    (machine.directory / "haproxy.cfg").write_text(machine.haproxy_cfg(NEW))
    said = machine.rebind(machine.edge(NEW))
    assert (said["changed"], said["error"]) == (["HAProxy"], "")
    assert accepts(NEW, 5269)


def test_an_address_that_is_not_the_machines_is_an_error(machine: Machine) -> None:
    said = machine.rebind(machine.edge("192.0.2.77"))
    assert "does not listen" in said["error"]
