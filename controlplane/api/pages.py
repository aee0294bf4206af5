"""The few pages beside the API: the operator's entry, health for load balancers, ACME answers, and errors."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, connection
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseServerError, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.defaults import page_not_found

from controlplane.api import overview, problems


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """Where everything is; with numbers for an operator who is logged in."""
    user = request.user
    numbers = overview.numbers() if user.is_authenticated and user.is_superuser else None
    return render(request, "roost/index.html", {"numbers": numbers})


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers; nothing else is asked."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """The process can do its work: the database answers."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return JsonResponse({"status": "unavailable", "database": type(error).__name__}, status=503)
    return JsonResponse({"status": "ok", "database": "ok"})


@require_safe
@never_cache
def acme_challenge(request: HttpRequest, token: str) -> HttpResponse:
    """The answer to an HTTP-01 challenge of ours (RFC 8555 §8.3)."""
    from controlplane.certificates import services as certificates

    answer = certificates.http01_answer(token)
    if answer is None:
        raise Http404
    return HttpResponse(answer, content_type="application/octet-stream")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 where no view was found."""
    page = problems.page(request, 404, "There is nothing at this address.")
    return page if page is not None else page_not_found(request, exception)


def failed(request: HttpRequest, *args: Any) -> HttpResponse:
    """500 outside of DRF's views."""
    page = problems.page(request, 500, "The error is in the log. Try again later.")
    return page if page is not None else HttpResponseServerError("Something went wrong. It is in the log.")
