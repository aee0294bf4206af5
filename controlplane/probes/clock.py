"""The walk's watch: what time the server has (XEP-0202). Archives, TURN credentials and certificates depend on it."""

from __future__ import annotations

import asyncio
import datetime
import time
from xml.etree import ElementTree as ET

from controlplane.probes.client import StanzaError, q
from controlplane.probes.report import Failed, Finding, Skipped
from controlplane.probes.subject import Journey

TIME = "urn:xmpp:time"
#: TURN credentials and TLS forgive less than this; delays on the way are far below it.
MOST_S = 60.0


async def clock(journey: Journey) -> Finding:
    """The server's time is compared with this machine's; one that does not tell it is left alone."""
    session, loop = journey.session, asyncio.get_running_loop()
    start = loop.time()
    try:
        answer = await session.iq("get", journey.domain, ET.Element(q("time", TIME)))
    except StanzaError:
        raise Skipped("The server does not tell its time.") from None
    round_trip_s = loop.time() - start
    said = answer.findtext(f".//{q('utc', TIME)}") or ""
    try:
        theirs = datetime.datetime.fromisoformat(said).timestamp()
    except ValueError:
        raise Skipped(f"The server tells its time as {said[:40]!r}.") from None
    off_s = theirs - (time.time() - round_trip_s / 2)
    if abs(off_s) > MOST_S + round_trip_s:
        raise Failed(
            f"The server's clock is {describe(off_s)}.",
            remedy="Have its machine keep time by NTP.",
            details={"off_s": round(off_s, 1), "cause": "ClockOff"},
        )
    return Finding(f"The server's clock is right to {abs(off_s) + round_trip_s:.0f} s.", {"off_s": round(off_s, 1)})


def describe(off_s: float) -> str:
    """ "3600 s ahead", "3600 s behind"."""
    return f"{abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}"
