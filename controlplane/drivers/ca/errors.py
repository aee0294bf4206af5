"""What a CA's refusals mean, beyond the four errors that every driver raises.

``problem`` turns an HTTP answer into one of them; what to do about it is left to the ``certificates`` room.
"""

from __future__ import annotations

import datetime
import email.utils
from typing import Any
from urllib.parse import urlsplit

import requests

from controlplane.values.errors import Rejected, RoostError, Unavailable

#: Seconds to wait after a rate limit that does not say how long.
RATE_LIMIT_S = 600.0
#: Nobody is believed who asks for a longer pause.
LONGEST_S = 7 * 86400.0
_SHOWN = 500


class RateLimited(Unavailable):
    """The CA asks to slow down (RFC 8555 §6.6); ``retry_after_s`` is always set."""


class NonceRefused(Unavailable):
    """``badNonce`` (RFC 8555 §6.5): the same request with another nonce may pass."""


class AccountUnknown(Rejected):
    """The CA does not know our account: it has to be registered (again)."""


class NotFound(Rejected):
    """The CA does not know this order, authorization or certificate."""


class Refused(Rejected):
    """Any other problem document; ``kind`` is the last part of its type, such as ``rejectedIdentifier``."""

    def __init__(self, message: str, *, remedy: str = "", kind: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind


def problem(response: requests.Response) -> RoostError:
    """The error for an answer that is no success (RFC 8555 §6.7, RFC 7807)."""
    document = _document(response)
    kind = str(document.get("type") or "").rpartition(":")[2]
    said = problem_text(document) or f"HTTP {response.status_code} {response.reason or ''}".strip()
    host = urlsplit(response.url or "").netloc or "unknown"
    message = f"The CA at {host} answered: {said}"
    wait_s = retry_after_s(response)
    if kind == "badNonce":
        return NonceRefused(message, retry_after_s=wait_s)
    if kind == "rateLimited" or response.status_code == 429:
        return RateLimited(message, retry_after_s=RATE_LIMIT_S if wait_s is None else wait_s)
    if kind == "serverInternal" or response.status_code >= 500:
        return Unavailable(message, retry_after_s=wait_s)
    if kind == "accountDoesNotExist":
        return AccountUnknown(message)
    if kind == "userActionRequired":
        return Refused(message, remedy="Agree to the CA's new terms of service for the account.", kind=kind)
    if kind == "externalAccountRequired":
        return Refused(message, remedy="Set ROOST_ACME_EAB_KID and ROOST_ACME_EAB_HMAC.", kind=kind)
    if response.status_code == 404:
        return NotFound(message)
    return Refused(message, kind=kind)


def problem_text(document: Any) -> str:
    """The ``detail`` of a problem document with those of its subproblems, each with its identifier."""
    if not isinstance(document, dict):
        return ""
    parts = [str(document.get("detail") or document.get("title") or "")]
    subproblems = document.get("subproblems")
    for sub in subproblems if isinstance(subproblems, list) else []:
        if isinstance(sub, dict):
            identifier = sub.get("identifier")
            name = identifier.get("value", "") if isinstance(identifier, dict) else ""
            parts.append(f"{name}: {sub.get('detail', '')}".strip(": "))
    return "; ".join(p for p in parts if p)[:_SHOWN]


def retry_after_s(response: requests.Response) -> float | None:
    """Seconds from the header Retry-After, given as a number or as a date (RFC 9110 §10.2.3); None without it."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(LONGEST_S, float(text))
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return min(LONGEST_S, max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds()))


def _document(response: requests.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
