"""Backups come back: in place, in part, onto the other engine and back again, under another name; and are proven.

Made by clients and the API, destroyed by the API, compared by what the engines' control channels tell and by clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from controlplane.backups.reading import SETTINGS, Compared, compare, count
from controlplane.portable.tally import Tally
from controlplane.probes.client import q
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

#: Machines of tests are slow at times; nothing is measured here.
LONG_S = 1200.0
PUBSUB, AXOLOTL = "http://jabber.org/protocol/pubsub", "eu.siacs.conversations.axolotl"
DEVICES = f"{AXOLOTL}.devicelist"


@pytest.fixture(scope="module")
def saved(live: Live) -> Iterator[dict[str, Tenant]]:
    """One of each engine, with accounts, contacts, OMEMO devices, rooms with member lists, messages; backed up."""
    found = {engine: live.want(f"rest-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    for tenant in found.values():
        fill(live, tenant)
    yield found
    live.terminate(*found.values())  # with the drill that had to fail, which is an incident of its own


def fill(live: Live, tenant: Tenant) -> None:
    ann, bob = live.account(tenant, "ann"), live.account(tenant, "bob")
    for name in ("lobby", "board"):
        answer = live.api.ask("POST", f"{tenant.path}rooms/", {"name": name, "owner": ann, "title": f"Room {name}"})
        assert answer.status in (201, 409), answer
        for jid, affiliation in ((bob, "member"), ("carol@globex.example", "admin"), ("evil@example.net", "outcast")):
            path = f"{tenant.path}rooms/{name}/affiliations/{jid}/"
            live.api.do("PUT", path, {"affiliation": affiliation})

    async def run() -> None:
        async with live.client(tenant, "ann") as client, live.client(tenant, "bob") as other:
            await other.send_presence()
            roster = ET.Element(q("query", "jabber:iq:roster"))
            for jid, name in ((bob, "Bob"), ("carol@globex.example", "Carol ü")):
                ET.SubElement(roster, q("item", "jabber:iq:roster"), {"jid": jid, "name": name})
                await client.iq("set", "", roster)
                roster = ET.Element(q("query", "jabber:iq:roster"))
            pubsub = ET.Element(q("pubsub", PUBSUB))
            publish = ET.SubElement(pubsub, q("publish", PUBSUB), {"node": DEVICES})
            devices = ET.SubElement(ET.SubElement(publish, q("item", PUBSUB), {"id": "current"}), q("list", AXOLOTL))
            ET.SubElement(devices, q("device", AXOLOTL), {"id": "31415"})
            options = ET.SubElement(pubsub, q("publish-options", PUBSUB))
            form = ET.SubElement(options, "{jabber:x:data}x", {"type": "submit"})
            given = (("FORM_TYPE", f"{PUBSUB}#publish-options"), ("pubsub#access_model", "open"))  # XEP-0384 §5.1
            for name, value in given:
                field = ET.SubElement(form, "{jabber:x:data}field", {"var": name})
                ET.SubElement(field, "{jabber:x:data}value").text = value
            await client.iq("set", "", pubsub)
            for number in range(20):
                await client.send_message(bob, f"message {number} <&> ü")
            await other.wait_message(lambda m: m.findtext(q("body")) == "message 19 <&> ü", timeout_s=30)

    asyncio.run(run())


@contextmanager
def counted(live: Live, tenant: Tenant) -> Iterator[Tally]:
    """What the engine has now, item by item."""
    with Tally() as tally:
        count(live.control(tenant), tally, files=None)  # type: ignore[arg-type]  # it has both halves
        yield tally


def back_up(live: Live, tenant: Tenant) -> str:
    """A full backup made now; its key."""
    made = live.api.post(f"{tenant.path}backups/", {"kind": "full"})

    def is_done() -> bool:
        seen = live.api.get(f"backups/{made['key']}/")
        if seen["state"] in ("failed", "cancelled"):
            raise RuntimeError(f"no backup: {seen}")
        return bool(seen["state"] == "done")

    until(is_done, f"the backup of {tenant.domain} is done", timeout_s=LONG_S)
    return str(made["key"])


def reached(live: Live, kind: str, key: str, *states: str) -> Any:
    """The restore or drill in one of these states."""

    def look() -> Any:
        seen = live.api.get(f"{kind}/{key}/")
        if seen["state"] not in states and seen["state"] in ("failed", "cancelled", "broken", "done", "passed"):
            raise RuntimeError(f"{kind} {key} ended otherwise: {seen}")
        return seen if seen["state"] in states else None

    return until(look, f"{kind} {key} is {' or '.join(states)}", timeout_s=LONG_S)


def restored(live: Live, tenant: Tenant, backup: str, mode: str, **selection: Any) -> tuple[Any, Any]:
    """(preview, the restore when it is done)."""
    body = {"backup": backup, "mode": mode, "selection": selection}
    key = live.api.post(f"{tenant.path}restores/", body)["key"]
    preview = reached(live, "restores", key, "previewed")["preview"]
    live.api.post(f"restores/{key}/confirm/", {})
    return preview, reached(live, "restores", key, "done")


def differences(live: Live, tenant: Tenant, before: Tally, *, other_engine: bool = False) -> Compared:
    live.ready(tenant, timeout_s=LONG_S)
    with counted(live, tenant) as after:
        return compare(before, after, tolerate_added=SETTINGS if other_engine else frozenset())


def lost(found: Compared) -> list[str]:
    """What is not as it was. Logins make engines add empty nodes of their own, which takes nothing away."""
    return [words for words in found.words if not words.endswith(": added")]


def nothing_left(live: Live, tenant: Tenant) -> bool:
    """No scratch in the database, at the supervisor, on disk or among the unix users."""
    assert live.rows("SELECT key FROM fleet_scratch WHERE instance_id = (SELECT id FROM tenants_instance WHERE key=%s)",
                     tenant.key) == []  # fmt: skip
    keys = {row[0] for row in live.rows("SELECT key FROM tenants_instance")}
    directories = {path.name for path in (live.layout.node / "instances").iterdir()}
    assert directories <= keys, directories - keys
    assert len(live.node.parts()) <= len(keys)
    return True


@pytest.mark.parametrize("engine", ENGINES)
def test_a_deleted_room_comes_back_with_its_member_list(live: Live, saved: dict[str, Tenant], engine: str) -> None:
    tenant = saved[engine]
    backup = back_up(live, tenant)
    with counted(live, tenant) as before:
        live.api.do("DELETE", f"{tenant.path}rooms/board/")
        preview, done = restored(live, tenant, backup, "part", rooms=["board"])
        assert preview["added"]["kinds"]["affiliation"] == 4
        assert preview["lost"]["total"] == preview["changed"]["total"] == 0
        assert done["safety"] not in (None, backup)
        assert differences(live, tenant, before).words == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_member_list_alone_and_exactly(live: Live, saved: dict[str, Tenant], engine: str) -> None:
    tenant = saved[engine]
    backup = back_up(live, tenant)
    with counted(live, tenant) as before:
        for jid, affiliation in (("carol@globex.example", "none"), ("intruder@example.net", "owner")):
            live.api.do("PUT", f"{tenant.path}rooms/lobby/affiliations/{jid}/", {"affiliation": affiliation})
        preview, _ = restored(live, tenant, backup, "part", member_lists=["lobby"], exact=True)
        assert [item["what"] for item in preview["added"]["items"]] == ["carol@globex.example"]
        assert [item["what"] for item in preview["lost"]["items"]] == ["intruder@example.net"]
        assert differences(live, tenant, before).words == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_archive_comes_back_into_a_new_account_of_the_name(
    live: Live, saved: dict[str, Tenant], engine: str
) -> None:
    """Messages of a time alone, then the account with all else that it had, its password among it."""
    tenant = saved[engine]
    backup = back_up(live, tenant)
    kinds = {"user message"}
    with counted(live, tenant) as before:
        live.api.do("DELETE", f"{tenant.path}accounts/bob/")
        live.api.post(f"{tenant.path}accounts/", {"username": "bob", "password": "another-password"})
        bounds = {"from": "2020-01-01T00:00:00Z", "accounts": ["bob"]}
        preview, _ = restored(live, tenant, backup, "part", archives=bounds)
        assert set(preview["added"]["kinds"]) == kinds
        with counted(live, tenant) as after:
            assert list(before.differences(after, kinds=kinds)) == []
        restored(live, tenant, backup, "part", accounts=["bob"])
        # ejabberd takes a deleted account out of the rooms' member lists, which are the rooms' and come back with them.
        lost = {f"affiliation {tenant.jid('bob')} of {room}: missing" for room in ("board", "lobby")}
        assert set(differences(live, tenant, before).words) <= (lost if engine == "ejabberd" else set())
    live.login(tenant, "bob")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_tenant_in_place(live: Live, saved: dict[str, Tenant], engine: str) -> None:
    tenant = saved[engine]
    backup = back_up(live, tenant)
    with counted(live, tenant) as before:
        live.api.do("DELETE", f"{tenant.path}accounts/bob/")
        live.api.do("DELETE", f"{tenant.path}rooms/lobby/")
        live.api.post(f"{tenant.path}accounts/", {"username": "late", "password": "a-late-password"})
        preview, done = restored(live, tenant, backup, "in_place")
        assert preview["lost"]["kinds"]["account"] == 1
        assert preview["added"]["kinds"]["account"] == 1
        assert preview["added"]["kinds"]["room"] == 1
        assert done["switched_at"] is not None
        assert differences(live, tenant, before).words == []
    live.login(tenant, "bob")
    until(lambda: nothing_left(live, tenant), "the scratch is gone", timeout_s=LONG_S)
    kept = list((live.layout.node / "instances" / tenant.key).glob("before-*"))
    assert len(kept) == 1
    back_up(live, tenant)
    live.rows("UPDATE reconcile_workitem SET due_at = now() WHERE kind = 'Restore' RETURNING id")
    until(lambda: not kept[0].exists(), "what was before goes when a newer backup is there", timeout_s=LONG_S)


@pytest.mark.parametrize("engine", ENGINES)
def test_onto_the_other_engine_and_back(live: Live, saved: dict[str, Tenant], engine: str) -> None:
    tenant = saved[engine]
    other = next(one for one in ENGINES if one != engine)
    backup = back_up(live, tenant)
    with counted(live, tenant) as before:
        preview, _ = restored(live, tenant, backup, "in_place", engine=other)
        assert preview["not_carried"]["total"] == 0
        there = replace(tenant, engine=other)
        assert live.api.get(tenant.path)["engine"] == other
        assert lost(differences(live, there, before, other_engine=True)) == []
        live.login(there, "ann")
        assert asyncio.run(devices_of(live, there)) == ["31415"]
        second = back_up(live, there)
        restored(live, there, second, "in_place", engine=engine)
        assert lost(differences(live, tenant, before, other_engine=True)) == []
    live.login(tenant, "bob")
    assert asyncio.run(devices_of(live, tenant)) == ["31415"]
    until(lambda: nothing_left(live, tenant), "the scratches are gone", timeout_s=LONG_S)


async def devices_of(live: Live, tenant: Tenant) -> list[str]:
    """Ann's OMEMO devices, as Bob's client sees them."""
    pubsub = ET.Element(q("pubsub", PUBSUB))
    ET.SubElement(pubsub, q("items", PUBSUB), {"node": DEVICES})
    async with live.client(tenant, "bob") as client:
        answer = await client.iq("get", tenant.jid("ann"), pubsub)
    return [device.get("id", "") for device in answer.iter(q("device", AXOLOTL))]


def test_a_worker_that_is_killed_before_the_switch_leaves_the_old_state_serving(
    live: Live, saved: dict[str, Tenant]
) -> None:
    tenant = saved["prosody"]
    backup = back_up(live, tenant)
    live.api.post(f"{tenant.path}accounts/", {"username": "since", "password": "a-new-password"})
    key = live.api.post(f"{tenant.path}restores/", {"backup": backup, "mode": "in_place"})["key"]
    reached(live, "restores", key, "previewed")
    points = ("before-fetch", "after-fetch", "before-import", "after-import", "before-switch", "after-switch")
    for point in points[:5]:
        (live.fault_dir / point).touch()
    live.api.post(f"restores/{key}/confirm/", {})
    for point in points[:5]:
        until(lambda point=point: not (live.fault_dir / point).exists(), f"a worker died at {point}", timeout_s=LONG_S)  # type: ignore[misc]
        if live.api.get(f"restores/{key}/")["switched_at"] is None:
            live.login(tenant, "ann")
    done = reached(live, "restores", key, "done")
    assert done["switched_at"] is not None
    live.ready(tenant, timeout_s=LONG_S)
    names = {row["username"] for row in live.api.all(f"{tenant.path}accounts/")}
    assert "since" not in names
    assert {"ann", "bob"} <= names


def test_one_that_is_called_off_leaves_nothing(live: Live, saved: dict[str, Tenant]) -> None:
    tenant = saved["ejabberd"]
    backup = back_up(live, tenant)
    with counted(live, tenant) as before:
        key = live.api.post(f"{tenant.path}restores/", {"backup": backup, "mode": "in_place"})["key"]
        reached(live, "restores", key, "previewed")
        live.api.post(f"restores/{key}/confirm/", {})
        until(
            lambda: live.rows("SELECT 1 FROM fleet_scratch WHERE owner_id = %s", key),
            "something is built aside",
            timeout_s=LONG_S,
        )
        live.api.post(f"restores/{key}/cancel/", {})
        reached(live, "restores", key, "cancelled")
        until(lambda: nothing_left(live, tenant), "the scratch is gone", timeout_s=LONG_S)
        assert differences(live, tenant, before).words == []


def test_into_another_instance_under_another_name(live: Live, saved: dict[str, Tenant]) -> None:
    tenant = saved["prosody"]
    backup = back_up(live, tenant)
    target = live.want("rest-other", "prosody")
    live.ready(target)
    preview, done = restored(live, target, backup, "new_instance")
    assert preview["domains"][tenant.domain] == target.domain
    assert done["report"]["rewritten"]["item/@jid"] > 0
    live.ready(target, timeout_s=LONG_S)
    target.passwords.update(tenant.passwords)
    live.login(target, "ann")
    assert asyncio.run(devices_of(live, target)) == ["31415"]
    affiliations = live.api.get(f"{target.path}rooms/lobby/affiliations/")
    assert affiliations[target.jid("bob")] == "member"
    assert affiliations["carol@globex.example"] == "admin"
    assert not any(tenant.domain in jid for jid in affiliations)
    until(lambda: nothing_left(live, target), "the scratch is gone", timeout_s=LONG_S)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drill_proves_it_and_leaves_nothing(live: Live, saved: dict[str, Tenant], engine: str) -> None:
    tenant = saved[engine]
    back_up(live, tenant)
    key = live.api.post(f"{tenant.path}drills/", {})["key"]
    seen = reached(live, "drills", key, "passed")
    assert seen["result"]["differences"] == []
    listed = [live.api.get(f"{tenant.path}rooms/{name}/affiliations/") for name in ("board", "lobby")]
    assert seen["result"]["checked"]["affiliation"] == sum(map(len, listed)) >= 6
    assert seen["result"]["as_client"]["login"] >= 2
    assert seen["rpo_s"] > 0
    assert seen["rto_s"] > 0
    until(lambda: nothing_left(live, tenant), "the scratch is gone", timeout_s=LONG_S)


def test_a_drill_with_another_backups_data_fails_and_says_what(live: Live, saved: dict[str, Tenant]) -> None:
    """Yesterday's snapshot in place of today's: the oracle knows better than the repository."""
    tenant = saved["prosody"]
    yesterday = back_up(live, tenant)
    live.api.do("PUT", f"{tenant.path}rooms/lobby/affiliations/newcomer@globex.example/", {"affiliation": "member"})
    today = back_up(live, tenant)
    live.rows(
        "UPDATE backups_backup SET snapshot = (SELECT snapshot FROM backups_backup WHERE key = %s) "
        "WHERE key = %s RETURNING id",
        yesterday,
        today,
    )
    key = live.api.post(f"{tenant.path}drills/", {"backup": today})["key"]
    seen = reached(live, "drills", key, "failed")
    assert seen["result"]["differences"] == ["affiliation newcomer@globex.example of lobby: missing"]
    until(lambda: nothing_left(live, tenant), "the scratch is gone", timeout_s=LONG_S)


def test_strangers_find_nothing(live: Live, saved: dict[str, Tenant]) -> None:
    tenant = saved["prosody"]
    backup = back_up(live, tenant)
    restore = live.api.post(
        f"{tenant.path}restores/", {"backup": backup, "mode": "part", "selection": {"rooms": ["lobby"]}}
    )
    body = {"name": "stranger", "organisation": saved["ejabberd"].slug, "scopes": ["read", "backups"]}
    token = live.api.post("tokens/", body)["token"]
    stranger = type(live.api)(live.layout.web_url, token)
    for method, path in (
        ("GET", f"restores/{restore['key']}/"),
        ("POST", f"restores/{restore['key']}/confirm/"),
        ("POST", f"restores/{restore['key']}/cancel/"),
        ("GET", f"{tenant.path}restores/"),
        ("GET", f"{tenant.path}drills/"),
        ("POST", f"{tenant.path}drills/"),
    ):
        assert stranger.ask(method, path, None if method == "GET" else {}).status == 404, path
    own = f"{saved['ejabberd'].path}restores/"
    answer = stranger.ask("POST", own, {"backup": backup, "mode": "new_instance"})
    assert answer.status == 422
    assert all(row["instance"] != tenant.key for row in stranger.all("restores/"))
    live.api.post(f"restores/{restore['key']}/cancel/", {})
