"""The walk's browser: host-meta has to lead a web client to a WebSocket or BOSH endpoint that answers (XEP-0156).

Every endpoint that is announced is tried: a dead one in the list costs a client its patience.
"""

from __future__ import annotations

import asyncio
import json
import os
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from controlplane.probes import https, websocket
from controlplane.probes.report import Blocked, Failed, Finding, Skipped
from controlplane.probes.streams import STREAM_NS
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey
from controlplane.probes.tls import HTTPS

WEBSOCKET_REL, BOSH_REL = "urn:xmpp:alt-connections:websocket", "urn:xmpp:alt-connections:xbosh"
XRD_NS = "http://docs.oasis-open.org/ns/xri/xrd-1.0"
BOSH_NS, XBOSH_NS = "http://jabber.org/protocol/httpbind", "urn:xmpp:xbosh"


async def host_meta(journey: Journey) -> Finding:
    """XRD and, if it is there, JSON have to say the same; then everything they announce has to answer."""
    journey.needs_dns()
    if not await journey.has_web():
        raise Skipped("The domain's own address is not this server's.")
    if not await journey.lookup.addresses(journey.domain):
        raise Failed(f"{journey.domain} has no address.", remedy="Publish its A or AAAA record, for web clients.")
    if (journey.domain, HTTPS) in journey.refused:
        raise Blocked("The HTTPS port serves no trusted certificate.")
    port = journey.subject.https_port
    base = f"https://{journey.domain}{'' if port == 443 else f':{port}'}/.well-known/host-meta"
    xrd, other = await asyncio.gather(_get(journey, base), _get(journey, f"{base}.json"))
    if xrd.status != 200:
        raise Failed(f"{base} was answered with {xrd.status}.", remedy="Have the server publish host-meta (XEP-0156).")
    links = _xrd_links(xrd.body, base)
    if other.status == 200 and _json_links(other.body, f"{base}.json") != links:
        raise Failed(f"{base} and its JSON form say different things.", remedy="Render both from one list.")
    if not links:
        raise Failed(f"{base} announces neither WebSocket nor BOSH.", remedy="Add the links of XEP-0156.")
    details = {"links": sorted(f"{rel} {href}" for rel, href in links), "json": other.status == 200}
    for rel, href in sorted(links):
        await (_websocket if rel == WEBSOCKET_REL else _bosh)(journey, href)
    return Finding(f"host-meta leads to {len(links)} endpoints, and all of them answer.", details)


async def _get(journey: Journey, url: str) -> https.Answer:
    return await https.request("GET", url, lookup=journey.lookup, roots_pem=journey.roots_pem, timeout_s=STEP_TIMEOUT_S)


def _xrd_links(body: bytes, url: str) -> set[tuple[str, str]]:
    try:
        root = ET.fromstring(body)  # noqa: S314  # expat caps what entities expand to
    except ET.ParseError as error:
        raise Failed(f"{url} is no XML: {error}.") from None
    return _wanted((link.get("rel"), link.get("href")) for link in root.iter(f"{{{XRD_NS}}}Link"))


def _json_links(body: bytes, url: str) -> set[tuple[str, str]]:
    try:
        links = json.loads(body)["links"]
        return _wanted((link.get("rel"), link.get("href")) for link in links)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed(f"{url} is no list of links in JSON.") from None


def _wanted(pairs: object) -> set[tuple[str, str]]:
    return {(rel, href) for rel, href in pairs if rel in {WEBSOCKET_REL, BOSH_REL} and href}  # type: ignore[attr-defined]


async def _websocket(journey: Journey, href: str) -> None:
    await websocket.open_stream(
        href, journey.domain, lookup=journey.lookup, roots_pem=journey.roots_pem, timeout_s=STEP_TIMEOUT_S
    )


async def _bosh(journey: Journey, href: str) -> None:
    """Ask for a session (XEP-0124 §7.1, XEP-0206 §3) and end it at once."""
    rid = int.from_bytes(os.urandom(4), "big")
    answer = await _post(
        journey,
        href,
        f"<body xmlns='{BOSH_NS}' rid='{rid}' to={quoteattr(journey.domain)} xml:lang='en' wait='2' hold='1' ver='1.6'"
        f" content='text/xml; charset=utf-8' xmpp:version='1.0' xmlns:xmpp='{XBOSH_NS}'/>",
    )
    sid = answer.get("sid")
    if not sid or answer.find(f"{{{STREAM_NS}}}features") is None:
        raise Failed(f"{href} opened no BOSH session.", remedy="See the server's log.")
    await _post(journey, href, f"<body xmlns='{BOSH_NS}' rid='{rid + 1}' sid={quoteattr(sid)} type='terminate'/>")


async def _post(journey: Journey, url: str, body: str) -> ET.Element:
    answer = await https.request(
        "POST",
        url,
        lookup=journey.lookup,
        roots_pem=journey.roots_pem,
        headers={"Content-Type": "text/xml; charset=utf-8"},
        body=body.encode(),
        timeout_s=STEP_TIMEOUT_S,
    )
    if answer.status != 200:
        raise Failed(f"{url} was answered with {answer.status}.", remedy="Enable BOSH in the server's configuration.")
    try:
        return ET.fromstring(answer.body)  # noqa: S314  # expat caps what entities expand to
    except ET.ParseError as error:
        raise Failed(f"{url} answered with no XML: {error}.") from None
