"""XMPP over WebSocket, as far as a look needs it: shake hands, open a stream, read the features (RFC 7395, RFC 6455).

One short text frame out, whole frames in. A client for sessions it is not.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from controlplane.probes import trust
from controlplane.probes.lookup import Endpoint, Lookup
from controlplane.probes.streams import STREAM_NS, wording
from controlplane.values.errors import Rejected

FRAMING_NS = "urn:ietf:params:xml:ns:xmpp-framing"
MAX_FRAME_BYTES = 256 * 1024
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9


async def open_stream(
    url: str, domain: str, *, lookup: Lookup, roots_pem: str | None, timeout_s: float = 5.0
) -> ET.Element:
    """The <stream:features/> that a stream to ``domain`` gets at ``url`` (wss only).

    Raises ``Rejected`` or ``Unavailable``.
    """
    parts = urlsplit(url)
    if parts.scheme != "wss" or not parts.hostname:
        raise Rejected(f"{url!r} is no wss address.", remedy="Announce the encrypted endpoint.")
    addresses = await lookup.addresses(parts.hostname)
    if not addresses:
        raise Rejected(f"{parts.hostname} has no address.", remedy="Publish its A or AAAA record.")
    endpoint = Endpoint("wss", parts.hostname, addresses[0], parts.port or 443)
    path = parts.path + (f"?{parts.query}" if parts.query else "") or "/"

    async def run() -> ET.Element:
        reader, writer = await asyncio.open_connection(
            endpoint.address,
            endpoint.port,
            ssl=trust.client_context(roots_pem, trust.HTTP),
            server_hostname=endpoint.target,
            limit=MAX_FRAME_BYTES,
        )
        try:
            await _shake_hands(reader, writer, endpoint, path)
            header = f"<open xmlns='{FRAMING_NS}' to={quoteattr(domain)} version='1.0'/>"
            writer.write(_frame(_TEXT, header.encode()))
            opened = await _element(reader, endpoint)
            if opened.tag != f"{{{FRAMING_NS}}}open":
                raise Rejected(f"{endpoint} answered the opening with {opened.tag}.", remedy="See the server's log.")
            features = await _element(reader, endpoint)
            if features.tag != f"{{{STREAM_NS}}}features":
                raise Rejected(f"{endpoint} sent {features.tag} where the features belong.")
            writer.write(_frame(_CLOSE, struct.pack("!H", 1000)))
            return features
        finally:
            writer.transport.abort()

    with wording(str(endpoint), endpoint.target):
        return await asyncio.wait_for(run(), timeout_s)


async def _shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint, path: str
) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    host = endpoint.target if endpoint.port == 443 else f"{endpoint.target}:{endpoint.port}"
    if not path.isascii() or not path.isprintable() or " " in path:
        raise Rejected(f"{path!r} is no path of a WebSocket.")
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n".encode()
    )
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        raise Rejected(f"{endpoint} answered with an endless header.") from None
    status, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status.split(" ")[1:2] != ["101"]:
        raise Rejected(
            f"{endpoint} refused the WebSocket: {status}.", remedy="Enable it in the server's configuration."
        )
    accept = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()
    if headers.get("sec-websocket-accept") != accept or headers.get("sec-websocket-protocol", "").lower() != "xmpp":
        raise Rejected(f"{endpoint} does not speak XMPP over its WebSocket.", remedy="Check what the path leads to.")


async def _element(reader: asyncio.StreamReader, endpoint: Endpoint) -> ET.Element:
    """The next text message, which RFC 7395 §3.3 wants to be one whole element."""
    text = b""
    while True:
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await reader.readexactly(8))
        if second & 0x80 or length + len(text) > MAX_FRAME_BYTES:
            raise Rejected(f"{endpoint} sent a frame that no server sends.")
        payload = await reader.readexactly(length)
        opcode = first & 0x0F
        if opcode == _CLOSE:
            raise EOFError
        if opcode >= _CLOSE:
            continue  # ping and pong
        text += payload
        if first & 0x80:
            return ET.fromstring(text)  # noqa: S314  # expat caps what entities expand to


def _frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame of at most 125 bytes or 65,535 (RFC 6455 §5.2: what a client sends is masked)."""
    mask = os.urandom(4)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
