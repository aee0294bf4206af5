"""Accounts and rooms are made through the API and seen over XMPP."""

from __future__ import annotations

import asyncio
from xml.etree import ElementTree as ET

import pytest

from controlplane.probes.client import ProbeClient, q
from controlplane.values.errors import RoostError
from tests.contract.engine.features import info
from tests.contract.engine.suite import element, join
from tests.stack.live import Live, Tenant, until

pytestmark = pytest.mark.stack
ADMIN, DISCO_INFO = "http://jabber.org/protocol/muc#admin", "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"


def test_an_account_from_its_making_to_its_end(live: Live, tenant: Tenant) -> None:
    accounts = f"{tenant.path}accounts/"
    made = live.api.post(accounts, {"username": "paris"})
    assert made["jid"] == tenant.jid("paris")
    tenant.passwords["paris"] = made["password"]
    live.login(tenant, "paris")

    tenant.passwords["paris"] = live.api.post(f"{accounts}paris/password/")["password"]
    assert tenant.passwords["paris"] != made["password"]
    live.login(tenant, "paris")

    assert live.api.do("PATCH", f"{accounts}paris/", {"enabled": False})["enabled"] is False
    with pytest.raises(RoostError):
        live.login(tenant, "paris")
    assert live.api.do("PATCH", f"{accounts}paris/", {"enabled": True})["enabled"] is True
    live.login(tenant, "paris")

    again = live.api.ask("POST", accounts, {"username": "paris"})
    assert (again.status, again.body["code"]) == (409, "taken"), again.body
    names = [row["username"] for row in live.api.all(accounts)]
    assert "paris" in names
    assert "roost-probe" not in names
    live.api.do("DELETE", f"{accounts}paris/")
    with pytest.raises(RoostError):
        live.login(tenant, "paris")
    del tenant.passwords["paris"]


def test_a_room_with_the_seven_settings(live: Live, tenant: Tenant) -> None:
    owner, member, outcast = (live.account(tenant, name) for name in ("romeo", "mercutio", "tybalt"))
    wanted = {
        "title": "Team «A» & <B>",
        "description": "all hands",
        "access": "members",
        "moderated": True,
        "anonymity": "none",
        "listed": True,
        "persistent": True,
        "language": "it",
    }
    rooms = f"{tenant.path}rooms/"
    live.api.ask("DELETE", f"{rooms}team/")
    made = live.api.post(rooms, {"name": "team", "owner": owner, **wanted})
    assert {name: made[name] for name in wanted} == wanted
    assert made["affiliations"] == {owner: "owner"}
    live.api.do("PUT", f"{rooms}team/affiliations/{member}/", {"affiliation": "member"})
    live.api.do("PUT", f"{rooms}team/affiliations/{outcast}/", {"affiliation": "outcast"})
    room = f"team@{tenant.muc}"

    async def as_owner(client: ProbeClient) -> None:
        async with client:
            seen = await info(client, room)
            features = {f.get("var") for f in seen.iter(q("feature", DISCO_INFO))}
            assert {"muc_membersonly", "muc_moderated", "muc_nonanonymous", "muc_public", "muc_persistent"} <= features
            identity = next(seen.iter(q("identity", DISCO_INFO)))
            assert identity.get("name") == wanted["title"]
            assert "it" in {value.text for value in seen.iter(q("value", "jabber:x:data"))}
            listed = await client.iq("get", tenant.muc, ET.Element(q("query", ITEMS)))
            assert room in {item.get("jid") for item in listed.iter(q("item", ITEMS))}
            await join(client, room, "romeo")
            for kind, jid in (("owner", owner), ("member", member), ("outcast", outcast)):
                query = element("query", ADMIN, element("item", ADMIN, affiliation=kind))
                answer = await client.iq("get", room, query)
                assert [item.get("jid") for item in answer.iter(q("item", ADMIN))] == [jid]

    async def as_outcast(client: ProbeClient) -> None:
        async with client:
            answer = await join(client, room, "tybalt")
            assert answer.get("type") == "error"

    async def as_member(client: ProbeClient) -> None:
        async with client:
            answer = await join(client, room, "mercutio")
            assert answer.get("type") != "error"

    asyncio.run(as_owner(live.client(tenant, "romeo")))
    asyncio.run(as_outcast(live.client(tenant, "tybalt")))
    asyncio.run(as_member(live.client(tenant, "mercutio")))

    changed = live.api.do("PATCH", f"{rooms}team/", {"access": "open", "moderated": False, "listed": False})
    assert (changed["access"], changed["moderated"], changed["listed"]) == ("open", False, False)
    assert changed["affiliations"] == {owner: "owner", member: "member", outcast: "outcast"}
    live.api.do("DELETE", f"{rooms}team/affiliations/{outcast}/")
    assert live.api.get(f"{rooms}team/affiliations/") == {owner: "owner", member: "member"}
    last = live.api.ask("PUT", f"{rooms}team/affiliations/{owner}/", {"affiliation": "none"})
    assert last.status in (409, 422), last
    live.api.do("DELETE", f"{rooms}team/")
    assert live.api.ask("GET", f"{rooms}team/").status == 404


def test_usage_counts_what_is_there(live: Live, tenant: Tenant) -> None:
    live.account(tenant, "romeo")
    seen = live.api.get(f"{tenant.path}usage/")
    assert seen["problem"] == ""
    assert seen["accounts"] >= 1

    async def run(client: ProbeClient) -> None:
        async with client:
            await client.send_presence()
            online = until(
                lambda: next(
                    (r for r in live.api.all(f"{tenant.path}accounts/") if r["username"] == "romeo" and r["online"]),
                    None,
                ),
                "the account is shown as online",
                timeout_s=20,
            )
            assert online["jid"] == tenant.jid("romeo")

    asyncio.run(run(live.client(tenant, "romeo")))
