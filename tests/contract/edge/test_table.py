"""An edge's table as a whole: what it tells of itself, comparing, correcting, and changes side by side.

All of it with the driver on HAProxy's machine, over a line, and over SSH.
"""

from __future__ import annotations

import ast
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from controlplane.drivers.edge import agent
from controlplane.drivers.edge.base import Backend, Synced
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.drivers.node.base import Line
from controlplane.values.errors import Rejected
from controlplane.values.names import DomainName
from tests.contract.edge.instances import ACME, BASE, BETA, HOST, Backends, header, talk
from tests.servers.haproxy import Haproxy
from tests.servers.line import PlainLine

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("backend", [Backend("0.0.0.0", BASE), Backend("::", BASE), Backend(ACME, 0)])
def test_nothing_is_forwarded_to_no_address(edge: HaproxyEdge, backend: Backend) -> None:
    with pytest.raises(Rejected):
        edge.set_routes([HOST], backend)
    assert edge.routes()["acme.example"] == Backend(ACME, BASE)


def test_one_question_publishes_an_instance_and_one_withdraws_it(edge: HaproxyEdge, backends: Backends) -> None:
    assert edge.publish([HOST], Backend(BETA, BASE), 20004) is True
    assert edge.publish([HOST], Backend(BETA, BASE), 20004) is False
    assert edge.lookup([HOST], 20004) == edge.leads([HOST], 20004) == ({HOST.ascii: Backend(BETA, BASE)}, BETA)
    assert talk(5222, header("acme.example")) == b"welcome to " + BETA.encode()
    assert edge.withdraw([HOST], 20004) is True
    assert edge.withdraw([HOST], 20004) is False
    assert edge.lookup([HOST], 20004) == edge.leads([HOST], 20004) == ({}, None)


def test_it_tells_of_itself(edge: HaproxyEdge) -> None:
    health = edge.health()
    assert health.version.startswith("2.")
    assert health.uptime_s >= 0
    assert health.hosts == len(edge.routes())
    assert health.digest == edge.digest(edge.routes(), edge.tcp_ports())


def test_its_digest_tells_of_a_restart_that_would_change_it(edge: HaproxyEdge, haproxy: Haproxy) -> None:
    kept = (haproxy.directory / "backends.map").read_text()
    (haproxy.directory / "backends.map").write_text("other.example 127.0.0.9/7000\n")
    assert edge.health().digest == ""
    (haproxy.directory / "backends.map").write_text(kept)
    assert edge.health().digest == edge.digest(edge.routes(), edge.tcp_ports())


def test_a_whole_table_is_corrected_at_once(edge: HaproxyEdge, haproxy: Haproxy, backends: Backends) -> None:
    edge.set_routes([DomainName("stranger.example")], Backend(BETA, BASE))
    edge.set_tcp_port(20005, BETA)
    (haproxy.directory / "proxy65.map").write_text("")  # a restart would forget it
    many = {f"h{number}.{'x' * 60}.example": Backend(ACME, BASE) for number in range(400)}
    wanted = {**many, "acme.example": Backend(BETA, BASE), "beta.example": Backend(BETA, BASE)}
    before = edge.table()
    synced = edge.sync(before, wanted, {20005: BETA, 20006: ACME})
    assert synced == Synced(added=401, changed=2, removed=2)  # conference.acme.example is nobody's, too
    assert edge.routes() == wanted
    assert edge.tcp_ports() == {20005: BETA, 20006: ACME}
    assert edge.health().digest == edge.digest(wanted, {20005: BETA, 20006: ACME})
    assert talk(5222, header("acme.example")) == b"welcome to " + BETA.encode()
    assert not edge.sync(edge.table(), wanted, {20005: BETA, 20006: ACME})
    assert edge.sync(edge.table(), {}, {}).removed == 404


def test_correcting_a_table_undoes_no_newer_change(edge: HaproxyEdge) -> None:
    before = edge.table()
    edge.set_routes([HOST], Backend(BETA, BASE))
    edge.set_routes([DomainName("new.example")], Backend(BETA, BASE))
    edge.sync(before, {"acme.example": Backend(ACME, BASE + 10), "new.example": Backend(ACME, BASE)}, {})
    assert edge.routes()["acme.example"] == Backend(BETA, BASE)
    assert edge.routes()["new.example"] == Backend(BETA, BASE)
    edge.delete_routes([DomainName("new.example")])


def test_writers_side_by_side_lose_nothing(edge: HaproxyEdge) -> None:
    hosts = [DomainName(f"w{number}.example") for number in range(8)]
    threads = [threading.Thread(target=edge.set_routes, args=([host], Backend(ACME, BASE))) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {host.ascii for host in hosts} <= set(edge.routes())
    edge.delete_routes(hosts)


def test_another_user_who_was_here_first_locks_nobody_out(edge: HaproxyEdge, haproxy: Haproxy) -> None:
    """The node's pass runs as root, the instances' as somebody else: both use the lock."""
    (haproxy.directory / "lock").unlink(missing_ok=True)
    before = os.umask(0o077)
    try:
        edge.set_routes([HOST], Backend(BETA, BASE))
    finally:
        os.umask(before)
    assert stat.S_IMODE((haproxy.directory / "lock").stat().st_mode) == 0o644
    assert stat.S_IMODE((haproxy.directory / "backends.map").stat().st_mode) == 0o644


def test_an_idle_pass_starts_no_process_over_there(edge: HaproxyEdge, line: Line | None, haproxy: Haproxy) -> None:
    asked = line.asked if isinstance(line, PlainLine) else 0
    assert edge.leads([HOST], 20007) == ({HOST.ascii: Backend(ACME, BASE)}, None)
    if isinstance(line, PlainLine):
        assert line.asked == asked
        assert line.forwarded[-1] == str(haproxy.socket)


def test_what_runs_over_there_is_python_of_debian_11() -> None:
    ast.parse(Path(agent.__file__).read_text(), feature_version=(3, 9))
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(Path(agent.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names
