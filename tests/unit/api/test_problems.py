"""Every kind of error has one shape and the right status."""

from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, OperationalError
from django.http import Http404
from rest_framework import exceptions

from controlplane.api import problems
from controlplane.values import errors
from tenants.errors import Missing, QuotaExceeded, Taken, WrongState


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidInput("domain", "no"), 422, "invalid-value"),
        (Taken("domain", "no"), 409, "taken"),
        (QuotaExceeded("plan", "no"), 422, "quota-exceeded"),
        (WrongState("no"), 409, "wrong-state"),
        (errors.Conflict("no"), 409, "conflict"),
        (Missing("no"), 404, "not-found"),
        (errors.Rejected("no"), 422, "rejected"),
        (errors.Unavailable("no"), 503, "unavailable"),
        (OperationalError("secret host name"), 503, "unavailable"),
        (DataError("secret"), 422, "invalid-value"),
        (IntegrityError("secret"), 409, "conflict"),
        (RequestDataTooBig("secret"), 413, "too-large"),
        (SuspiciousOperation("secret"), 400, "invalid-request"),
        (Http404("secret"), 404, "not-found"),
        (PermissionDenied(), 403, "not-allowed"),
        (exceptions.NotAuthenticated(), 401, "not-authenticated"),
        (exceptions.ParseError(), 400, "invalid-request"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method-not-allowed"),
        (exceptions.UnsupportedMediaType("x/y"), 415, "unsupported-media-type"),
        (exceptions.Throttled(wait=7), 429, "too-many-requests"),
        (problems.KeyInUse(), 409, "still-running"),
        (problems.KeyReused(), 422, "key-reused"),
        (ZeroDivisionError("secret"), 500, "internal-error"),
    ],
)
def test_status_and_shape(error, status, code):
    body, _ = problems.describe(error)
    assert set(body) == {"type", "title", "status", "code", "detail", "remedy", "errors"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["detail"]
    assert "secret" not in str(body)


def test_the_field_and_remedy_are_told():
    body, _ = problems.describe(errors.InvalidInput("domain", "It is too long.", remedy="Shorten it."))
    assert body["errors"] == [{"field": "domain", "message": "It is too long.", "remedy": "Shorten it."}]
    assert body["remedy"] == "Shorten it."


def test_when_to_come_back():
    assert problems.describe(errors.Unavailable("no", retry_after_s=12.4))[1] == {"Retry-After": "12"}
    assert problems.describe(errors.Unavailable("no", retry_after_s=0.1))[1] == {"Retry-After": "1"}
    assert problems.describe(exceptions.Throttled(wait=7))[1] == {"Retry-After": "7"}


def test_half_characters_do_not_break_the_answer():
    body, _ = problems.describe(errors.InvalidInput("a\ud800", "b\ud800", remedy="c\ud800"))
    assert str(body).encode()
    assert body["errors"][0]["field"] == "a\\ud800"


def test_nested_fields_have_paths():
    error = exceptions.ValidationError(
        {"contacts": [{}, {"uri": ["Too long."]}], "admins": {0: ["Not text."]}, "non_field_errors": ["Odd."]}
    )
    found = {(e["field"], e["message"]) for e in problems.describe(error)[0]["errors"]}
    assert found == {("contacts[1].uri", "Too long."), ("admins[0]", "Not text."), ("", "Odd.")}
