"""The walk's room: make one, speak in it, find that in its archive, destroy it (XEP-0045, XEP-0313).

The room is not persistent, so it goes with its only occupant when the walk is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from xml.etree import ElementTree as ET

from controlplane.probes.c2s import DATA, MUC, add_field, find_archived
from controlplane.probes.client import ProbeClient, q
from controlplane.probes.report import Failed, Finding
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey
from controlplane.values.errors import RoostError

MUC_USER, MUC_OWNER = f"{MUC}#user", f"{MUC}#owner"
NICK = "roost"


async def muc(journey: Journey) -> Finding:
    session = journey.session
    journey.needs(MUC, "rooms")
    room = f"roost-check-{uuid.uuid4().hex[:12]}@{journey.subject.components.muc}"
    try:
        await _create(session, room)
        body = f"roost check {uuid.uuid4().hex}"
        await session.send_message(room, body, type="groupchat")
        echo = await session.wait_message(lambda m: m.get("from") == f"{room}/{NICK}" and m.findtext(q("body")) == body)
        if echo.get("type") != "groupchat":
            raise Failed(f"{room} answered a message with an error.", remedy="See the server's log.")
        rounds = await find_archived(session, room, body)
    except BaseException:
        # Shielded and bounded: a step that is cut off leaves no room behind either.
        with contextlib.suppress(RoostError, TimeoutError):
            await asyncio.wait_for(asyncio.shield(_destroy(session, room)), 1.0)
        raise
    await _destroy(session, room)
    return Finding("A room was made, its message archived, and the room destroyed.", {"room": room, "queries": rounds})


async def _create(session: ProbeClient, room: str) -> None:
    """Join (§10.1.1) and configure (§10.1.3) by changing nothing but persistence and listing."""
    await session.send_presence(ET.Element(q("x", MUC)), to=f"{room}/{NICK}")
    presence = await session.wait_presence(
        lambda p: (
            (p.get("from") or "").partition("/")[0] == room and (p.get("type") == "error" or "110" in _statuses(p))
        ),
        timeout_s=STEP_TIMEOUT_S,
    )
    if presence.get("type") == "error":
        error = presence.find(q("error"))
        condition = next((e.tag.partition("}")[2] for e in error), "?") if error is not None else "?"
        raise Failed(f"{room} cannot be entered: {condition}.", remedy="See who may create rooms.")
    if "201" not in _statuses(presence):
        raise Failed(f"{room} was there before it was made.", remedy="See the server's log.")
    query = ET.Element(q("query", MUC_OWNER))
    form = ET.SubElement(query, q("x", DATA), type="submit")
    add_field(form, "FORM_TYPE", f"{MUC}#roomconfig", type="hidden")
    for name in ("persistentroom", "publicroom"):
        add_field(form, f"muc#roomconfig_{name}", "0", type="boolean")
    await session.iq("set", room, query)


async def _destroy(session: ProbeClient, room: str) -> None:
    """§10.9: room, archive and all."""
    query = ET.Element(q("query", MUC_OWNER))
    ET.SubElement(query, q("destroy", MUC_OWNER))
    await session.iq("set", room, query)


def _statuses(presence: ET.Element) -> set[str]:
    return {status.get("code", "") for status in presence.iter(q("status", MUC_USER))}
