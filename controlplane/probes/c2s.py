"""The walk's steps in a session of its own: log in, see what the server offers, find a message again in the archive.

What has to be on offer is the list below, the promise that Roost makes for every tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from controlplane.probes.client import ProbeClient, StanzaError, q
from controlplane.probes.lookup import CLIENT_SERVICES
from controlplane.probes.report import Blocked, Failed, Finding
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey

DISCO_INFO, DISCO_ITEMS = "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items"
MAM, FORWARD, DATA, RSM = "urn:xmpp:mam:2", "urn:xmpp:forward:0", "jabber:x:data", "http://jabber.org/protocol/rsm"

#: Where a feature has to be announced -> what -> how people call it. ``word`` in Journey.missing is the feature.
SERVER_FEATURES = {
    "urn:xmpp:carbons:2": "message carbons (XEP-0280)",
    "urn:xmpp:blocking": "blocking (XEP-0191)",
    "urn:xmpp:ping": "ping (XEP-0199)",
    "vcard-temp": "vCards (XEP-0054)",
    "http://jabber.org/protocol/disco#items": "service discovery (XEP-0030)",
}
ACCOUNT_FEATURES = {
    MAM: "the message archive (XEP-0313)",
    "http://jabber.org/protocol/pubsub#publish-options": "PEP with publish options (XEP-0163)",
    "http://jabber.org/protocol/pubsub#persistent-items": "PEP that keeps items (XEP-0222)",
}
EITHER_FEATURES = {"urn:xmpp:push:0": "push (XEP-0357)"}  # engines disagree about where it belongs
STREAM_FEATURES = {
    q("sm", "urn:xmpp:sm:3"): "stream management (XEP-0198)",
    q("csi", "urn:xmpp:csi:0"): "client state indication (XEP-0352)",
}
EXTDISCO = "urn:xmpp:extdisco:2"
MUC, UPLOAD, BYTESTREAMS = (
    "http://jabber.org/protocol/muc",
    "urn:xmpp:http:upload:0",
    "http://jabber.org/protocol/bytestreams",
)


@dataclass(frozen=True, slots=True)
class Info:
    """A disco#info answer. ``identities``: "category/type"."""

    identities: frozenset[str]
    features: frozenset[str]


async def login(journey: Journey) -> Finding:
    """SCRAM through whatever endpoint SRV puts first; the session stays open for the steps after it."""
    usable = [service for service in CLIENT_SERVICES if (journey.domain, service) in journey.trusted]
    if not usable:
        raise Blocked("No client port serves a trusted certificate.")
    subject = journey.subject
    client = ProbeClient(
        f"{subject.account}@{journey.domain}",
        subject.password,
        trust_roots=journey.roots_pem,
        services=usable,
        timeout_s=STEP_TIMEOUT_S,
        lookup=journey.lookup,
    )
    try:
        await client.connect()
    except BaseException:
        await client.close()
        raise
    journey.client = client
    # Available, so that nothing for this account is kept for later as an offline message.
    await client.send_presence()
    return Finding(
        f"Logged in as {client.jid} through {client.endpoint}.",
        {"jid": client.jid, "endpoint": str(client.endpoint), "mechanism": client.mechanism},
    )


