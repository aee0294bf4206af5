"""The walk's stranger: a ping to another server and its answer, over a link in each direction (XEP-0199)."""

from __future__ import annotations

import asyncio
from xml.etree import ElementTree as ET

from controlplane.probes.client import StanzaError, q
from controlplane.probes.report import Failed, Finding, Skipped
from controlplane.probes.subject import Journey

PING = "urn:xmpp:ping"
PING_TIMEOUT_S = 12.0  # a new link has look-ups, two handshakes and perhaps dialback to do


async def s2s(journey: Journey) -> Finding:
    """Only a result counts: an error may come from the own server, which then never reached the peer."""
    peer = journey.subject.peer
    if peer is None:
        raise Skipped("There is no peer to ask.")
    session, loop = journey.session, asyncio.get_running_loop()
    start = loop.time()
    try:
        await session.iq("get", peer.ascii, ET.Element(q("ping", PING)), timeout_s=PING_TIMEOUT_S)
    except StanzaError as error:
        raise Failed(
            f"No answer from {peer}: {error.condition}.",
            remedy="See both servers' logs for the link between them.",
            details={"peer": str(peer), "condition": error.condition},
        ) from None
    return Finding(f"{peer} answered over s2s.", {"peer": str(peer), "round_trip_s": round(loop.time() - start, 4)})
