"""The logs of a stack on which things were done: one word finds what a call led to, and no secret is in any of them."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet

from tests.stack.live import Live, Tenant, until

pytestmark = pytest.mark.stack


def logs(live: Live) -> list[Path]:
    """Of the control plane, of its servers, and of the tenants' engines."""
    return [
        path
        for place in (live.layout.log, *(live.layout.node / "instances").glob("*/log"))
        for path in place.glob("*")
        if path.is_file()
    ]


def lines(live: Live, name: str, word: str) -> list[str]:
    return [line for line in (live.layout.log / f"{name}.log").read_text(errors="replace").splitlines() if word in line]


def test_a_request_is_found_again_up_to_ansible(live: Live, tenant: Tenant) -> None:
    request = f"test-{uuid.uuid4()}"
    answer = live.api.ask("PATCH", tenant.path, {"display_name": f"Name {secrets.token_hex(3)}"}, X_Request_ID=request)
    assert answer.status == 202, answer.body
    assert answer.headers["X-Request-ID"] == request
    (line,) = until(lambda: lines(live, "web", request), "the web process names it")
    assert "PATCH /api/v1/instances/<str:key>/: 202" in line
    run = until(
        lambda: [one for one in lines(live, "node-worker", request) if "converge ended: successful" in one],
        "ansible's run names it",
    )[0]
    for bound in ("kind=Node", "object=local", "node=local", "fence=", "run="):
        assert bound in run
    live.ready(tenant)


def test_a_made_up_id_is_not_somebodys_text(live: Live) -> None:
    answer = live.api.ask("GET", "instances/", X_Request_ID="x [kind=Evil]")
    assert answer.headers["X-Request-ID"] != "x [kind=Evil]"


def test_no_secret_is_in_any_log(live: Live, tenants: dict[str, Tenant]) -> None:
    for tenant in tenants.values():
        live.account(tenant, "logged")
        live.login(tenant, "logged")
        live.api.post(f"{tenant.path}turn/credentials/", {"ttl_s": 60})
    known = dict(everything_secret(live, tenants))
    assert len(known) > 12
    files = logs(live)
    assert any(path.name == "node-worker.log" for path in files)
    for path in files:
        text = path.read_bytes()
        found = [name for secret, name in known.items() if secret.encode() in text]
        assert not found, f"{path}: {found}"


def everything_secret(live: Live, tenants: dict[str, Tenant]) -> Iterator[tuple[str, str]]:
    """Secret -> what it is: those of the stack, of accounts, and all that is sealed in the database."""
    stored = json.loads((live.state / "secrets").read_text())
    for name in ("django", "powerdns", "master_key", "token", "metrics", "operator_password"):
        if stored.get(name):
            yield stored[name], name
    for tenant in tenants.values():
        for local, password in tenant.passwords.items():
            yield password, f"password of {tenant.jid(local)}"
    opener = MultiFernet([Fernet(key) for key in (live.state / "master.key").read_text().split()])
    columns = live.rows(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND column_name LIKE '%%_sealed'"
    )
    assert columns
    for table, column in columns:
        for (sealed,) in live.rows(f'SELECT "{column}" FROM "{table}" WHERE "{column}" <> \'\''):
            context, value = json.loads(opener.decrypt(sealed.encode()))
            for part in value.splitlines():
                if len(part) >= 12 and not part.startswith("-----"):
                    yield part, context


def test_logs_can_be_looked_through(live: Live, tmp_path: Path) -> None:
    """The search would find one."""
    assert any(b"controlplane" in path.read_bytes() for path in logs(live))
