"""What changes while people are connected: rotations, names, restarts; and how a program follows it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from controlplane.probes.client import ProbeClient, q
from tests.contract.engine.features import info
from tests.contract.engine.suite import element
from tests.stack.live import Live, Tenant, until

pytestmark = pytest.mark.stack
PING, VCARD, EXTDISCO = "urn:xmpp:ping", "vcard-temp", "urn:xmpp:extdisco:2"
DATA = "jabber:x:data"


def connected(live: Live, tenant: Tenant, change: Callable[[], object], then: Any = None) -> None:
    """Log in, have something changed and carried out, and use the very same session again."""
    client = live.client(tenant, "romeo")

    async def run() -> None:
        async with client:
            jid = client.jid
            await asyncio.to_thread(change)
            await asyncio.to_thread(live.ready, tenant)
            await client.iq("get", tenant.domain, ET.Element(q("ping", PING)))
            assert client.jid == jid
            if then is not None:
                await then(client)

    asyncio.run(run())


async def contacts(client: ProbeClient, domain: str) -> set[str]:
    """XEP-0157."""
    return {value.text or "" for value in (await info(client, domain)).iter(q("value", DATA))}


def test_name_and_contacts_change_under_a_session(live: Live, tenant: Tenant) -> None:
    uri = f"mailto:abuse-{time.monotonic_ns()}@{tenant.domain}"
    pid = live.engine_pid(tenant)

    def change() -> None:
        body = {"display_name": 'Mount "Ague" <&> Ltd', "contacts": [{"kind": "abuse", "uri": uri}]}
        live.api.do("PATCH", tenant.path, body)

    async def seen(client: ProbeClient) -> None:
        assert uri in await contacts(client, tenant.domain)

    connected(live, tenant, change, seen)
    assert live.engine_pid(tenant) == pid
    assert live.api.get(tenant.path)["display_name"] == 'Mount "Ague" <&> Ltd'


def test_a_new_certificate_is_served_and_nobody_is_dropped(live: Live, tenant: Tenant) -> None:
    before = live.api.get(f"{tenant.path}certificate/")["serial"]

    def change() -> None:
        live.api.post(f"{tenant.path}rotate/", {"what": "certificate"})
        until(lambda: live.api.get(f"{tenant.path}certificate/")["serial"] != before, "another certificate is issued")

    connected(live, tenant, change)
    assert live.api.get(f"{tenant.path}verification/")["ok"]
    live.login(tenant, "romeo")


def test_a_new_turn_secret_is_announced_and_the_old_one_still_counts(live: Live, tenant: Tenant) -> None:
    old = live.api.post(f"{tenant.path}turn/credentials/", {"ttl_s": 600})
    number = live.rows("SELECT id FROM tenants_instance WHERE key = %s", tenant.key)[0][0]
    sealed = "SELECT secret_sealed, previous_sealed FROM turn_turncredential WHERE instance_id = %s"
    ((before, previous),) = live.rows(sealed, number)
    connected(live, tenant, lambda: live.api.post(f"{tenant.path}rotate/", {"what": "turn"}))
    ((after, kept),) = live.rows(sealed, number)
    if not previous:  # one earlier secret is kept at a time: a second rotation waits for the first to retire
        assert (after != before, kept) == (True, before)
    new = live.api.post(f"{tenant.path}turn/credentials/", {"ttl_s": 600})
    for credentials in (old, new):
        relays(live, credentials["username"], credentials["password"])
    with pytest.raises(AssertionError):
        relays(live, new["username"], "wrong")


def relays(live: Live, username: str, password: str) -> None:
    """An allocation (RFC 8656) that really succeeds, by the relay probe's own client."""
    import aioice.turn  # type: ignore[import-untyped]

    async def run() -> None:
        transport, _ = await aioice.turn.create_turn_endpoint(
            asyncio.DatagramProtocol,
            server_addr=(live.layout.turn_address, 3478),
            username=username,
            password=password,
            lifetime=60,
            transport="udp",
        )
        transport.close()

    try:
        asyncio.run(asyncio.wait_for(run(), 10))
    except Exception as error:
        raise AssertionError(f"no allocation: {error}") from error


