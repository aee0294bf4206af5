"""The pages that everybody may read: how each server is, how all are together, and clients' outage status (XEP-0455).

No session, no script, no name of another tenant. An answer is made at most every few seconds and may be kept by caches
in between; what it says is ``monitoring.status``' matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.urls import path
from django.utils import timezone
from django.utils.cache import get_conditional_response, patch_cache_control
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.monitoring import outage, status, subscriptions, wording
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants.models import Instance

#: How old an answer may be, seconds.
FRESH_S = 15

HEADLINES = {
    status.OK: "Everything works",
    wording.PARTIAL: "Something is disturbed",
    wording.DOWN: "The service is down",
    status.WORK: "Planned work is under way",
    status.PAUSED: "The service is paused",
    status.NONE: "Not known at the moment",
}
PROVIDER_HEADLINES = {**HEADLINES, wording.PARTIAL: "Some servers are disturbed", wording.DOWN: "There is an outage"}
LEVELS = {
    status.OK: "works",
    wording.PARTIAL: "disturbed",
    wording.DOWN: "fails",
    status.NONE: "not known",
}


@require_safe
def provider(request: HttpRequest) -> HttpResponse:
    """All servers together."""
    found = _kept("status:all", status.of_provider)
    return _page(request, "status/provider.html", found, PROVIDER_HEADLINES, _provider())


@require_safe
def tenant(request: HttpRequest, domain: str) -> HttpResponse:
    """One tenant's server."""
    instance = _instance(domain)
    found = _kept(f"status:{instance.key}", lambda: status.of_instance(instance))
    name = DomainName(instance.domain.name)
    outage_path = f"/status/{name.ascii}/outage.json"
    return _page(request, "status/tenant.html", found, HEADLINES, name.unicode, outage_path=outage_path)


@require_safe
def outage_status(request: HttpRequest, domain: str) -> HttpResponse:
    """XEP-0455 §2.2. Web clients of any origin may read it."""
    document = _kept_briefly(_instance(domain))
    response = JsonResponse(document, json_dumps_params={"ensure_ascii": False})
    response["Access-Control-Allow-Origin"] = "*"
    # Clients are to see the end of it at once.
    return _cacheable(request, response, max_age=5)


@csrf_exempt  # what lets somebody in is the link from the mail; there is no session that could be abused
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest, token: str) -> HttpResponse:
    """Where the owner of a mail address agrees to notices, or refuses. A GET changes nothing: mail scanners follow
    links."""
    row = subscriptions.proposed(token)
    if row is None:
        raise Http404
    done = ""
    if request.method == "POST":
        if request.POST.get("answer") == "yes":
            subscriptions.confirm(row)
            done = "agreed"
        else:
            subscriptions.decline(row)
            done = "refused"
    context = {"row": row, "done": done, "provider": _provider()}
    response = HttpResponse(render_to_string("status/confirm.html", context))
    patch_cache_control(response, private=True, no_store=True)
    response["Referrer-Policy"] = "no-referrer"
    return response


urlpatterns = [
    path("", provider, name="status"),
    path("confirm/<str:token>/", confirm, name="status-confirm"),
    path("<str:domain>/", tenant, name="status-tenant"),
    path("<str:domain>/outage.json", outage_status, name="status-outage"),
]


def _provider() -> str:
    return DomainName(settings.ROOST["PROVIDER_ZONE"]).unicode


def _instance(domain: str) -> Instance:
    try:
        name = DomainName.parse(domain).ascii
    except InvalidInput as error:
        raise Http404 from error
    found = status.public_instance(name)
    if found is None:
        raise Http404
    return found


def _kept(key: str, make: Callable[[], status.Status]) -> status.Status:
    """From the process's cache, or made now."""
    found: status.Status | None = cache.get(key)
    if found is None:
        found = make()
        cache.set(key, found, FRESH_S)
    return found


def _kept_briefly(instance: Instance) -> dict[str, Any]:
    """Clients ask for it when the server is away, all at the same moment."""
    key = f"outage:{instance.key}"
    found: dict[str, Any] | None = cache.get(key)
    if found is None:
        found = outage.document(instance)
        cache.set(key, found, FRESH_S / 3)
    return found


def _page(
    request: HttpRequest, template: str, found: status.Status, headlines: dict[str, str], name: str, **more: str
) -> HttpResponse:
    context = {
        "status": found,
        "headline": headlines[found.level],
        "levels": LEVELS,
        "name": name,
        "provider": _provider(),
        "uptime": None if found.uptime is None else _percent(found.uptime),
        "measured": sum(day.level != status.NONE for day in found.days),
        "first": found.days[0].date,
        "now": timezone.now(),
        **more,
    }
    # Without the request: what reads the session would make the answer one for each visitor.
    response = HttpResponse(render_to_string(template, context))
    return _cacheable(request, response, max_age=FRESH_S, stale_while_revalidate=30, stale_if_error=3600)


def _percent(share: float) -> str:
    """Rounded down, so that 100 % means that nothing was."""
    return f"{int(share * 100_000) / 1000:.3f}".rstrip("0").rstrip(".") + " %"


def _cacheable(request: HttpRequest, response: HttpResponse, **control: int) -> HttpResponse:
    patch_cache_control(response, public=True, **control)
    etag = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    response["ETag"] = etag
    return get_conditional_response(request, etag=etag, response=response) or response
