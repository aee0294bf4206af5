"""A bare XML stream for looking at a server from outside: open, read features, switch to TLS, look at the certificate.

It logs in nowhere. The c2s and s2s probes stand on it; what they see is for them to put into words.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

from cryptography import x509

from controlplane.probes import trust
from controlplane.probes.lookup import Endpoint
from controlplane.values.errors import Rejected, RoostError, Unavailable

STREAM_NS = "http://etherx.jabber.org/streams"
TLS_NS = "urn:ietf:params:xml:ns:xmpp-tls"
STREAM_ERROR_NS = "urn:ietf:params:xml:ns:xmpp-streams"
#: More than this before the first features is no XMPP server.
MAX_BYTES = 256 * 1024
#: Errors of this machine's own network, which say nothing about the server.
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class NoRoute(Unavailable):
    """This machine has no way to that kind of address (IPv6 mostly): nothing is known of the server."""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a server showed in a handshake that was verified. ``serial``: hexadecimal, upper case."""

    serial: str
    not_after: str
    names: tuple[str, ...]
    tls_version: str

    @classmethod
    def of(cls, tls: ssl.SSLObject) -> PeerCertificate:
        shown: dict[str, Any] = tls.getpeercert() or {}
        names = tuple(str(value) for _, value in shown.get("subjectAltName", ()))
        return cls(
            normal_serial(str(shown.get("serialNumber", ""))),
            str(shown.get("notAfter", "")),
            names,
            tls.version() or "",
        )


def normal_serial(text: str) -> str:
    """A hexadecimal serial number in one form: upper case, no colons, no leading zeros."""
    return text.replace(":", "").strip().upper().lstrip("0") or "0"


class RawStream:
    """One connection. All methods raise ``Unavailable`` or ``Rejected``, worded for ``where``."""

    def __init__(self, where: str, domain: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._where = where
        self._domain = domain
        self._reader = reader
        self._writer = writer
        self._parser: Any = ET.XMLPullParser(("start", "end"))  # typeshed types all of its events as one union
        self._depth = 0
        self._read = 0

    @classmethod
    async def dial(
        cls, endpoint: Endpoint, domain: str, *, context: ssl.SSLContext | None = None, timeout_s: float = 5.0
    ) -> Self:
        """Connect; with a ``context`` do TLS at once and check for ``domain``."""
        where = str(endpoint)
        with wording(where, domain):
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    endpoint.address,
                    endpoint.port,
                    ssl=context,
                    server_hostname=domain if context else None,
                    limit=MAX_BYTES,
                ),
                timeout_s,
            )
        return cls(where, domain, reader, writer)

    async def open(self, namespace: str, *, from_: str = "", extra: str = "") -> ET.Element:
        """Send a stream header to the domain and read the features (RFC 6120 §4.3). ``extra``: xmlns attributes."""
        sender = f" from={quoteattr(from_)}" if from_ else ""
        header = (
            f"<?xml version='1.0'?><stream:stream to={quoteattr(self._domain)}{sender} version='1.0' xml:lang='en'"
            f" xmlns={quoteattr(namespace)} xmlns:stream='{STREAM_NS}'{extra}>"
        )
        self._parser = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        with wording(self._where, self._domain):
            self._writer.write(header.encode())
        return await self.expect(f"{{{STREAM_NS}}}features")

    async def expect(self, tag: str) -> ET.Element:
        """The next top-level element, which has to be this one."""
        element = await self._next()
        if element.tag == f"{{{STREAM_NS}}}error":
            parts = {e.tag.partition("}")[2]: e.text for e in element if e.tag.startswith(f"{{{STREAM_ERROR_NS}}}")}
            text = parts.pop("text", "")
            condition = next(iter(parts), "?") + (f" ({text})" if text else "")
            raise Rejected(f"{self._where}: the stream was ended with {condition}.", remedy="See the server's log.")
        if element.tag != tag:
            raise Rejected(f"{self._where} sent {element.tag} where {tag} belongs.")
        return element

    async def _next(self) -> ET.Element:
        with wording(self._where, self._domain):
            while True:
                event: str
                element: ET.Element
                for event, element in self._parser.read_events():
                    self._depth += 1 if event == "start" else -1
                    if event == "end" and self._depth == 1:
                        return element
                    if event == "end" and self._depth == 0:
                        raise EOFError
                data = await self._reader.read(16384)
                self._read += len(data)
                if not data or self._read > MAX_BYTES:
                    raise EOFError
                self._parser.feed(data)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """STARTTLS (RFC 6120 §5.4) and the certificate check for the domain."""
        with wording(self._where, self._domain):
            self._writer.write(f"<starttls xmlns='{TLS_NS}'/>".encode())
        await self.expect(f"{{{TLS_NS}}}proceed")
        with wording(self._where, self._domain):
            await self._writer.start_tls(context, server_hostname=self._domain)

    @property
    def tls(self) -> ssl.SSLObject:
        found = self._writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    def close(self) -> None:
        """End it without ceremony."""
        self._writer.transport.abort()