def test_a_new_probe_password_and_another_walk(live: Live, tenant: Tenant) -> None:
    first = live.api.get(f"{tenant.path}verification/")["at"]
    live.api.post(f"{tenant.path}rotate/", {"what": "probe"})
    live.ready(tenant)
    second = live.api.get(f"{tenant.path}verification/")["at"]
    assert second > first
    live.api.post(f"{tenant.path}reverify/")
    live.ready(tenant)
    third = live.api.get(f"{tenant.path}verification/")
    assert third["ok"]
    assert third["at"] > second


def test_another_plan_means_other_limits(live: Live, tenant: Tenant) -> None:
    live.api.post(f"{tenant.path}plan/", {"plan": "standard"})
    live.ready(tenant)
    assert live.api.get(f"{tenant.path}usage/")["limits"]["memory_mib"] == 512
    live.api.post(f"{tenant.path}plan/", {"plan": "small"})
    live.ready(tenant)


def test_members_and_rooms_survive_a_restart_of_the_engine(live: Live, tenant: Tenant) -> None:
    owner = live.account(tenant, "romeo")
    live.api.ask("DELETE", f"{tenant.path}rooms/cellar/")
    live.api.post(f"{tenant.path}rooms/", {"name": "cellar", "owner": owner, "title": "Cellar", "moderated": True})
    live.api.do("PUT", f"{tenant.path}rooms/cellar/affiliations/x@elsewhere.example/", {"affiliation": "outcast"})
    accounts = [row["username"] for row in live.api.all(f"{tenant.path}accounts/")]
    room = live.api.get(f"{tenant.path}rooms/cellar/")
    pid = live.engine_pid(tenant)
    live.node.restart_part(live.engine_program(tenant))
    until(lambda: live.engine_pid(tenant) not in {0, pid}, "the engine runs again")
    until(lambda: live.control(tenant).health().version, "it answers")
    live.ready(tenant)  # a pass that found it down would have the API say so
    assert [row["username"] for row in live.api.all(f"{tenant.path}accounts/")] == accounts
    assert live.api.get(f"{tenant.path}rooms/cellar/") == room
    live.login(tenant, "romeo")
    live.api.do("DELETE", f"{tenant.path}rooms/cellar/")


def test_events_can_be_waited_for(live: Live, tenant: Tenant) -> None:
    events = f"{tenant.path}events/"
    now = live.api.get(f"{events}?after=now")
    assert now["events"] == []
    found: list[Any] = []
    follower = threading.Thread(
        target=lambda: found.append(live.api.get(f"{events}?after={now['cursor']}&wait=25")), daemon=True
    )
    follower.start()
    live.api.post(f"{tenant.path}reverify/")
    follower.join(30)
    assert found, "the long poll did not come back"
    assert found[0]["events"]
    assert {event["object_id"] for event in found[0]["events"]} == {tenant.key}
    later = live.api.get(f"{events}?after={found[0]['cursor']}")
    assert not {e["cursor"] for e in later["events"]} & {e["cursor"] for e in found[0]["events"]}
    live.ready(tenant)


def test_an_idempotency_key_makes_one_of_two(live: Live, tenant: Tenant) -> None:
    name = f"once-{time.monotonic_ns()}"
    body = {"username": name}
    first = live.api.ask("POST", f"{tenant.path}accounts/", body, Idempotency_Key=name)
    again = live.api.ask("POST", f"{tenant.path}accounts/", body, Idempotency_Key=name)
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"
    other = live.api.ask("POST", f"{tenant.path}accounts/", {"username": f"{name}x"}, Idempotency_Key=name)
    assert other.status in (409, 422)
    names = [row["username"] for row in live.api.all(f"{tenant.path}accounts/")]
    assert (names.count(name), names.count(f"{name}x")) == (1, 0)
    live.api.do("DELETE", f"{tenant.path}accounts/{name}/")


def test_turn_is_announced_to_clients(live: Live, tenant: Tenant) -> None:
    async def run(client: ProbeClient) -> None:
        async with client:
            answer = await client.iq("get", tenant.domain, element("services", EXTDISCO))
            found = {(s.get("type"), s.get("host")) for s in answer.iter(q("service", EXTDISCO))}
            assert ("turn", live.environment["ROOST_TURN_HOST"]) in found

    asyncio.run(run(live.client(tenant, "romeo")))
