"""Every error of the API in one shape, ``application/problem+json`` (RFC 9457), chosen by the error's type.

400: the shape is wrong. 422: the shape is right, a rule says no. 409: it clashes with what is. 503: try again.
"""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from controlplane.values import errors
from tenants.errors import Missing, QuotaExceeded, Taken, WrongState

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 5


class KeyInUse(exceptions.APIException):
    """The first request with this idempotency key still runs."""

    status_code = status.HTTP_409_CONFLICT
    default_detail = "The first request with this Idempotency-Key still runs."
    default_code = "still-running"
    wait = 1


class KeyReused(exceptions.APIException):
    """The idempotency key belongs to another request."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_detail = "This Idempotency-Key was used for another request. Use a new key for a new request."
    default_code = "key-reused"


class TooManyFollowers(exceptions.APIException):
    """All places for event streams of this process are taken."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "Too many event streams are open. Ask again later, or poll."
    default_code = "too-many-streams"
    wait = RETRY_AFTER_S


#: Our errors, the more precise first: (type, status, code, title).
_OURS: tuple[tuple[type[errors.RoostError], int, str, str], ...] = (
    (Taken, 409, "taken", "It is taken"),
    (QuotaExceeded, 422, "quota-exceeded", "The plan does not allow it"),
    (errors.InvalidInput, 422, "invalid-value", "A value does not fit"),
    (WrongState, 409, "wrong-state", "It does not fit the present state"),
    (errors.Conflict, 409, "conflict", "It conflicts with what is there"),
    (Missing, 404, "not-found", "There is no such thing"),
    (errors.Rejected, 422, "rejected", "It was refused"),
    (errors.Unavailable, 503, "unavailable", "It does not answer now"),
)
_TITLES = {
    400: ("invalid-request", "The request is not well-formed"),
    401: ("not-authenticated", "Who are you?"),
    403: ("not-allowed", "This is not allowed"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This method is not possible here"),
    406: ("not-acceptable", "No such representation"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The body's type is not understood"),
    429: ("too-many-requests", "Too many requests"),
    500: ("internal-error", "Something went wrong on our side"),
    503: ("unavailable", "It does not answer now"),
}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: any exception of a view as a problem."""
    set_rollback()
    body, headers = describe(error)
    if body["code"] == "internal-error" or isinstance(error, OperationalError | IntegrityError):
        log.error("%s failed", context.get("view"), exc_info=error)
    response = Response(body, status=body["status"], headers=headers)
    renderer = getattr(context.get("request"), "accepted_renderer", None)
    if renderer is None or renderer.format == "json":
        response.content_type = CONTENT_TYPE
    return response


def describe(error: Exception) -> tuple[dict[str, Any], dict[str, str]]:
    """The problem's body and extra headers."""
    if isinstance(error, errors.RoostError):
        return _ours(error)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    if isinstance(error, DataError):  # a number or time that PostgreSQL's types do not hold
        return problem(422, detail="A value is out of range.", code="invalid-value", title="A value does not fit"), {}
    if isinstance(error, IntegrityError):  # two requests at once; the database let one of them through
        detail = "Somebody changed the same at this moment."
        return problem(409, detail=detail, code="conflict", title="It conflicts with what is there"), {}
    if isinstance(error, RequestDataTooBig):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return problem(413, detail=f"A body has at most {limit} bytes."), {}
    if isinstance(error, SuspiciousOperation):
        return problem(400, detail="The request is malformed."), {}
    if isinstance(error, OperationalError):
        return problem(503, detail="The database does not answer now."), {"Retry-After": str(RETRY_AFTER_S)}
    return problem(500, detail="The error is in the log. Try again later."), {}


def problem(
    status_code: int,
    *,
    detail: str,
    code: str = "",
    title: str = "",
    field_errors: list[dict[str, str]] | None = None,
    remedy: str = "",
) -> dict[str, Any]:
    """The one shape. ``errors``: field, message, remedy of each value that does not fit."""
    usual_code, usual_title = _TITLES.get(status_code, ("error", "It did not work"))
    code = code or usual_code
    return {
        "type": f"urn:roost:problem:{code}",
        "title": title or usual_title,
        "status": status_code,
        "code": code,
        "detail": _whole(detail),
        "remedy": _whole(remedy),
        "errors": [{key: _whole(value) for key, value in error.items()} for error in field_errors or []],
    }


def _whole(text: str) -> str:
    """Without the half characters that JSON lets in and UTF-8 cannot carry out again."""
    return text.encode("utf-8", "backslashreplace").decode()


def _ours(error: errors.RoostError) -> tuple[dict[str, Any], dict[str, str]]:
    status_code, code, title = next((s, c, t) for kind, s, c, t in _OURS if isinstance(error, kind))
    fields = []
    if isinstance(error, errors.InvalidInput):
        fields = [{"field": error.field, "message": error.message, "remedy": error.remedy}]
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or RETRY_AFTER_S)))
    body = problem(status_code, detail=error.message, code=code, title=title, field_errors=fields, remedy=error.remedy)
    return body, headers


def _of_framework(error: exceptions.APIException) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(error.auth_header)  # type: ignore[attr-defined]
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))  # type: ignore[attr-defined]
    if isinstance(error, exceptions.ValidationError):
        found = list(_flat(error.detail, ""))
        detail = f"{len(found)} value{'s do' if len(found) != 1 else ' does'} not have the right shape."
        return problem(400, detail=detail, field_errors=found), headers
    code = error.default_code if isinstance(error, KeyInUse | KeyReused | TooManyFollowers) else ""
    return problem(error.status_code, detail=str(error.detail), code=code), headers


def _flat(detail: Any, field: str) -> Any:
    """DRF's nested lists and dicts as one list with paths such as ``contacts[0].uri``."""
    if isinstance(detail, dict):
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            joined = f"{field}[{name}]" if isinstance(key, int) else ".".join(filter(None, (field, name)))
            yield from _flat(value, joined)
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            nested = isinstance(value, dict | list)
            if not nested or value:
                yield from _flat(value, f"{field}[{index}]" if nested else field)
    else:
        yield {"field": field, "message": str(detail), "remedy": ""}


def page(request: HttpRequest, status_code: int, detail: str) -> HttpResponse | None:
    """The same shape where no view was found or Django itself failed; None outside of the API."""
    if not request.path.startswith("/api/"):
        return None
    return JsonResponse(problem(status_code, detail=detail), status=status_code, content_type=CONTENT_TYPE)
