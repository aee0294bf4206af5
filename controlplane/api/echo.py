"""Says to whoever asks which address they come from: a source for the nodes of another Roost (ROOST_ECHO_URLS)."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@never_cache
@require_safe
def echo(request: HttpRequest) -> HttpResponse:
    """The address as text. Behind a proxy it needs ROOST_PROXY_HOPS, as everything that goes by addresses."""
    return HttpResponse(request.META.get("REMOTE_ADDR", ""), content_type="text/plain")
