"""Links published by XEP-0485, by real engines of each kind that talk with one of the other: only by wish, a peer's
name only by the peer's own wish, and gone when the wish is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from controlplane.drivers.engine import ejabberd, prosody
from controlplane.drivers.engine.ejabberd import config as ejabberd_config
from controlplane.drivers.engine.prosody import config as prosody_config
from controlplane.probes.client import StanzaError, q
from tests.contract.engine.features import DATA, DISCO_INFO, DISCO_ITEMS, PUBSUB, features, info, publish
from tests.contract.engine.suite import account, element, session, until
from tests.servers.engine import Instance, World, running_world

pytestmark = pytest.mark.servers

SERVERINFO = "urn:xmpp:serverinfo:0"
PAIRINGS = {
    "prosody-ejabberd": ("127.186", prosody.driver, ejabberd.driver),
    "ejabberd-prosody": ("127.187", ejabberd.driver, prosody.driver),
}


@pytest.fixture(scope="module", params=PAIRINGS)
def world(request) -> Iterator[World]:
    network, one, other = PAIRINGS[request.param]
    with pytest.MonkeyPatch.context() as patch, running_world(one, network=network, peer_driver=other) as made:
        for module in (prosody_config, ejabberd_config):
            patch.setattr(module, "LINKS_EVERY_S", 1)
        yield made


@pytest.fixture
def linked(world: World) -> World:
    """Nothing is published, and there are streams in both directions."""
    for instance in (world.acme, world.globex):
        instance.change(publish_links=False)
    world.acme.control.ping(world.globex.spec.domain)
    return world


def ask(world: World, steps: Any) -> Any:
    """What ``steps(client)`` gives to a client of acme's, from a short session of its own."""

    async def whole() -> Any:
        async with session(world, account(world, "crawler")) as client:
            return await steps(client)

    return asyncio.run(whole())


def item_request(node: str = "serverinfo") -> ET.Element:
    return element("pubsub", PUBSUB, element("items", PUBSUB, node=node))


def published(world: World, instance: Instance) -> list[tuple[str | None, tuple[str, ...]]]:
    """The remote domains of the only item, in order: name or None, and the directions of the streams."""

    async def steps(client: Any) -> ET.Element:
        return await client.iq("get", instance.domain, item_request())

    answer = ask(world, steps)
    items = list(answer.iter(q("item", PUBSUB)))
    assert [item.get("id") for item in items] == ["current"]
    (domain,) = items[0].iter(q("domain", SERVERINFO))
    assert domain.get("name") == instance.domain
    return [
        (remote.get("name"), tuple(c.get("type", "") for c in remote.iter(q("connection", SERVERINFO))))
        for remote in domain.iter(q("remote-domain", SERVERINFO))
    ]


def names(world: World, instance: Instance) -> set[str | None]:
    return {name for name, _ in published(world, instance)}


def server_form(answer: ET.Element) -> list[dict[str | None, list[str | None]]]:
    """The forms of XEP-0157."""
    found = [
        {f.get("var"): [v.text for v in f.iter(q("value", DATA))] for f in form.iter(q("field", DATA))}
        for form in answer.iter(q("x", DATA))
    ]
    return [form for form in found if form.get("FORM_TYPE") == ["http://jabber.org/network/serverinfo"]]


def test_nothing_is_told_without_the_wish(linked: World) -> None:
    async def steps(client: Any) -> None:
        answer = await info(client, linked.acme.domain)
        assert SERVERINFO not in features(answer)
        (form,) = server_form(answer)
        assert form["abuse-addresses"] == [f"mailto:abuse@{linked.acme.domain}"]
        assert "serverinfo-pubsub-node" not in form
        items = await client.iq("get", linked.acme.domain, element("query", DISCO_ITEMS))
        assert "serverinfo" not in [i.get("node") for i in items.iter(q("item", DISCO_ITEMS))]
        with pytest.raises(StanzaError):
            await client.iq("get", linked.acme.domain, item_request())

    ask(linked, steps)


