"""A real HAProxy and instances behind it; the driver on HAProxy's machine, over a line, and over SSH."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.drivers.node.base import Line, NodeTarget
from controlplane.drivers.node.ssh import SshLine
from controlplane.values.secret import Secret
from tests.contract.edge.instances import ACME, BASE, BETA, EDGE, HOST, OTHER, Backends
from tests.servers.haproxy import Haproxy
from tests.servers.line import PlainLine
from tests.servers.sshd import SSHD, Sshd, make_key


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    served = Backends([ACME, BETA])
    yield served
    for listener in served.sockets:
        listener.close()


@pytest.fixture(scope="module")
def haproxy() -> Iterator[Haproxy]:
    with Haproxy(EDGE) as running:
        yield running


@pytest.fixture(scope="session")
def over_ssh() -> Iterator[Line]:
    """OpenSSH's own server, on this machine: it sees the same sockets and files."""
    if not SSHD.exists() or os.geteuid() != 0:
        pytest.skip("needs openssh-server and root")
    place = Path(tempfile.mkdtemp(prefix="re", dir="/tmp"))
    with Sshd("127.68.0.22") as server:
        server.authorized.write_text(make_key(place / "key") + "\n")
        line = SshLine(
            NodeTarget(
                name="e1",
                connection="ssh",
                runtime="systemd",
                address=server.address,
                ssh_port=server.port,
                state_dir="/nonexistent",
                runtime_dir="/nonexistent",
                host_keys=server.host_keys,
                private_key=Secret((place / "key").read_text()),
            ),
            place / "lines",
        )
        yield line
        line.close()
    shutil.rmtree(place)


@pytest.fixture(scope="module", params=["near", "over a line", "over SSH"])
def line(request: pytest.FixtureRequest) -> Line | None:
    if request.param == "over SSH":
        return request.getfixturevalue("over_ssh")
    return PlainLine() if request.param == "over a line" else None


@pytest.fixture
def edge(haproxy: Haproxy, backends: Backends, line: Line | None) -> HaproxyEdge:
    driver = HaproxyEdge(haproxy.socket, haproxy.directory, line)
    at = {HOST: ACME, HOST.child("conference"): ACME, OTHER: BETA}
    driver.sync(driver.table(), {host.ascii: Backend(address, BASE) for host, address in at.items()}, {})
    backends.seen.clear()
    return driver
