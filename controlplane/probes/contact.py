"""One cheap connection to one port: connect, open a stream, do TLS and look at the certificate, ask once, go.

Bytes are looked at as they come, without a parser and without asyncio's own TLS: a handshake is nearly all it costs.
Every handshake is a full one, since a resumed session would not show which certificate is served now. It says at
which stage something went wrong; causes are ``quick``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass, field
from typing import Any, cast
from xml.sax.saxutils import quoteattr

from controlplane.probes.lookup import Endpoint
from controlplane.probes.streams import NO_ROUTE, STREAM_NS, TLS_NS

TIMEOUT_S = 5.0
MAX_BYTES = 128 * 1024

#: How far a contact came. FEATURES: after TLS, on clients' ports and for the web's answer.
CONNECT, STREAM, TLS, FEATURES, DONE = "connect", "stream", "tls", "features", "done"

_FEATURES = re.compile(rb"</(?:[\w-]+:)?features\s*>|<(?:[\w-]+:)?features\s*/>")
_ERROR = re.compile(rb"<([a-z-]+)\s[^>]*urn:ietf:params:xml:ns:xmpp-streams")
_PROCEED = re.compile(rb"<(?:[\w-]+:)?proceed\b[^>]*?>(?:\s*</(?:[\w-]+:)?proceed\s*>)?")


class StreamRefused(Exception):
    """The server ended the stream with an error, whose word is the text."""


class NoStarttls(Exception):
    """The server offers no encryption on a port where it has to."""


@dataclass(slots=True)
class Seen:
    """What one contact saw. ``error`` with ``stage``: where it ended too early. Times in seconds."""

    endpoint: Endpoint
    name: str
    stage: str = CONNECT
    error: BaseException | None = None
    certificate: dict[str, Any] = field(default_factory=dict)
    text: bytes = b""  # the features after TLS, or the web's answer
    connect_s: float = 0.0
    stream_s: float = 0.0  # from connecting to the first features
    tls_s: float = 0.0
    total_s: float = 0.0

    @property
    def no_route(self) -> bool:
        """True if this machine has no way to that kind of address: nothing is known of the server."""
        return isinstance(self.error, OSError) and self.error.errno in NO_ROUTE


class _Contact(asyncio.Protocol):
    def __init__(self, seen: Seen, context: ssl.SSLContext, path: str, done: asyncio.Future[None]) -> None:
        self._seen = seen
        self._context = context
        self._path = path
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._mark = self._began
        self._buffer = b""
        self._read = 0
        self._proceeding = False
        self._tls: ssl.SSLObject | None = None
        self._shaken = False
        self._transport: asyncio.Transport | None = None
        service = seen.endpoint.service
        self._web = service == "https"
        self._direct = self._web or seen.endpoint.direct_tls
        self._client = service.endswith("-client")

    # -- what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        now = self._loop.time()
        self._seen.connect_s, self._mark = now - self._began, now
        if self._direct:
            self._begin_tls()
        else:
            self._seen.stage = STREAM
            self._send(self._header())

    def data_received(self, data: bytes) -> None:
        if self._done.done():
            return
        self._read += len(data)
        if self._read > MAX_BYTES:
            self._end(EOFError("more bytes than any server sends"))
        elif self._tls is not None:
            self._in.write(data)
            self._pump()
        else:
            self._buffer += data
            self._plain()

    def eof_received(self) -> bool:
        if self._web and self._seen.stage == FEATURES and self._buffer:
            self._finish(self._buffer)
        self._end(EOFError())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or EOFError())

    # -- stages

    def _plain(self) -> None:
        if self._stream_error():
            return
        if not self._proceeding:
            if not _FEATURES.search(self._buffer):
                return
            now = self._loop.time()
            self._seen.stream_s, self._mark = now - self._mark, now
            # From here on it is about encryption: a server that has nothing to serve closes at the request for it.
            self._seen.stage = TLS
            if TLS_NS.encode() not in self._buffer:
                self._end(NoStarttls())
                return
            self._proceeding, self._buffer = True, b""
            self._send(f"<starttls xmlns='{TLS_NS}'/>".encode())
            return
        found = _PROCEED.search(self._buffer)
        if found:
            if self._buffer[found.end() :].strip():
                self._end(ssl.SSLError("bytes in plain text after the word to go on"))
                return
            self._begin_tls()

    def _begin_tls(self) -> None:
        self._seen.stage = TLS
        self._buffer = b""
        self._mark = self._loop.time()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._in, self._out, server_hostname=self._seen.name)
        self._pump()

    def _pump(self) -> None:
        assert self._tls is not None
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._secured()
            if not self._done.done():
                while chunk := self._tls.read(65536):
                    self._buffer += chunk
                self._inside()
                if self._web and self._buffer and not self._done.done():
                    self._finish(self._buffer)
        except ssl.SSLWantReadError:
            self._flush()
            self._inside()
        except ssl.SSLError as error:
            self._flush()
            self._end(error)

    def _secured(self) -> None:
        assert self._tls is not None
        now = self._loop.time()
        self._seen.tls_s, self._mark = now - self._mark, now
        self._seen.certificate = dict(self._tls.getpeercert() or {})
        self._seen.stage = FEATURES
        if self._web:
            head = f"GET {self._path} HTTP/1.1\r\nHost: {self._seen.name}\r\nConnection: close\r\n\r\n"
            self._tls.write(head.encode())
        elif self._client:
            self._tls.write(self._header())
        else:
            self._finish(b"")
        self._flush()

    def _inside(self) -> None:
        if self._done.done() or not self._shaken or not self._buffer:
            return
        if self._web:
            head, end, body = self._buffer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
            if end and length and len(body) >= int(length[1]):
                self._finish(self._buffer)
        elif not self._stream_error() and _FEATURES.search(self._buffer):
            self._finish(self._buffer)

    # -- ends

    def _stream_error(self) -> bool:
        found = _ERROR.search(self._buffer)
        if found:
            self._end(StreamRefused(found[1].decode()))
        return found is not None

    def _finish(self, text: bytes) -> None:
        self._seen.text, self._seen.stage = text, DONE
        if self._tls is not None and self._client:
            with contextlib.suppress(ssl.SSLError):
                self._tls.write(b"</stream:stream>")
                self._flush()
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._done.done():
            return
        self._seen.error = error
        self._seen.total_s = self._loop.time() - self._began
        if self._transport is not None:
            self._transport.close()
        self._done.set_result(None)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _flush(self) -> None:
        if data := self._out.read():
            self._send(data)

    def _header(self) -> bytes:
        namespace = "jabber:client" if self._client else "jabber:server"
        return (
            f"<?xml version='1.0'?><stream:stream to={quoteattr(self._seen.name)} version='1.0' xml:lang='en'"
            f" xmlns='{namespace}' xmlns:stream='{STREAM_NS}'>"
        ).encode()


async def contact(
    endpoint: Endpoint, name: str, context: ssl.SSLContext, *, path: str = "/", timeout_s: float = TIMEOUT_S
) -> Seen:
    """Contact ``endpoint`` as a client or peer of ``name`` would. Never raises for what the server does.

    Connecting alone may take ``timeout_s``, and so may all that follows.
    """
    loop = asyncio.get_running_loop()
    seen = Seen(endpoint, name)
    done: asyncio.Future[None] = loop.create_future()
    began = loop.time()
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                lambda: _Contact(seen, context, path, done), endpoint.address, endpoint.port
            )
        async with asyncio.timeout(timeout_s):
            await done
    except (OSError, TimeoutError) as error:
        if not done.done() or done.cancelled():
            seen.error, seen.total_s = error, loop.time() - began
            done.cancel()
    finally:
        if transport is not None:
            cast(asyncio.Transport, transport).abort() if seen.error else transport.close()
    return seen
