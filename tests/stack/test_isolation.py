"""One tenant's unix user gets nothing of another's, and nothing of the control plane's."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

import pytest

from tests.stack.live import ENGINES, Live, Tenant

pytestmark = pytest.mark.stack
TRY = r"""
import os, socket, sys
got = []
for path in sys.argv[1:]:
    try:
        if path.startswith("socket:"):
            s = socket.socket(socket.AF_UNIX); s.connect(path[7:])
        elif os.path.isdir(path):
            os.listdir(path)
        else:
            open(path, "rb").read(1)
        got.append(path)
    except OSError:
        pass
print("\n".join(got))
"""


def reached(tenant: Tenant, paths: list[str]) -> set[str]:
    """Which of them the tenant's user can read, list or connect to; the tried ones all exist."""
    entry = pwd.getpwnam(tenant.user)
    argv = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--inh-caps=-all", "--"]
    done = subprocess.run(
        [*argv, "/usr/bin/python3", "-c", TRY, *paths], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stdout.split())


def places(live: Live, tenant: Tenant) -> list[str]:
    root = live.layout.node / "instances" / tenant.key
    found = [str(root / name) for name in ("config", "certs", "certs/key.pem", "data", "uploads", "log", "run")]
    return [*found, f"socket:{root}/run/control.sock"]


@pytest.mark.parametrize(("intruder", "victim"), [ENGINES, ENGINES[::-1]])
def test_a_tenant_cannot_look_into_another(live: Live, tenants: dict[str, Tenant], intruder: str, victim: str) -> None:
    one, other = tenants[intruder], tenants[victim]
    assert reached(one, places(live, other)) == set()
    own = reached(one, places(live, one))
    assert {path.rpartition("/")[2] for path in own} >= {"certs", "key.pem", "data", "log"}


def test_a_tenant_cannot_reach_the_control_planes_servers(live: Live, tenant: Tenant) -> None:
    state = live.state
    sockets = (
        "supervisor/s.sock",
        "node/supervisor.sock",
        "redis/redis.sock",
        "edge/admin.sock",
        "pg/run/.s.PGSQL.5432",
    )
    files = ("secrets", "environment", "master.key", "pg/data", "pdns/pdns.conf", "pdns/db", "turn/turn.sqlite")
    files += ("edge/backends.map", "edge/proxy65.map", "node/state", "node/programs")
    paths = [*(str(state / name) for name in (*files, "ansible")), *(f"socket:{state / name}" for name in sockets)]
    assert reached(tenant, paths) == set()


def test_an_engine_runs_as_its_tenant_with_no_rights(live: Live, tenant: Tenant) -> None:
    lines = Path(f"/proc/{live.engine_pid(tenant)}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    uid = str(pwd.getpwnam(tenant.user).pw_uid)
    assert status["Uid"].split() == [uid] * 4
    assert int(status["CapEff"], 16) == 0
