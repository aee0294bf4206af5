"""Short forms of what views tell the schema: the answer, the usual problems, the idempotency header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from controlplane.api.idempotency import HEADER
from controlplane.api.problems import CONTENT_TYPE
from controlplane.api.v1 import shapes

Method = TypeVar("Method", bound=Callable[..., Any])

PROBLEM = OpenApiResponse(shapes.Problem, description="RFC 9457, `application/problem+json`")
IDEMPOTENCY = OpenApiParameter(
    HEADER, str, OpenApiParameter.HEADER, description="The same key with the same body gets the first answer again."
)
LOCATION = OpenApiParameter("Location", str, OpenApiParameter.HEADER, response=[201, 202], description="the resource")
_USUAL = {"GET": (401, 403, 404), "POST": (400, 401, 403, 404, 409, 415, 422)}
_USUAL |= {"PATCH": _USUAL["POST"], "PUT": _USUAL["POST"], "DELETE": (401, 403, 404, 409, 422)}


def told(
    method: str,
    answer: Any,
    *,
    status: int = 200,
    body: Any = None,
    tag: str,
    name: str,
    summary: str,
    params: tuple[OpenApiParameter, ...] = (),
    live: bool = False,
) -> Callable[[Method], Method]:
    """Decorates a view's method. ``live``: it asks a server, which may be unavailable (503)."""
    problems = {*_USUAL[method], *([503, 422] if live else []), *([422] if params else [])}
    responses: dict[Any, Any] = {status: answer, **{(code, CONTENT_TYPE): PROBLEM for code in sorted(problems)}}
    parameters = list(params)
    if method == "POST":
        parameters.append(IDEMPOTENCY)
    if status in (201, 202):
        parameters.append(LOCATION)
    return extend_schema(
        operation_id=name, request=body, responses=responses, tags=[tag], summary=summary, parameters=parameters
    )


def query(name: str, type: Any = str, *, description: str = "", enum: list[str] | None = None) -> OpenApiParameter:
    return OpenApiParameter(name, type, OpenApiParameter.QUERY, description=description, enum=enum)
