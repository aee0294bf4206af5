"""``/metrics`` and what belongs to it, for the bearer of ROOST_METRICS_TOKEN only. Without a token nothing is here."""

from __future__ import annotations

import functools
import gzip
import hmac
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from controlplane.metrics import collect, discovery, engines
from controlplane.metrics.text import CONTENT_TYPE
from controlplane.values.errors import Rejected, Unavailable

View = Callable[..., HttpResponse]


def for_bearer(view: View) -> View:
    """Only with the token (RFC 6750 §2.1). It opens nothing else, and no API token opens this."""

    @functools.wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        wanted = settings.ROOST["METRICS_TOKEN"]
        if not wanted:
            raise Http404
        scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), wanted.encode()):
            answer = HttpResponse("This needs the token for metrics.\n", status=401, content_type="text/plain")
            answer.headers["WWW-Authenticate"] = 'Bearer realm="roost-metrics"'
            return answer
        return view(request, *args, **kwargs)

    return require_safe(never_cache(guarded))


@for_bearer
def metrics(request: HttpRequest) -> HttpResponse:
    """All of Roost's own."""
    return _text(request, collect.exposition())


@for_bearer
def engine_metrics(request: HttpRequest, label: str) -> HttpResponse:
    """One tenant's engine's own, asked of it now."""
    try:
        return _text(request, engines.exposition(label))
    except engines.NoEngine as error:
        raise Http404 from error
    except (Unavailable, Rejected) as error:
        return HttpResponse(f"{error.message}\n", status=503, content_type="text/plain")


@for_bearer
def targets(request: HttpRequest) -> JsonResponse:
    """Prometheus' HTTP service discovery: each tenant's engine."""
    return JsonResponse(discovery.engines(request.get_host()), safe=False)


def _text(request: HttpRequest, text: str) -> HttpResponse:
    body = text.encode()
    packed = "gzip" in request.META.get("HTTP_ACCEPT_ENCODING", "")
    answer = HttpResponse(gzip.compress(body, 1) if packed else body, content_type=CONTENT_TYPE)
    answer.headers["Vary"] = "Accept-Encoding"
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    return answer
