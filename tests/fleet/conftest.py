"""The lab that all tests of the fleet share; it is down again after the last of them, whatever happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet_lab import NODES, Lab, Tenant, begin, leftovers, roost
from tests.stack.live import until

TENANTS = 12


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rig's own tests first (they need none of this), then the fleet's in their order."""
    items.sort(key=lambda item: "test_rig" not in str(item.path))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    found: Lab | None = None
    try:
        found = begin()
        yield found
    finally:
        _show(found)
        roost("lab", "down", check=False)
        os.close(own)
    assert found is not None
    assert leftovers(found.layout) == {"processes": [], "mounts": [], "state": False}


def _show(lab: Lab | None) -> None:
    """The ends of the logs, for a failure that nobody can look at afterwards."""
    if lab is None:
        return
    for name in ("node-worker", "worker"):
        path = Path(lab.layout.log / f"{name}.log")
        if path.exists():
            lines = [line for line in path.read_text(errors="replace").splitlines() if "celery" not in line]
            print(f"==> {name} <==\n" + "\n".join(lines[-25:]))


@pytest.fixture(scope="session")
def fleet(lab: Lab) -> Lab:
    """The lab with twelve tenants of both engines, each with an account, all Ready."""
    lab.nodes_ready(NODES)
    for number in range(TENANTS):
        slug = f"t{number:02}"
        lab.post("organisations/", {"slug": slug, "name": slug})
        engine = ("prosody", "ejabberd")[number % 2]
        body = {"domain": f"{slug}.roost.example", "engine": engine, "plan": "small"}
        made = lab.post(f"organisations/{slug}/instances/", body)
        lab.tenants.append(Tenant(made["key"], made["domain"], engine))
    lab.all_ready(lab.tenants)
    for tenant in lab.tenants:
        made = until(
            lambda tenant=tenant: lab.post(f"instances/{tenant.key}/accounts/", {"username": "user"}), "an account"
        )
        tenant.password = made["password"]
    (lab.layout.state / "demo").write_text(json.dumps({t.jid: t.password for t in lab.tenants}))
    return lab
