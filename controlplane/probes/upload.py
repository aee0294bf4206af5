"""The walk's file: ask for a slot, put, get back, compare (XEP-0363).

A client cannot take an uploaded file back: the few bytes stay until the server's expiry takes them.
"""

from __future__ import annotations

import os
import uuid
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from controlplane.probes import https
from controlplane.probes.c2s import UPLOAD
from controlplane.probes.client import q
from controlplane.probes.report import Blocked, Failed, Finding
from controlplane.probes.subject import STEP_TIMEOUT_S, Journey
from controlplane.probes.tls import HTTPS

FILE_BYTES = 256
#: The only headers that a client takes over from a slot (XEP-0363 §5).
ALLOWED_HEADERS = {"authorization", "cookie", "expires"}


async def upload(journey: Journey) -> Finding:
    session = journey.session
    journey.needs(UPLOAD, "file upload")
    data, component = os.urandom(FILE_BYTES), journey.subject.components.upload.ascii
    request = ET.Element(
        q("request", UPLOAD),
        {
            "filename": f"roost-{uuid.uuid4().hex[:8]}.bin",
            "size": str(len(data)),
            "content-type": "application/octet-stream",
        },
    )
    slot = await session.iq("get", component, request)
    put, get = slot.find(f".//{q('put', UPLOAD)}"), slot.find(f".//{q('get', UPLOAD)}")
    if put is None or get is None or not put.get("url") or not get.get("url"):
        raise Failed(f"{component} gave a slot without addresses.", remedy="Check its external URL.")
    headers = {
        name: (header.text or "").strip()
        for header in put.iter(q("header", UPLOAD))
        if (name := header.get("name", "")).lower() in ALLOWED_HEADERS
    }
    put_url, get_url = put.get("url", ""), get.get("url", "")
    if (urlsplit(put_url).hostname, HTTPS) in journey.refused:
        raise Blocked("The HTTPS port serves no trusted certificate.")
    answer = await _http(journey, "PUT", put_url, {**headers, "Content-Type": "application/octet-stream"}, data)
    if answer.status not in {200, 201, 204}:
        raise Failed(f"PUT to {put_url} was answered with {answer.status}.", remedy="See the server's log.")
    answer = await _http(journey, "GET", get_url, {}, b"")
    if answer.status != 200:
        raise Failed(f"GET of {get_url} was answered with {answer.status}.", remedy="See the server's log.")
    if answer.body != data:
        raise Failed(f"{get_url} gave other bytes than were put there.", remedy="Check what stands before the server.")
    return Finding(f"{len(data)} bytes were uploaded and came back.", {"url": get_url})


async def _http(journey: Journey, method: str, url: str, headers: dict[str, str], body: bytes) -> https.Answer:
    return await https.request(
        method,
        url,
        lookup=journey.lookup,
        roots_pem=journey.roots_pem,
        headers=headers,
        body=body,
        timeout_s=STEP_TIMEOUT_S,
    )
