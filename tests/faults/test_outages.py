"""Servers that Roost needs go away and come back: all is Ready again with nobody's help, and nothing is lost.

A tenant is made while the server is away, so that the outage really stands in somebody's way; where it can be
told, its condition says so meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
import redis

from tests.faults.invariants import arm, check, unreached
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]


@pytest.fixture
def newcomer(live: Live, tenants: dict[str, Tenant], request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """The organisation of a tenant that the test wants while something is broken; ended afterwards."""
    slug = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    tenant = Tenant("", slug, f"{slug}.roost.example", "prosody")
    yield tenant
    if tenant.key:
        live.terminate(tenant)


def want(live: Live, newcomer: Tenant) -> None:
    newcomer.key = live.want(newcomer.slug, newcomer.engine).key


def told(live: Live, tenant: Tenant, name: str) -> str:
    """The message of a condition that is not true, and why is said."""
    seen = live.condition(tenant, name)
    assert seen["status"] == "False"
    return str(seen["message"])


def kill(pid: int) -> None:
    """One process, by its number."""
    assert pid > 1
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def away(live: Live, name: str) -> Iterator[None]:
    """A program is stopped, and started again at the end, also when the test fails meanwhile."""
    live.main.stop_part(name)
    try:
        yield
    finally:
        live.main.start_part(name)


def back(live: Live, name: str, before: int) -> None:
    until(lambda: live.pid(name) not in {0, before}, f"{name} was started again")


def engine_back(live: Live, tenant: Tenant, before: int) -> None:
    until(lambda: live.engine_pid(tenant) not in {0, before}, f"{tenant.domain}'s engine was started again")


def logs_in(live: Live, tenant: Tenant) -> None:
    until(lambda: live.login(tenant, "romeo") is None, f"{tenant.domain} takes logins")


def test_redis_forgets_everything(live: Live, newcomer: Tenant) -> None:
    broker = redis.Redis(unix_socket_path=str(live.layout.redis_socket))
    broker.flushall()
    want(live, newcomer)
    seen = set()
    deadline = time.monotonic() + 100
    while not (found := live.api.get(newcomer.path))["ready"]:
        broker.flushall()
        seen |= {c["type"] for c in found["conditions"] if c["status"] == "True"}
        assert time.monotonic() < deadline, found["summary"]
        time.sleep(0.5)
    live.ready(newcomer)


def test_redis_is_away(live: Live, newcomer: Tenant) -> None:
    with away(live, "redis"):
        want(live, newcomer)  # the API does not need it
        time.sleep(3)
    live.ready(newcomer)


def test_postgres_restarts(live: Live, newcomer: Tenant) -> None:
    want(live, newcomer)
    for _ in range(2):
        live.main.restart_part("postgres")
        until(lambda: live.rows("SELECT 1"), "PostgreSQL answers")
        time.sleep(1)
    live.ready(newcomer)


def test_the_name_server_is_away(live: Live, newcomer: Tenant) -> None:
    with away(live, "pdns"):
        want(live, newcomer)
        until(lambda: told(live, newcomer, "DnsPublished"), "the outage is told")
        until(lambda: live.condition(newcomer, "TurnReady")["status"] == "True", "what needs no DNS goes on")
        assert live.condition(newcomer, "NodeAssigned")["status"] == "True"
    live.ready(newcomer)


def test_the_certificate_authority_is_away_and_comes_back_with_another_root(
    live: Live, tenants: dict[str, Tenant], newcomer: Tenant
) -> None:
    """Pebble forgets accounts and orders and makes a new root when it starts: everybody needs another certificate."""
    serials = {tenant.key: live.api.get(f"{tenant.path}certificate/")["serial"] for tenant in tenants.values()}
    with away(live, "pebble"):
        want(live, newcomer)
        until(lambda: told(live, newcomer, "CertificateIssued"), "the outage is told")
        until(lambda: live.condition(newcomer, "DnsPublished")["status"] == "True", "what needs no certificate goes on")
        arm(live, ["acme-registered"])  # a worker dies between registering us and noting the account, too
    live.ready(newcomer)
    assert unreached(live) == set()
    check(live)
    for tenant in tenants.values():
        until(
            lambda tenant=tenant: live.api.get(f"{tenant.path}certificate/")["serial"] != serials[tenant.key],  # type: ignore[misc]
            f"{tenant.domain} has a certificate of the new root",
        )
    check(live)
    for tenant in tenants.values():
        live.login(tenant, "romeo")  # a stranger's client trusts the new root only


@pytest.mark.parametrize(("part", "condition"), [("edge", "EdgeRouted"), ("coturn", "Verified")])
def test_killed_and_stopped(live: Live, tenants: dict[str, Tenant], part: str, condition: str) -> None:
    """What HAProxy and coturn know outlives them."""
    before = live.pid(part)
    kill(before)
    back(live, part, before)
    for tenant in tenants.values():
        until(lambda tenant=tenant: live.login(tenant, "romeo") is None, f"{tenant.domain} takes logins")  # type: ignore[misc]
    with away(live, part):
        for tenant in tenants.values():
            live.api.post(f"{tenant.path}reverify/")
        for tenant in tenants.values():
            until(lambda tenant=tenant: told(live, tenant, condition), "the outage is told")  # type: ignore[misc]
    live.ready(*tenants.values())


def test_an_engine_is_killed_and_another_stopped(live: Live, tenants: dict[str, Tenant]) -> None:
    """Its supervisor starts a killed one again; one that somebody stopped is started by the node's next pass."""
    killed, stopped = (tenants[engine] for engine in ENGINES)
    for _ in range(2):
        before = live.engine_pid(killed)
        kill(before)
        live.node.stop_part(live.engine_program(stopped))
        engine_back(live, killed, before)
        for tenant in (killed, stopped):
            live.api.post(f"{tenant.path}reverify/")
        live.ready(killed, stopped)
        assert live.engine_pid(stopped)
        live.login(killed, "romeo")
        live.login(stopped, "romeo")
        killed, stopped = stopped, killed


def test_a_stopped_engine_is_found_without_anybody_asking(live: Live, tenants: dict[str, Tenant]) -> None:
    tenant = tenants[ENGINES[0]]
    live.node.stop_part(live.engine_program(tenant))
    until(lambda: live.engine_pid(tenant), "the next look found it")
    live.ready(tenant)


def test_all_processes_of_the_control_plane_are_killed(live: Live, newcomer: Tenant) -> None:
    want(live, newcomer)
    names = ("worker", "node-worker", "heal-worker", "prober", "watcher", "web", "beat")
    before = {name: live.pid(name) for name in names}
    for pid in before.values():
        kill(pid)
    for name, pid in before.items():
        back(live, name, pid)
    live.ready(newcomer)


def test_the_nodes_supervisor_is_killed(live: Live, tenants: dict[str, Tenant]) -> None:
    """Engines that it leaves behind end, and the new one starts each of them once."""
    engines = {tenant.key: live.engine_pid(tenant) for tenant in tenants.values()}
    before = live.pid("node")
    kill(before)
    back(live, "node", before)
    for tenant in tenants.values():
        until(lambda tenant=tenant: live.engine_pid(tenant) not in {0, engines[tenant.key]}, "the engine is back")  # type: ignore[misc]
    check(live)
    for tenant in tenants.values():
        live.login(tenant, "romeo")
