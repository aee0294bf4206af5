"""What stands between the Internet and the views: who the client is behind a proxy, and what browsers may load.

Both are middleware. Who may do what is the views' and ``permissions``' matter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Next = Callable[[HttpRequest], HttpResponse]

_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'{inline}; script-src 'self'{inline}; "
    "object-src 'none'; base-uri 'none'; form-action 'self'{forms}; frame-ancestors 'none'"
)


class ClientAddress:
    """Takes the client's address from ``X-Forwarded-For`` if ROOST_PROXY_HOPS proxies of ours stand in front.

    Each appends the address that it sees, so the client's is that many from the right; what is left of it the
    client may have made up. Audit and the limit on logins go by it.
    """

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        hops: int = settings.ROOST["PROXY_HOPS"]
        told = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        if hops > 0 and len(told) >= hops:
            try:
                request.META["REMOTE_ADDR"] = str(ipaddress.ip_address(told[-hops]))
            except ValueError:
                pass  # the proxy's own address is the best that is known
        return self.get_response(request)


class ContentPolicy:
    """A content security policy on every page. Only the API's own pages (its documentation, and the browsable answers)
    have scripts and styles in them. Signing in elsewhere begins with a form of ours that leads to those who do that.
    """

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        inline = " 'unsafe-inline'" if request.path.startswith("/api/") else ""
        elsewhere = settings.ROOST["OIDC_ORIGINS"] if request.path.startswith("/accounts/") else []
        forms = "".join(f" {origin}" for origin in elsewhere)
        response.headers.setdefault("Content-Security-Policy", _POLICY.format(inline=inline, forms=forms))
        return response
