"""Posts a signed JSON body to a URL that somebody else gave us, and does not let itself be sent to the inside.

The name is resolved here, once; only addresses of the public Internet are dialled (unless the provider's own URL is
meant), the connection goes to the very address that was judged, and redirects are not followed. When to try again is
left to the caller. The answer's body is never shown to anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import dns.exception
import dns.resolver

from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret

SIGNATURE = "Roost-Signature"
#: The longest that a receiver may have us wait, seconds.
MAX_RETRY_AFTER_S = 3600.0
_LATER = frozenset({408, 425, 429})
_READ = 4096
#: Prefixes in which an IPv4 address hides, with the bits to the right of it: NAT64 (RFC 6052) and 6to4 (RFC 3056).
_EMBEDDED = ((ipaddress.ip_network("64:ff9b::/96"), 0), (ipaddress.ip_network("2002::/16"), 80))
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Gone(Rejected):
    """The receiver says that it wants no more of this (410)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be posted to. ``private``: addresses inside the provider's network are allowed."""

    scheme: str
    host: str  # an A-label name, or an address without brackets
    port: int
    path: str
    private: bool

    @classmethod
    def parse(cls, url: str, *, private: bool, field: str = "target") -> Target:
        """Raises ``InvalidInput``. Without ``private`` it has to be https and no address of the inside."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(
                field, "This is not a URL.", remedy="Give one such as https://hooks.example/x."
            ) from error
        schemes = ("https", "http") if private else ("https",)
        if parts.scheme not in schemes or not parts.hostname:
            raise InvalidInput(field, "This URL cannot be used.", remedy=f"It has to begin with {schemes[0]}://.")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise InvalidInput(
                field, "A name, password or fragment in the URL is not sent.", remedy="The signature proves the sender."
            )
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InvalidInput(field, "The URL has characters that do not belong there.", remedy="Encode them by %.")
        host = _host(parts.hostname, field)
        literal = _literal(host)
        if literal is not None and not private and not is_public(literal):
            raise InvalidInput(field, f"{host} is not an address of the public Internet.", remedy="Give a public one.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path, private)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def _host(text: str, field: str) -> str:
    if _literal(text) is not None:
        return text
    return DomainName.parse(text, field=field).ascii


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """True for an address that the whole Internet can reach, also inside the forms that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        for network, shift in _EMBEDDED:
            if address in network:
                return is_public(ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF))
        if address.is_site_local or address.teredo is not None or address in _LOCAL_NAT64 or address.scope_id:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def signature(secret: Secret, body: bytes, at: int) -> str:
    """``t=SECONDS,v1=HEX``: HMAC-SHA-256 over ``SECONDS.BODY``, so that an old request cannot be sent again."""
    digest = hmac.new(secret.reveal().encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def post(
    target: Target,
    body: bytes,
    *,
    secret: Secret,
    headers: Mapping[str, str] | None = None,
    resolver: str | None = None,
    extra_roots: str = "",
    timeout_s: float = 10.0,
) -> int:
    """The status of the answer, 200 to 299. All of it, from the look-up to the answer, takes ``timeout_s`` at most
    (and a look-up at most half of it).

    ``Unavailable``: try again. ``Rejected``: it does not want this, or leads somewhere else. ``Gone``: never again.
    """
    ends = time.monotonic() + timeout_s
    address = _chosen(target, resolver, timeout_s / 2)
    all_headers = {
        "Host": target.authority,
        "Content-Type": "application/json",
        "User-Agent": "Roost",
        SIGNATURE: signature(secret, body, int(time.time())),
        **(headers or {}),
    }
    try:
        status, retry_after = _exchange(target, address, body, all_headers, extra_roots, ends)
    except ssl.SSLCertVerificationError as error:
        raise Unavailable(f"The certificate of {target.host} is not trusted: {error.verify_message}.") from error
    except (OSError, http.client.HTTPException) as error:
        why = type(error).__name__ if isinstance(error, http.client.HTTPException) else (error.strerror or "no answer")
        if time.monotonic() >= ends:
            why = f"no answer within {timeout_s:g} s"
        raise Unavailable(f"{target.host} [{address}] port {target.port}: {why}.") from error
    return _judged(target, status, retry_after)


def _judged(target: Target, status: int, retry_after: str) -> int:
    if 200 <= status < 300:
        return status
    said = f"{target.host} answered with status {status}."
    if status == 410:
        raise Gone(said, remedy="Nothing more is sent there.")
    if 300 <= status < 400:
        raise Rejected(said, remedy="Redirections are not followed: give the URL that it leads to.")
    if status in _LATER or status >= 500:
        wait_s = min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdigit() and len(retry_after) < 9 else None
        raise Unavailable(said, retry_after_s=wait_s)
    raise Rejected(said, remedy="See the receiver's log.")


def _chosen(target: Target, resolver: str | None, timeout_s: float) -> Address:
    """The address to dial. One that is not public is never taken, and says that it was why."""
    literal = _literal(target.host)
    found = [literal] if literal is not None else _resolved(target.host, resolver, timeout_s)
    if not found:
        raise Unavailable(f"{target.host} has no address.", remedy="Look at its A and AAAA records.")
    allowed = [address for address in found if target.private or is_public(address)]
    if not allowed:
        raise Rejected(f"{target.host} has no address of the public Internet.", remedy="Give a URL that has one.")
    return allowed[0]


def _resolved(host: str, resolver: str | None, timeout_s: float) -> list[Address]:
    asked = dns.resolver.Resolver(configure=resolver is None)
    if resolver is not None:
        address, _, port = resolver.partition("@")
        asked.nameservers, asked.port = [address], int(port or 53)
    found: list[Address] = []
    ends, failed = time.monotonic() + timeout_s, None
    for kind in ("A", "AAAA"):
        try:
            answer = asked.resolve(f"{host}.", kind, search=False, lifetime=max(0.2, ends - time.monotonic()))
            found += [ipaddress.ip_address(rdata.address) for rdata in answer]
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            continue
        except dns.exception.DNSException as error:
            failed = error
    if failed is not None and not found:
        raise Unavailable(f"The name {host} was not resolved.", remedy="Look at its DNS.") from failed
    return found


def _exchange(
    target: Target, address: Address, body: bytes, headers: Mapping[str, str], extra_roots: str, ends: float
) -> tuple[int, str]:
    """Status and Retry-After. The socket is shut from outside at the end of the time: a time-out by operation would
    let a receiver that sends a byte a second hold us for hours."""
    left_s = max(0.1, ends - time.monotonic())
    plain = socket.create_connection((str(address), target.port), timeout=left_s)
    handle = plain.dup()
    timer = threading.Timer(max(0.1, ends - time.monotonic()), _shut, [handle])
    timer.daemon = True
    timer.start()
    connection = http.client.HTTPConnection(target.host, target.port)
    try:
        connection.sock = plain
        if target.scheme == "https":
            connection.sock = _context(extra_roots).wrap_socket(plain, server_hostname=target.host)
        connection.request("POST", target.path, body=body, headers=dict(headers))
        response = connection.getresponse()
        response.read(_READ)
        return response.status, response.headers.get("Retry-After", "")
    finally:
        timer.cancel()
        connection.close()
        plain.close()
        handle.close()


def _shut(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


def _context(extra_roots: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if extra_roots and Path(extra_roots).exists():
        context.load_verify_locations(cafile=extra_roots)
    return context
