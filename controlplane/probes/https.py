"""One HTTPS request through a given resolver and given trust roots, cancellable and bounded.

For the upload and host-meta checks: no redirects, no cookies, no proxies. The standard library parses the
answer; what it means is left to the caller.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from controlplane.probes import trust
from controlplane.probes.lookup import Endpoint, Lookup
from controlplane.probes.streams import NoRoute, wording
from controlplane.values.errors import Rejected, Unavailable

MAX_ANSWER_BYTES = 1024 * 1024
_SAFE = re.compile(r"^[\x20-\x7e]*$")


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Buffer:
    """The least that ``http.client`` wants of a socket: something to read an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def request(
    method: str,
    url: str,
    *,
    lookup: Lookup,
    roots_pem: str | None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_s: float = 5.0,
) -> Answer:
    """Raises ``Rejected`` for a URL that is not https or a refused certificate, ``Unavailable`` for no answer."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise Rejected(f"{url!r} is no https address.", remedy="Set the server's external URL to https.")
    port = parts.port or 443
    addresses = await lookup.addresses(parts.hostname)
    if not addresses:
        raise Rejected(f"{parts.hostname} has no address.", remedy="Publish its A or AAAA record.")
    target = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
    host = parts.hostname if port == 443 else f"{parts.hostname}:{port}"
    lines = {"Host": host, "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    if not all(_SAFE.match(text) for text in (target, *lines, *lines.values())) or " " in target:
        raise Rejected(f"{url!r} or the headers to send with it hold characters that HTTP has no place for.")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    last: Unavailable | None = None
    for address in addresses:
        endpoint = Endpoint("https", parts.hostname, address, port)
        try:
            raw = await _exchange(endpoint, roots_pem, head.encode() + body, timeout_s)
        except NoRoute as error:
            last = last or error
        except Unavailable as error:
            last = error
        else:
            return _parse(method, endpoint, raw)
    assert last is not None
    raise last


async def _exchange(endpoint: Endpoint, roots_pem: str | None, data: bytes, timeout_s: float) -> bytes:
    """Send and read to the end of the connection."""

    async def run() -> bytes:
        reader, writer = await asyncio.open_connection(
            endpoint.address,
            endpoint.port,
            ssl=trust.client_context(roots_pem, trust.HTTP),
            server_hostname=endpoint.target,
        )
        try:
            writer.write(data)
            await writer.drain()
            received = b""
            while chunk := await reader.read(65536):
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    raise Rejected(f"{endpoint} answered with more than {MAX_ANSWER_BYTES} bytes.")
            return received
        finally:
            writer.transport.abort()

    with wording(str(endpoint), endpoint.target):
        return await asyncio.wait_for(run(), timeout_s)


def _parse(method: str, endpoint: Endpoint, raw: bytes) -> Answer:
    response = http.client.HTTPResponse(cast(Any, _Buffer(raw)), method=method)
    try:
        response.begin()
        body = response.read()
    except http.client.HTTPException as error:
        raise Rejected(f"{endpoint} gave no proper HTTP answer: {type(error).__name__}.") from error
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
