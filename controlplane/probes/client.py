"""A strict XMPP client for checks: finds the server by SRV, trusts by certificate, logs in by SCRAM only.

``ProbeClient`` is what the walk, the tests and the launcher's demonstration message talk through; it
sends and receives and judges nothing. ``deliver`` is the whole of "log both in, send, see it arrive" for
callers without an event loop. Needs slixmpp's core alone: none of its plugins is loaded.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree as ET

import slixmpp
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from controlplane.probes import trust
from controlplane.probes.login import Stream, watch_login
from controlplane.probes.lookup import CLIENT_SERVICES, Endpoint, Lookup
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.secret import Secret

CLIENT_NS = "jabber:client"


class StanzaError(Rejected):
    """The other side answered with an error stanza; ``condition`` is its RFC 6120 §8.3.3 word."""

    def __init__(self, message: str, *, condition: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.condition = condition


class ProbeClient:
    """One session of one account, for use inside an event loop.

    ::

        async with ProbeClient("a@acme.example", Secret("…"), resolver="192.0.2.53@53", trust_roots=pem) as client:
            sent = await client.send_message("b@globex.example", "hello")
            reply = await client.wait_message(lambda m: m.findtext(q("body")) == "hello back", timeout_s=5)

    ``resolver``: "address" or "address@port", None for the system's. ``trust_roots``: PEM text or a file's
    path, None for the system's. ``services``: the SRV services to try; one name alone pins STARTTLS
    ("xmpp-client") or direct TLS ("xmpps-client"). ``timeout_s`` bounds connecting and each request.

    There is no fall-back to the domain's own address when SRV records are missing, none to plain text and
    none to PLAIN: whatever a careful stranger's client would refuse is refused. The certificate has to
    name the JID's domain; the SRV target's name counts for nothing (RFC 6120 §13.7.2).

    ``connect`` raises ``Unavailable`` (no DNS answer, nothing listens, no answer in time) or ``Rejected``
    (no SRV record, certificate, SASL, stream error) with a message and remedy for a person.
    """

    def __init__(
        self,
        jid: str,
        password: Secret,
        *,
        resolver: str | None = None,
        trust_roots: str | None = None,
        services: Sequence[str] = CLIENT_SERVICES,
        timeout_s: float = 10.0,
        lookup: Lookup | None = None,
    ) -> None:
        self.requested = slixmpp.JID(jid)
        if not self.requested.resource:
            self.requested = slixmpp.JID(f"{jid}/roost-{uuid.uuid4().hex[:8]}")
        self._password = password
        self._lookup = lookup or Lookup(resolver, timeout_s=min(timeout_s, 5.0))
        self._roots = trust.roots_text(trust_roots)
        self._services = tuple(services)
        self.timeout_s = timeout_s
        self.endpoint: Endpoint | None = None
        self._stream: Stream | None = None
        self._inbox: list[ET.Element] = []
        self._waiting: list[tuple[Callable[[ET.Element], bool], asyncio.Future[ET.Element]]] = []

    @property
    def domain(self) -> str:
        return str(self.requested.domain)

    @property
    def jid(self) -> str:
        """The full JID that the server bound; before that the wanted one."""
        return str(self._stream.boundjid if self._stream else self.requested)

    @property
    def bare_jid(self) -> str:
        return str(self.requested.bare)

    @property
    def stream_features(self) -> frozenset[str]:
        """Tags ("{namespace}name") of the stream features offered after login."""
        return frozenset(e.tag for e in self._stream.offered) if self._stream else frozenset()

    @property
    def mechanism(self) -> str:
        """The SASL mechanism that logged this session in; empty without a session."""
        chosen = self._stream.plugin["feature_mechanisms"].mech if self._stream else None
        return str(chosen.name) if chosen is not None else ""

    @property
    def certificate(self) -> bytes:
        """The server's certificate in DER, as this session verified it; empty without a session."""
        socket = self._stream.socket if self._stream else None
        return (socket.getpeercert(True) or b"") if isinstance(socket, ssl.SSLObject | ssl.SSLSocket) else b""

    async def connect(self) -> None:
        """Find, dial, verify, log in and bind. Endpoints are tried in SRV order until one answers."""
        endpoints = await self._lookup.endpoints(self.domain, self._services)
        if not endpoints:
            names = " or ".join(f"_{service}._tcp.{self.domain}" for service in self._services)
            raise Rejected(
                f"{names} leads to no address.", remedy="Publish the SRV records and their targets' addresses."
            )
        last: RoostError | None = None
        for endpoint in endpoints:
            try:
                await asyncio.wait_for(self._open(endpoint), self.timeout_s)
            except Unavailable as error:  # the next one may answer; a refusal is final
                last = error
            except TimeoutError:
                last = Unavailable(f"{endpoint} did not finish the login within {self.timeout_s:g} s.")
            else:
                self.endpoint = endpoint
                return
            self._abort()
        assert last is not None
        raise last

    async def _open(self, endpoint: Endpoint) -> None:
        context = trust.client_context(self._roots, trust.XMPP_CLIENT if endpoint.direct_tls else None)
        stream = Stream(str(self.requested), self._password, context, direct_tls=endpoint.direct_tls)
        self._stream = stream
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watch_login(stream, endpoint, self.domain, ready)
        for kind in ("message", "presence"):
            stream.register_handler(Callback(f"every {kind}", MatchXPath(q(kind)), self._received))
        stream.connect(endpoint.address, endpoint.port)
        try:
            await ready
        except BaseException:
            self._abort()
            raise

    def _received(self, stanza: Any) -> None:
        element: ET.Element = stanza.xml
        for number, (wanted, future) in enumerate(self._waiting):
            if not future.done() and wanted(element):
                del self._waiting[number]
                future.set_result(element)
                return
        self._inbox.append(element)

    async def send_presence(self, payload: ET.Element | None = None, *, to: str = "", type: str = "") -> None:
        """A presence stanza; without arguments the initial one (RFC 6121 §4.2), which makes messages come in."""
        element = ET.Element(q("presence"))
        _set(element, to=to, type=type, id=uuid.uuid4().hex)
        if payload is not None:
            element.append(payload)
        self.send(element)

    async def send_message(self, to: str, body: str, *, type: str = "chat", id: str = "") -> str:
        """Send; returns the stanza's id. That it arrived only the receiver can tell."""
        element = ET.Element(q("message"))
        id = id or uuid.uuid4().hex
        _set(element, to=to, type=type, id=id)
        ET.SubElement(element, q("body")).text = body
        self.send(element)
        return id

    def send(self, element: ET.Element) -> None:
        """Any stanza, built with ``q()`` names. Raises ``Unavailable`` without a session."""
        if self._stream is None or self._stream.transport is None:
            raise Unavailable(f"{self.bare_jid} has no session.")
        # Straight to the transport: slixmpp's queue would hold strings back until its own session event.
        self._stream.send_raw(_serialise(element))

    async def wait_message(
        self, wanted: Callable[[ET.Element], bool] = lambda _: True, *, timeout_s: float | None = None
    ) -> ET.Element:
        """The first message (past ones included) for which ``wanted`` holds; it is taken out of the inbox.

        Raises ``Unavailable`` when none comes in time.
        """
        return await self.wait_stanza(lambda e: e.tag == q("message") and wanted(e), "message", timeout_s=timeout_s)

    async def wait_presence(
        self, wanted: Callable[[ET.Element], bool] = lambda _: True, *, timeout_s: float | None = None
    ) -> ET.Element:
        """As ``wait_message`` for presence stanzas."""
        return await self.wait_stanza(lambda e: e.tag == q("presence") and wanted(e), "presence", timeout_s=timeout_s)

    async def wait_stanza(
        self, wanted: Callable[[ET.Element], bool], what: str = "stanza", *, timeout_s: float | None = None
    ) -> ET.Element:
        """As ``wait_message`` for messages and presences; ``what`` is its name in the error."""
        for number, element in enumerate(self._inbox):
            if wanted(element):
                return self._inbox.pop(number)
        future: asyncio.Future[ET.Element] = asyncio.get_running_loop().create_future()
        entry = (wanted, future)
        self._waiting.append(entry)
        seconds = self.timeout_s if timeout_s is None else timeout_s
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise Unavailable(f"No such {what} reached {self.bare_jid} within {seconds:g} s.") from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def collect(self, wanted: Callable[[ET.Element], bool]) -> list[ET.Element]:
        """Take everything for which ``wanted`` holds out of the inbox, without waiting."""
        found = [element for element in self._inbox if wanted(element)]
        self._inbox = [element for element in self._inbox if element not in found]
        return found

    async def iq(self, type: str, to: str, payload: ET.Element, *, timeout_s: float | None = None) -> ET.Element:
        """One IQ round trip (``type``: get or set); the whole result stanza.

        Raises ``StanzaError`` for an error answer and ``Unavailable`` for none in time.
        """
        if self._stream is None or self._stream.transport is None:
            raise Unavailable(f"{self.bare_jid} has no session.")
        seconds = self.timeout_s if timeout_s is None else timeout_s
        stanza = self._stream.Iq()
        stanza["type"] = type
        if to:
            stanza["to"] = to
        stanza.append(payload)
        try:
            answer = await stanza.send(timeout=seconds)  # type: ignore[no-untyped-call]  # slixmpp has no types here
        except IqTimeout:
            raise Unavailable(f"{to or self.domain} did not answer within {seconds:g} s.") from None
        except IqError as error:
            text = f": {error.text}" if error.text else ""
            raise StanzaError(
                f"{to or self.domain} answered {error.condition}{text}.", condition=str(error.condition)
            ) from None
        xml: ET.Element = answer.xml
        return xml

    async def close(self) -> None:
        """End the stream properly (at most a second), whatever state it is in."""
        stream = self._stream
        if stream is not None and stream.transport is not None:
            await stream.disconnect(wait=1.0, ignore_send_queue=True)
        self._abort()

    def _abort(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel_connection_attempt()
            stream.abort()
            queue = stream._run_out_filters  # slixmpp never ends this task by itself
            if queue is not None:
                queue.cancel()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def q(name: str, namespace: str = CLIENT_NS) -> str:
    """ElementTree's name of an element: ``{namespace}name``."""
    return f"{{{namespace}}}{name}"


def _set(element: ET.Element, **attributes: str) -> None:
    for name, value in attributes.items():
        if value:
            element.set(name, value)


def _serialise(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode", default_namespace=None)


def deliver(
    sender: str,
    sender_password: Secret,
    receiver: str,
    receiver_password: Secret,
    body: str,
    *,
    resolver: str | None = None,
    trust_roots: str | None = None,
    timeout_s: float = 15.0,
) -> float:
    """Log both accounts in, send ``body`` from one to the other and see it arrive; seconds from send to arrival.

    For callers without an event loop. Raises ``Unavailable`` or ``Rejected`` as ``ProbeClient`` does.
    """

    async def run() -> float:
        lookup = Lookup(resolver, timeout_s=min(timeout_s, 5.0))
        async with (
            ProbeClient(receiver, receiver_password, trust_roots=trust_roots, timeout_s=timeout_s, lookup=lookup) as to,
            ProbeClient(sender, sender_password, trust_roots=trust_roots, timeout_s=timeout_s, lookup=lookup) as from_,
        ):
            await to.send_presence()
            loop = asyncio.get_running_loop()
            start = loop.time()
            id = await from_.send_message(to.jid, body)
            message = await to.wait_message(lambda m: m.get("id") == id)
            if message.get("type") == "error" or message.findtext(q("body")) != body:
                raise Rejected(f"The message came back from {message.get('from')} as an error or changed.")
            return loop.time() - start

    return asyncio.run(run())