@contextlib.contextmanager
def wording(where: str, domain: str) -> Iterator[None]:
    """Errors of sockets, TLS and XML parsing -> ``Unavailable`` or ``Rejected`` with the place in the message."""
    try:
        yield
    except RoostError:
        raise
    except ET.ParseError as error:
        raise Rejected(f"{where} does not speak XML: {error}.", remedy="Check what listens on that port.") from error
    except (OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROUTE:
            raise NoRoute(f"{where} cannot be reached from here: {error.strerror}.") from error
        what, remedy = trust.explain(error, domain)
        kind = Rejected if isinstance(error, ssl.SSLCertVerificationError) else Unavailable
        raise kind(f"{where}: {what}.", remedy=remedy) from error


async def negotiate_tls(
    endpoint: Endpoint, domain: str, context: ssl.SSLContext, namespace: str, *, from_: str = "", timeout_s: float = 5.0
) -> RawStream:
    """A stream to ``endpoint`` under TLS, by direct TLS or STARTTLS as its service says; not yet opened again.

    The caller closes it. Raises ``Rejected`` when no STARTTLS is offered or the certificate is refused.
    """

    async def run() -> RawStream:
        stream = await RawStream.dial(
            endpoint, domain, context=context if endpoint.direct_tls else None, timeout_s=timeout_s
        )
        if endpoint.direct_tls:
            return stream
        try:
            features = await stream.open(namespace, from_=from_)
            if features.find(f"{{{TLS_NS}}}starttls") is None:
                raise Rejected(
                    f"{endpoint} offers no STARTTLS.", remedy="Give the server a certificate for the domain."
                )
            await stream.start_tls(context)
        except BaseException:
            stream.close()
            raise
        return stream

    with wording(str(endpoint), domain):
        return await asyncio.wait_for(run(), timeout_s)


async def look_at_certificate(
    endpoint: Endpoint, domain: str, namespace: str, *, timeout_s: float = 5.0
) -> dict[str, str]:
    """What a refused certificate says of itself, for the message; empty when it cannot be had."""
    alpn = {"jabber:client": trust.XMPP_CLIENT, "jabber:server": trust.XMPP_SERVER}.get(namespace, trust.HTTP)
    try:
        stream = await negotiate_tls(
            endpoint, domain, trust.blind_context(alpn if endpoint.direct_tls else None), namespace, timeout_s=timeout_s
        )
    except RoostError:
        return {}
    try:
        return describe(stream.tls.getpeercert(True) or b"")
    finally:
        stream.close()


def describe(der: bytes) -> dict[str, str]:
    """Names, issuer and end of a DER certificate, unverified."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names: list[str] = []
        with contextlib.suppress(x509.ExtensionNotFound):
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = alternative.value.get_values_for_type(x509.DNSName)
    except ValueError:
        return {}
    return {
        "names": ", ".join(names) or "none",
        "issuer": certificate.issuer.rfc4514_string(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }
