"""What the kernel was told of the connections that engines dial to their peers, read from the sockets themselves."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.engine import ejabberd, prosody
from tests.servers.engine import Instance, World, running_world

pytestmark = [pytest.mark.servers, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
TCP_USER_TIMEOUT = 18


@pytest.fixture(params=["prosody", "ejabberd"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    driver, network = {"prosody": (prosody.driver, "127.71"), "ejabberd": (ejabberd.driver, "127.72")}[request.param]
    with running_world(driver, network=network) as made:
        yield made


def dialled(instance: Instance, port: int) -> list[socket.socket]:
    """The engine's connections to this port, as sockets of ours too."""
    assert instance.process is not None
    system = ctypes.CDLL(None, use_errno=True)
    found = []
    for pid in whole_family(instance.process.pid):
        pidfd = system.syscall(SYS_PIDFD_OPEN, pid, 0)
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # The engine goes on: what it closes meanwhile is no link.
            try:
                if not os.readlink(entry).startswith("socket:"):
                    continue
            except FileNotFoundError:
                continue
            number = system.syscall(SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
            if number < 0:
                continue
            try:
                opened = socket.socket(fileno=number)
            except OSError:
                os.close(number)
                continue
            try:
                is_it = opened.family == socket.AF_INET and opened.getpeername()[1] == port
            except OSError:
                is_it = False
            if is_it:
                found.append(opened)
            else:
                opened.close()
        os.close(pidfd)
    return found


def whole_family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in whole_family(int(child)))]


def test_a_dead_link_is_found_though_nobody_writes(world: World, request: pytest.FixtureRequest) -> None:
    world.acme.control.ping(world.globex.spec.domain, 10)
    links = [link for port in (5269, 5270) for link in dialled(world.acme, port)]
    assert links
    for link in links:
        with link:
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [link.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [5, 1, 8]
            # LuaSocket has no such option: for Prosody the machine's tcp_retries2 does it.
            limit_ms = 0 if request.node.callspec.params["world"] == "prosody" else 10_000
            assert link.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == limit_ms
    # Nothing was closed by looking.
    assert world.acme.control.ping(world.globex.spec.domain, 10) < 10
