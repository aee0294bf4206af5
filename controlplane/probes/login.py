"""The session beneath a check's client: slixmpp without its own ideas, and the one outcome of a login attempt."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Any
from xml.etree import ElementTree as ET

import slixmpp
from slixmpp.util.sasl import client as sasl_registry
from slixmpp.util.sasl.mechanisms import SCRAM

from controlplane.probes import trust
from controlplane.probes.lookup import Endpoint
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.secret import Secret

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")


class _Scram(SCRAM):
    """slixmpp's SCRAM with PBKDF2 from OpenSSL: 10,000 rounds take 2 ms instead of 22 ms of CPU."""

    def Hi(self, text: str, salt: bytes, iterations: int) -> bytes:  # noqa: N802  # slixmpp's name
        secret = text if isinstance(text, bytes) else text.encode()
        return hashlib.pbkdf2_hmac(self.name[6:].replace("-", ""), bytes(secret), bytes(salt), iterations)


for _name in MECHANISMS:
    sasl_registry.MECHANISMS[_name] = _Scram


class Stream(slixmpp.ClientXMPP):
    """slixmpp's client without its own look-ups, retries, redirects and automatic answers."""

    def __init__(self, jid: str, password: Secret, context: ssl.SSLContext, *, direct_tls: bool) -> None:
        super().__init__(
            jid,
            password.reveal(),
            plugin_config={"feature_mechanisms": {"use_mechs": set(MECHANISMS)}},
            ssl_context=context,
        )
        self.enable_direct_tls = direct_tls
        self.enable_starttls = not direct_tls
        self.enable_plaintext = False
        self.whitespace_keepalive = False
        # A stranger's subscription request is left unanswered: nobody gets to watch the probe's presence.
        self.roster.auto_authorize = None  # type: ignore[assignment]  # slixmpp documents None as a value
        self.roster.auto_subscribe = False
        self.offered: list[ET.Element] = []  # what the last <stream:features/> held

    async def _handle_stream_features(self, features: Any) -> bool | None:
        self.offered = list(features.xml)
        result: bool | None = await super()._handle_stream_features(features)
        return result

    def _handle_stream_error(self, error: Any) -> None:
        # The base class would follow see-other-host and then check the certificate against that host's name.
        self.event("stream_error", error)


def watch_login(stream: Stream, endpoint: Endpoint, domain: str, ready: asyncio.Future[None]) -> None:
    """Turn slixmpp's events into the one outcome of a login attempt."""

    def fail(error: RoostError) -> None:
        if not ready.done():
            stream.cancel_connection_attempt()
            ready.set_exception(error)

    def not_connected(error: Any) -> None:
        cause = error if isinstance(error, BaseException) else OSError(str(error))
        what, remedy = trust.explain(cause, domain)
        kind = Rejected if isinstance(cause, ssl.SSLCertVerificationError) else Unavailable
        fail(kind(f"{endpoint}: {what}.", remedy=remedy))

    def refused(failure: Any) -> None:
        fail(
            Rejected(
                f"{endpoint} refused the login of {stream.requested_jid.bare}: {failure['condition']}.",
                remedy="Check the password, and that the account exists and is enabled.",
            )
        )

    def no_mechanism(_: Any) -> None:
        if not isinstance(stream.socket, ssl.SSLObject | ssl.SSLSocket):
            fail(Rejected(f"{endpoint} offers no STARTTLS.", remedy="Give the server a certificate for the domain."))
            return
        offered = ", ".join(sorted(stream.plugin["feature_mechanisms"].mech_list)) or "nothing"
        fail(Rejected(f"{endpoint} offers no SCRAM to log in with, but {offered}.", remedy="Enable SCRAM-SHA-256."))

    def stream_error(error: Any) -> None:
        text = f" ({error['text']})" if error["text"] else ""
        fail(Rejected(f"{endpoint} ended the stream: {error['condition']}{text}.", remedy="See the server's log."))

    def disconnected(reason: Any) -> None:
        fail(
            Unavailable(
                f"{endpoint} closed the connection before the login was done ({reason or 'no reason given'}).",
                remedy="Check that the edge has a route for this domain and that the server runs.",
            )
        )

    def started(_: Any) -> None:
        if not ready.done():
            ready.set_result(None)

    stream.add_event_handler("session_start", started)
    stream.add_event_handler("connection_failed", not_connected)
    stream.add_event_handler("ssl_invalid_chain", not_connected)
    stream.add_event_handler("failed_auth", refused)
    stream.add_event_handler("no_auth", no_mechanism)
    stream.add_event_handler("stream_error", stream_error)
    stream.add_event_handler("disconnected", disconnected)
