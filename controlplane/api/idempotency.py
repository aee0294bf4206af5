"""``Idempotency-Key`` on POST: a request that comes again gets the first answer again, and does nothing.

The key's row is written in the transaction of the change itself, so a crash leaves both or neither. An
advisory lock tells a second request that the first still runs. Answers may hold a password that is shown
once, so they are sealed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from django.http import QueryDict
from django.utils.crypto import salted_hmac
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane import vault
from controlplane.api.authentication import principal_of
from controlplane.api.problems import KeyInUse, KeyReused
from controlplane.values.secret import Secret
from tenants.models import IdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY = 200

Handler = Callable[..., Response]


def idempotent(handler: Handler) -> Handler:
    """Wraps a view's ``post``. Only answers below 300 are kept: after a refusal the same key may try again."""

    @functools.wraps(handler)
    def wrapped(view: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get(HEADER, "")
        if not key:
            return handler(view, request, *args, **kwargs)
        if len(key) > MAX_KEY or not key.isprintable():
            raise ValidationError({HEADER: [f"The key has to be at most {MAX_KEY} printable characters."]})
        principal = principal_of(request)
        assert principal is not None  # the permission has let it pass
        owner, digest = principal.name[:120], _digest(request)
        with transaction.atomic():
            _lock(owner, key)
            known = IdempotencyKey.objects.filter(owner=owner, key=key).first()
            if known is not None:
                return _again(known, digest)
            response = handler(view, request, *args, **kwargs)
            if response.status_code < 300:
                _keep(owner, key, digest, response)
        return response

    return wrapped


def _digest(request: Request) -> str:
    """What the request asks for, keyed: bodies may hold passwords."""
    data = dict(request.data.lists()) if isinstance(request.data, QueryDict) else request.data
    text = json.dumps([request.method, request.path, data], sort_keys=True, default=str)
    return salted_hmac("roost.idempotency", text, algorithm="sha256").hexdigest()


def _lock(owner: str, key: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"{owner}\n{key}"])
        row = cursor.fetchone()
    if not row or not row[0]:
        raise KeyInUse


def _context(owner: str, key: str) -> str:
    return f"idempotency:{owner}:{key}"


def _keep(owner: str, key: str, digest: str, response: Response) -> None:
    body = json.dumps(_plain(response.data))
    IdempotencyKey.objects.create(
        owner=owner,
        key=key,
        request_digest=digest,
        status=response.status_code,
        body={"sealed": vault.seal(_context(owner, key), Secret(body))},
        location=response.get("Location", ""),
    )


def _again(known: IdempotencyKey, digest: str) -> Response:
    if known.request_digest != digest:
        raise KeyReused
    sealed = (known.body or {}).get("sealed", "")
    body = json.loads(vault.unseal(_context(known.owner, known.key), sealed).reveal())
    headers = {REPLAYED: "true"}
    if known.location:
        headers["Location"] = known.location
    return Response(body, status=known.status, headers=headers)


def _plain(data: Any) -> Any:
    """As it goes over the wire: times, lazy texts and dataclasses as JSON has them."""
    return json.loads(JSONRenderer().render(data) or b"null")
