"""Around every request: its id, for all that is logged because of it, and how long it took, by route and status.

Middleware. The routes are the patterns of the URLs, so that no tenant's key gets into a label.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from controlplane import logs, observing

log = logging.getLogger(__name__)

HEADER = "X-Request-ID"
#: What a proxy of ours or a client may say; anything else would be somebody's text in our logs.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestsTimed:
    """The time until the answer's head is ready: what an event stream says later is not in it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        method = request.method if request.method in METHODS else "other"
        given = request.headers.get(HEADER, "")
        name = given if _ID.fullmatch(given) else secrets.token_hex(8)
        with (
            logs.bound(request=name),
            observing.timed("web.request", method=str(method), route="(none)", status="500") as said,
        ):
            response = self.get_response(request)
            match = request.resolver_match
            said["route"] = f"/{match.route}" if match is not None and match.route else "/" if match else "(none)"
            said["status"] = str(response.status_code)
            response.headers[HEADER] = name
            if method not in {"GET", "HEAD", "OPTIONS"}:
                log.info("%s %s: %s", method, said["route"], response.status_code)
        return response
