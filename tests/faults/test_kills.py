"""Workers are killed with SIGKILL at every step on an instance's way up and down; nobody helps.

Each armed point kills the one worker that reaches it first. All points of a way are armed at once: whoever goes on
is killed at the next one, so one way up holds as many crashes as there are steps.
"""

from __future__ import annotations

import pytest

from tests.faults.invariants import arm, check, unreached
from tests.stack.live import ENGINES, Live, Tenant, until
from tests.stack.own_zone import publish

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]

#: In the instance's own pass, the node's, the zone's and the certificate's.
UP = (
    *(f"before-{step}" for step in ("NodeAssigned", "TurnReady", "EdgeRouted", "Verified")),
    *(f"after-{step}" for step in ("NodeAssigned", "TurnReady", "EdgeRouted", "Verified")),
    *("before-converge", "after-converge", "before-zone-apply", "after-zone-apply"),
    *("acme-order-noted", "acme-ordered", "acme-challenge-noted", "acme-challenge-published", "acme-answered"),
    *("acme-finalized", "acme-collected", "acme-issued", "acme-challenge-removed"),
)
#: The steps are the same for every engine but for what happens on the node.
UP_AGAIN = ("before-converge", "after-converge", "before-Verified", "after-Verified")
#: The engine reads changed files: only where they change under a running engine.
CHANGE = ("before-ServerRunning", "after-ServerRunning", "before-converge", "after-converge")
DOWN = (
    *(
        f"{when}-undo-{step}"
        for step in ("Verified", "EdgeRouted", "ServerRunning", "TurnReady", "CertificateIssued", "DnsPublished")
        for when in ("before", "after")
    ),
    *("before-undo-NodeAssigned", "after-undo-NodeAssigned", "before-undo-DomainProven", "after-undo-DomainProven"),
    *("acme-revoked", "before-zone-apply", "after-zone-apply", "before-converge", "after-converge"),
)


def orders_at_the_ca(live: Live) -> int:
    return (live.state / "log" / "pebble.log").read_text(errors="replace").count('Added order "')


@pytest.fixture(scope="module")
def crashed(live: Live, tenants: dict[str, Tenant]) -> dict[str, Tenant]:
    """Tenants whose workers are killed all along; made by the first test here, ended by the last."""
    return {}


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_at_each_step_of_the_way_up(live: Live, crashed: dict[str, Tenant], engine: str) -> None:
    before = orders_at_the_ca(live)
    arm(live, UP if engine == ENGINES[0] else UP_AGAIN)
    tenant = crashed[engine] = live.want(f"crash-{engine}", engine)
    live.ready(tenant, timeout_s=300)
    assert unreached(live) == set()
    check(live)
    assert orders_at_the_ca(live) == before + 1
    assert live.rows(
        "SELECT state FROM certificates_order o JOIN certificates_certificate c ON c.id = o.certificate_id "
        "JOIN tenants_instance i ON i.id = c.instance_id WHERE key = %s",
        tenant.key,
    ) == [("issued",)]
    assert live.api.all(f"{tenant.path}accounts/") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_while_a_change_is_carried_out(live: Live, crashed: dict[str, Tenant], engine: str) -> None:
    tenant = crashed[engine]
    live.account(tenant, "romeo")
    arm(live, CHANGE)
    live.api.do("PATCH", tenant.path, {"contacts": [{"kind": "abuse", "uri": f"mailto:abuse@{tenant.domain}"}]})
    live.ready(tenant)
    assert unreached(live) == set()
    live.login(tenant, "romeo")


def test_killed_while_a_domain_is_proven(live: Live, zone: str) -> None:
    tenant = live.want("crash-own", "prosody", domain=f"crash.{zone}")
    until(lambda: live.condition(tenant, "DomainProven")["reason"] == "ProofMissing", "the missing proof is told")
    (wanted,) = live.api.get(tenant.path)["domain_proof"]["records"]
    arm(live, ("before-DomainProven", "after-DomainProven"))
    publish(live, [{"name": wanted["name"], "type": wanted["type"], "rdatas": [wanted["rdata"]]}])
    live.api.post(f"{tenant.path}reverify/")
    until(lambda: live.condition(tenant, "DomainProven")["status"] == "True", "it is proven")
    assert unreached(live) == set()
    assert [row["action"] for row in live.api.all("audit/?organisation=crash-own")].count("domain.prove") == 1
    live.terminate(tenant)


def test_killed_at_each_step_of_the_way_down(live: Live, crashed: dict[str, Tenant]) -> None:
    arm(live, DOWN)
    first, *others = crashed.values()
    live.api.post(f"{first.path}terminate/", {"grace_s": 0})
    until(lambda: live.api.ask("GET", first.path).status == 404, "it is gone", timeout_s=300)
    assert unreached(live) == set()
    for tenant in others:
        arm(live, ("before-converge", "after-converge", "after-undo-ServerRunning"))
        live.terminate(tenant)
        assert unreached(live) == set()
    crashed.clear()
