"""Certificates as a strict client checks them: chain, dates, and a dNSName for the domain (RFC 6120 §13.7, RFC 6125).

Makes the TLS contexts of all probes and puts OpenSSL's refusals into words that a person can act on.
The name that is checked is always the JID's domain, never the SRV target.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

from controlplane.values.errors import InvalidInput

XMPP_CLIENT, XMPP_SERVER, HTTP = "xmpp-client", "xmpp-server", "http/1.1"
_PEM = "-----BEGIN CERTIFICATE-----"

# OpenSSL's X509_V_ERR_* codes that deserve words of their own.
_EXPIRED, _NOT_YET, _NAME = 10, 9, 62
_UNTRUSTED = {2, 18, 19, 20, 21, 27}


def roots_text(trust_roots: str | None) -> str | None:
    """PEM text from PEM text or the path of a file with it. None stays None: the system's roots."""
    if trust_roots is None or _PEM in trust_roots:
        return trust_roots
    try:
        text = Path(trust_roots).read_text()
    except (OSError, ValueError) as error:
        raise InvalidInput("trust_roots", f"The trust roots cannot be read: {error}.") from error
    if _PEM not in text:
        raise InvalidInput("trust_roots", f"{trust_roots} holds no PEM certificate.")
    return text


@functools.lru_cache(maxsize=16)
def client_context(roots_pem: str | None, alpn: str | None = None) -> ssl.SSLContext:
    """A context that accepts nothing but a chain to these roots with the right name in dNSName.

    ``roots_pem``: PEM text or None for the system's. Contexts are kept and shared: making one is the
    dearest part of a handshake. Raises ``InvalidInput`` for roots that OpenSSL cannot read.
    """
    try:
        context = ssl.create_default_context(cadata=roots_pem)
    except ssl.SSLError as error:
        raise InvalidInput("trust_roots", f"The trust roots cannot be read: {error}.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


@functools.lru_cache(maxsize=4)
def blind_context(alpn: str | None = None) -> ssl.SSLContext:
    """A context that accepts any certificate: only for looking at one that was refused, never for data."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def explain(error: BaseException, domain: str) -> tuple[str, str]:
    """(what is wrong, remedy) for an error of a TLS handshake with ``domain``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code == _EXPIRED:
            return "the certificate has expired", "Renew it and have the server load it."
        if code == _NOT_YET:
            return "the certificate is not valid yet", "Check the clocks of this machine and of the CA."
        if code == _NAME:
            return (
                f"the certificate is not for {domain}",
                f"Issue one with {domain} among its subject alternative names.",
            )
        if code in _UNTRUSTED:
            return (
                f"the certificate's chain does not lead to a trusted root ({error.verify_message})",
                "Serve the whole chain of a trusted CA, leaf first.",
            )
        return f"the certificate was refused: {error.verify_message}", "Issue a new one."
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed ({error.reason or error})", "See the server's log."
    if isinstance(error, TimeoutError):
        return "no answer in time", "Check that the server runs and that no firewall drops the connection."
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there", "Check that the server or the edge runs."
    if isinstance(error, EOFError | ConnectionError):
        return "the connection was closed", "Check that the edge has a route for this name and that the server runs."
    return str(error) or type(error).__name__, ""
