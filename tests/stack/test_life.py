"""Suspend, resume, terminate, restore: what a billing system does to an instance, seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import sqlite3
from xml.etree import ElementTree as ET

import pytest

from controlplane.values.errors import RoostError
from tests.servers.processes import of_uid, of_user
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def doomed(live: Live, tenants: dict[str, Tenant]) -> dict[str, Tenant]:
    """Tenants that end in this module."""
    found = {engine: live.want(f"doomed-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    return found


@pytest.fixture(params=ENGINES)
def mortal(request: pytest.FixtureRequest, doomed: dict[str, Tenant]) -> Tenant:
    return doomed[request.param]


def waits(live: Live, tenant: Tenant, reason: str) -> None:
    until(
        lambda: (
            {live.condition(tenant, name)["reason"] for name in ("Ready", "ServerRunning")} == {reason}
            and not engine_processes(tenant)
        ),
        f"{tenant.domain} is {reason}",
    )


def engine_processes(tenant: Tenant) -> list[int]:
    """Processes of the tenant's unix user."""
    return of_user(tenant.user)


def records_of(live: Live, tenant: Tenant) -> dict[tuple[str, str], list[str]]:
    return {at: found for at, found in live.records().items() if tenant.domain in at[0] or tenant.key in at[0]}


def test_suspension_refuses_logins_and_keeps_the_data(live: Live, mortal: Tenant) -> None:
    owner = live.account(mortal, "romeo")
    live.api.ask("POST", f"{mortal.path}rooms/", {"name": "attic", "owner": owner, "title": "Attic"})
    live.login(mortal, "romeo")
    records = records_of(live, mortal)

    async def dropped() -> None:
        """A session that is open when the instance is suspended ends."""
        client = live.client(mortal, "romeo")
        async with client:
            live.api.post(f"{mortal.path}suspend/", {"reason": "unpaid"})
            await asyncio.to_thread(waits, live, mortal, "Suspended")
            with pytest.raises(RoostError):
                await client.iq("get", mortal.domain, ET.Element("{urn:xmpp:ping}ping"), timeout_s=2)

    asyncio.run(dropped())
    with pytest.raises(RoostError):
        live.login(mortal, "romeo")
    refused = live.api.ask("POST", f"{mortal.path}accounts/", {"username": "later"})
    assert refused.status in (409, 503), refused
    seen = live.api.get(mortal.path)
    assert (seen["desired"], seen["suspended_reason"]) == ("suspended", "unpaid")
    assert records_of(live, mortal) == records
    assert (live.layout.node / "instances" / mortal.key / "data").is_dir()

    live.api.post(f"{mortal.path}unsuspend/")
    live.ready(mortal)
    live.login(mortal, "romeo")
    assert live.api.get(f"{mortal.path}rooms/attic/")["title"] == "Attic"


def test_a_termination_can_be_taken_back_within_its_grace(live: Live, mortal: Tenant) -> None:
    live.account(mortal, "romeo")
    live.api.post(f"{mortal.path}terminate/", {"grace_s": 3600})
    waits(live, mortal, "Terminating")
    with pytest.raises(RoostError):
        live.login(mortal, "romeo")
    live.api.post(f"{mortal.path}restore/")
    live.ready(mortal)
    live.login(mortal, "romeo")


def test_a_terminated_instance_leaves_nothing_behind(live: Live, mortal: Tenant) -> None:
    live.account(mortal, "romeo")
    key, root = mortal.key, live.layout.node / "instances" / mortal.key
    uid = pwd.getpwnam(mortal.user).pw_uid
    assert of_uid(uid)
    ((number, port),) = live.rows(
        "SELECT i.id, p.proxy65_port FROM tenants_instance i JOIN fleet_placement p ON p.instance_id = i.id "
        "WHERE key = %s",
        key,
    )
    serial = live.api.get(f"{mortal.path}certificate/")["serial"]
    assert serial
    assert secrets_of(live, key) == {"known": True}
    edge = edge_maps(live)
    assert mortal.domain in edge
    assert f"{port} " in edge

    live.terminate(mortal)

    names = {name for name, _ in live.records()}
    assert not [name for name in names if mortal.domain in name or key in name]
    for table in (
        *("zones_dnsrecord", "certificates_certificate", "turn_turncredential", "fleet_placement", "fleet_edgeroute"),
        *("provisioning_probeaccount", "provisioning_walk"),
    ):
        assert live.rows(f"SELECT count(*) FROM {table} WHERE instance_id = %s", number) == [(0,)], table
    # Those who watch it (its roll, for one) are told that it is gone, and go with their next pass.
    items = "SELECT count(*) FROM reconcile_workitem WHERE object_id = %s"
    until(lambda: live.rows(items, key) == [(0,)], "nobody has anything to do with it", timeout_s=60)
    assert live.rows("SELECT count(*) FROM tenants_domain WHERE name = %s", mortal.domain) == [(0,)]
    assert secrets_of(live, key) == {"known": False}
    until(lambda: of_uid(uid) == [], "the last of its processes is reaped", timeout_s=10)
    with pytest.raises(KeyError):
        pwd.getpwnam(mortal.user)
    assert not root.exists()
    assert not [part.name for part in live.node.parts() if key in part.name]
    edge = edge_maps(live)
    assert mortal.domain not in edge
    assert f"{port} " not in edge
    with pytest.raises(RoostError):
        live.login(mortal, "romeo")

    told = [(row["action"], row["actor"]) for row in live.api.all(f"audit/?object_id={key}")]
    actions = {action for action, _ in told}
    assert {"instance.create", "instance.suspend", "instance.unsuspend", "instance.terminate"} <= actions
    by = dict(told)
    assert by["instance.create"].startswith("token ")
    assert by["instance.terminate"] == by["instance.create"]
    assert by["instance.delete"] not in {"", by["instance.create"]}
    made = live.api.all(f"audit/?object_id={key}/romeo")
    assert made[-1]["action"] == "account.create"

    def told_last() -> bool:
        """Events wait for transactions that began before them, also for those of other tests' databases."""
        last = live.api.get(f"instances/{key}/events/?limit=500")["events"][-1]
        return bool((last["object_id"], last["type"]) == (key, "Deleted"))

    until(told_last, "the last event is its end")


def edge_maps(live: Live) -> str:
    return "\n".join(path.read_text() for path in sorted(live.layout.edge.glob("*.map")))


def secrets_of(live: Live, key: str) -> dict[str, bool]:
    """Whether the tenant has a secret, after making sure that coturn has as many as there should be."""
    ((wanted,),) = live.rows("SELECT count(*) + count(*) FILTER (WHERE previous_sealed <> '') FROM turn_turncredential")
    with contextlib.closing(sqlite3.connect(live.environment["ROOST_TURN_DATABASE"])) as database:
        ((stored,),) = database.execute("SELECT count(*) FROM turn_secret").fetchall()
    ((own,),) = live.rows(
        "SELECT count(*) FROM turn_turncredential t JOIN tenants_instance i ON i.id = t.instance_id WHERE key = %s", key
    )
    assert stored == wanted
    return {"known": own == 1}