async def disco(journey: Journey) -> Finding:
    """Everything that has to be offered, or ``Failed`` with the names of what is missing."""
    session, components = journey.session, journey.subject.components
    (server, account, items), services = await asyncio.gather(
        asyncio.gather(
            info(session, journey.domain),
            info(session, session.bare_jid),
            session.iq("get", journey.domain, ET.Element(q("query", DISCO_ITEMS))),
        ),
        asyncio.gather(*(_component(session, name.ascii) for name in components.all())),
    )
    missing: dict[str, str] = {}  # word -> name for people
    for wanted, offered in (
        (SERVER_FEATURES, server.features),
        (ACCOUNT_FEATURES, account.features),
        (EITHER_FEATURES, server.features | account.features),
        (STREAM_FEATURES, session.stream_features),
    ):
        missing |= {feature: name for feature, name in wanted.items() if feature not in offered}
    if "pubsub/pep" not in account.identities:
        missing["pep"] = "PEP (XEP-0163)"
    if journey.subject.turn and EXTDISCO not in server.features:
        missing[EXTDISCO] = "external services (XEP-0215)"
    listed = {item.get("jid") for item in items.iter(q("item", DISCO_ITEMS))}
    for name, found, feature, title in zip(
        components.all(),
        services,
        (MUC, UPLOAD, BYTESTREAMS),
        ("rooms (XEP-0045)", "file upload (XEP-0363)", "the file transfer proxy (XEP-0065)"),
        strict=True,
    ):
        if name.ascii in listed and found is not None and feature in found.features:
            continue
        journey.missing.add(feature)
        if found is not None or (name.ascii, "xmpp-server") not in journey.refused:  # else tls told of it
            missing[feature] = f"{title} at {name}"
    journey.missing |= missing.keys()
    details = {
        "server": sorted(server.features),
        "account": sorted(account.features),
        "components": {
            str(n): sorted(f.features) if f else None for n, f in zip(components.all(), services, strict=True)
        },
        "missing": sorted(missing),
    }
    if missing:
        raise Failed(
            f"Missing: {', '.join(missing.values())}.",
            remedy="Enable it in the server's configuration.",
            details=details,
        )
    return Finding("Everything that a tenant's server has to offer is announced.", details)


async def info(session: ProbeClient, jid: str) -> Info:
    """disco#info of ``jid`` (XEP-0030 §3)."""
    answer = await session.iq("get", jid, ET.Element(q("query", DISCO_INFO)))
    return Info(
        frozenset(f"{e.get('category')}/{e.get('type')}" for e in answer.iter(q("identity", DISCO_INFO))),
        frozenset(e.get("var", "") for e in answer.iter(q("feature", DISCO_INFO))),
    )


async def _component(session: ProbeClient, jid: str) -> Info | None:
    with contextlib.suppress(StanzaError):
        return await info(session, jid)
    return None


async def archive(journey: Journey) -> Finding:
    """A message to oneself has to turn up in the archive (XEP-0313 §4)."""
    session = journey.session
    journey.needs(MAM, "the message archive")
    body = f"roost check {uuid.uuid4().hex}"
    await session.send_message(session.bare_jid, body)
    rounds = await find_archived(session, "", body, with_=session.bare_jid)
    return Finding("A message was found again in the archive.", {"queries": rounds})


async def find_archived(session: ProbeClient, archive_jid: str, body: str, *, with_: str = "") -> int:
    """Ask for the archive's last page until a message with this body is in it; how often it was asked.

    ``archive_jid``: the room, or "" for the account's own. Raises ``Failed`` when it stays away.
    """
    delays = (0.0, 0.1, 0.3, 0.6, 1.0, 1.5)
    for number, delay in enumerate(delays, 1):
        await asyncio.sleep(delay)
        if body in await _last_page(session, archive_jid, with_):
            return number
    raise Failed(
        f"The archive of {archive_jid or session.bare_jid} does not hold a message sent {sum(delays):g} s ago.",
        remedy="See that archiving is on by default and that its storage works.",
    )


async def _last_page(session: ProbeClient, archive_jid: str, with_: str) -> list[str]:
    """The bodies of the archive's newest 10 messages (XEP-0313 §3, XEP-0059 §2.5)."""
    id = uuid.uuid4().hex
    query = ET.Element(q("query", MAM), queryid=id)
    form = ET.SubElement(query, q("x", DATA), type="submit")
    add_field(form, "FORM_TYPE", MAM, type="hidden")
    if with_:
        add_field(form, "with", with_)
    page = ET.SubElement(query, q("set", RSM))
    ET.SubElement(page, q("max", RSM)).text = "10"
    ET.SubElement(page, q("before", RSM))
    await session.iq("set", archive_jid, query)
    results = session.collect(lambda e: any(r.get("queryid") == id for r in e.iter(q("result", MAM))))
    return [body.text or "" for message in results for body in _bodies(message)]


def _bodies(message: ET.Element) -> Iterable[ET.Element]:
    for forwarded in message.iter(q("forwarded", FORWARD)):
        yield from forwarded.iter(q("body"))


def add_field(form: ET.Element, var: str, value: str, *, type: str = "") -> None:
    """One field of a data form (XEP-0004 §3.2)."""
    field = ET.SubElement(form, q("field", DATA), var=var)
    if type:
        field.set("type", type)
    ET.SubElement(field, q("value", DATA)).text = value