def test_it_is_announced_and_found_as_the_xep_says(linked: World) -> None:
    linked.acme.change(publish_links=True)
    domain = linked.acme.domain

    async def steps(client: Any) -> None:
        answer = await info(client, domain)
        assert SERVERINFO in features(answer)
        (form,) = server_form(answer)  # XEP-0485: one form with that of XEP-0157
        assert form["serverinfo-pubsub-node"] == [f"xmpp:{domain}?;node=serverinfo"]
        assert form["abuse-addresses"] == [f"mailto:abuse@{domain}"]
        leaf = await info(client, domain, "serverinfo")
        assert [(i.get("category"), i.get("type")) for i in leaf.iter(q("identity", DISCO_INFO))] == [
            ("pubsub", "leaf")
        ]
        items = await client.iq("get", domain, element("query", DISCO_ITEMS))
        assert (domain, "serverinfo") in [(i.get("jid"), i.get("node")) for i in items.iter(q("item", DISCO_ITEMS))]
        inside = await client.iq("get", domain, element("query", DISCO_ITEMS, node="serverinfo"))
        assert [i.get("name") for i in inside.iter(q("item", DISCO_ITEMS))] == ["current"]

    ask(linked, steps)


def test_a_peer_has_its_name_there_only_by_its_own_wish(linked: World) -> None:
    """And loses it when it takes the wish back."""
    acme, globex = linked.acme, linked.globex
    acme.change(publish_links=True)
    time.sleep(2)  # the first round has asked the peer
    found = published(linked, acme)
    assert {name for name, _ in found} == {None}
    assert {"incoming", "outgoing"} <= {direction for _, directions in found for direction in directions}
    globex.change(publish_links=True)
    assert until(lambda: globex.domain in names(linked, acme), seconds=30)
    assert until(lambda: acme.domain in names(linked, globex), seconds=30)
    globex.change(publish_links=False)
    assert until(lambda: names(linked, acme) == {None}, seconds=30)


def test_it_follows_the_links(linked: World) -> None:
    """A link that is closed is gone from the item, and told to whoever subscribed."""
    acme, globex = linked.acme, linked.globex
    acme.change(publish_links=True)
    assert until(lambda: published(linked, acme) != [], seconds=10)

    async def steps(client: Any) -> None:
        jid = linked.jid("crawler")
        wish = element("pubsub", PUBSUB, element("subscribe", PUBSUB, node="serverinfo", jid=jid))
        await client.iq("set", acme.domain, wish)
        await asyncio.to_thread(acme.control.close_s2s, acme.spec.domain, globex.spec.domain)
        told = await client.wait_message(lambda m: m.find(f".//{q('serverinfo', SERVERINFO)}") is not None)
        assert told.get("from") == acme.domain
        assert told.find(f".//{q('remote-domain', SERVERINFO)}") is None
        leave = element("pubsub", PUBSUB, element("unsubscribe", PUBSUB, node="serverinfo", jid=jid))
        await client.iq("set", acme.domain, leave)

    ask(linked, steps)


def test_nobody_else_writes_there(linked: World) -> None:
    linked.acme.change(publish_links=True)
    forged = element("serverinfo", SERVERINFO, element("domain", SERVERINFO, name="forged.example"))
    current = element("item", PUBSUB, id="current")

    async def steps(client: Any) -> None:
        domain = linked.acme.domain
        for request in (
            publish("serverinfo", forged),
            publish("another", forged),
            element("pubsub", PUBSUB, element("create", PUBSUB, node="another")),
            element("pubsub", PUBSUB, element("retract", PUBSUB, current, node="serverinfo")),
        ):
            with pytest.raises(StanzaError):
                await client.iq("set", domain, request)
        for verb in ("configure", "delete", "purge", "affiliations"):
            owner = f"{PUBSUB}#owner"
            with pytest.raises(StanzaError):
                await client.iq("set", domain, element("pubsub", owner, element(verb, owner, node="serverinfo")))

    ask(linked, steps)
    assert "forged.example" not in names(linked, linked.acme)


def test_it_is_there_again_after_a_restart(linked: World) -> None:
    acme = linked.acme
    acme.change(publish_links=True)
    assert until(lambda: published(linked, acme) != [], seconds=10)
    acme.restart()
    assert published(linked, acme) is not None
    acme.control.ping(linked.globex.spec.domain)
    assert until(lambda: published(linked, acme) != [], seconds=15)
