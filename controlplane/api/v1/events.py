"""The history, to be read, waited for or streamed; and the audit."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api import follow
from controlplane.api.v1 import shapes, shown
from controlplane.api.v1.base import View
from controlplane.api.v1.schema import query, told
from controlplane.reconcile.history import Cursor
from controlplane.reconcile.models import Event
from controlplane.values.errors import InvalidInput
from tenants.models import AuditEvent, Instance

PARAMETERS = (
    query("after", description="a `cursor` of an earlier answer, or `now`; left out: from the beginning"),
    query("wait", int, description=f"seconds to wait for the first event, at most {follow.MAX_WAIT_S}"),
    query("limit", int, description="at most 500; 100 if left out"),
    query("stream", bool, description="1: server-sent events, as with Accept: text/event-stream"),
    query("seconds", int, description=f"how long a stream lasts, at most {follow.MAX_STREAM_S}"),
)


class EventStreamRenderer(BaseRenderer):
    """Lets ``Accept: text/event-stream`` through; the stream itself is no DRF response, problems are JSON."""

    media_type = "text/event-stream"
    format = "sse"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        return bytes(JSONRenderer().render(data))


class Events(View):
    """Events of what the principal sees, oldest first."""

    scopes = {"GET": "read"}
    renderer_classes = [JSONRenderer, EventStreamRenderer, BrowsableAPIRenderer]

    @told(
        "GET",
        shapes.Events,
        tag="events",
        name="follow_events",
        summary="Read, wait for, or stream events",
        params=(*PARAMETERS, query("kind"), query("object_id"), query("organisation", description="slug")),
    )
    def get(self, request: Request) -> Any:
        rows = self.visible()
        for name, column in (("kind", "kind"), ("object_id", "object_id"), ("organisation", "scope")):
            if name in request.query_params:
                rows = rows.filter(**{column: request.query_params[name]})
        return self.follow(request, rows)

    def visible(self) -> QuerySet[Event]:
        """The operator sees all, anybody else those of organisations where reading is allowed."""
        if self.principal.is_operator:
            return Event.objects.all()
        slugs = [slug for slug, scopes in self.principal.organisations.items() if "read" in scopes]
        return Event.objects.filter(scope__in=slugs)

    def follow(self, request: Request, rows: QuerySet[Event]) -> Any:
        asked = request.query_params
        given = asked.get("after", request.headers.get("Last-Event-ID", ""))
        cursor = follow.newest(rows) if given == "now" else Cursor.parse(given)
        if self.wants_stream(request):
            seconds = _number(asked, "seconds", follow.MAX_STREAM_S, follow.MAX_STREAM_S)
            return _streamed(follow.Stream(cursor, rows, seconds=seconds, show=shown.event))
        wait_s = _number(asked, "wait", 0, follow.MAX_WAIT_S)
        found = follow.poll(cursor, rows, wait_s=wait_s, limit=max(1, _number(asked, "limit", 100, 500)))
        last = Cursor.of(found[-1]) if found else cursor
        return Response({"events": [shown.event(row) for row in found], "cursor": str(last)})

    def wants_stream(self, request: Request) -> bool:
        if request.query_params.get("stream", "").lower() in {"1", "true"}:
            return True
        return getattr(request, "accepted_renderer", None) is not None and request.accepted_renderer.format == "sse"


class InstanceEvents(Events):
    """One instance's events, also after it is gone: a follower sees the end."""

    @told(
        "GET",
        shapes.Events,
        tag="events",
        name="follow_instance_events",
        summary="Read, wait for, or stream an instance's events",
        params=PARAMETERS,
    )
    def get(self, request: Request, key: str) -> Any:  # type: ignore[override]
        rows = self.visible().filter(kind="Instance", object_id=key)
        if Instance.objects.visible_to(self.principal).filter(key=key).exists():
            self.instance(key)
        elif not rows.exists():
            raise Http404
        return self.follow(request, rows)


class AuditFilter(django_filters.FilterSet):  # type: ignore[misc]
    since = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt")

    class Meta:
        model = AuditEvent
        fields = ("organisation", "action", "kind", "object_id", "actor")


class Audit(View):
    """Who did what, the newest first."""

    scopes = {"GET": "read"}

    @told(
        "GET",
        shapes.Audit(many=True),
        tag="events",
        name="list_audit",
        summary="Who did what",
        params=(
            *(query(name) for name in AuditFilter.Meta.fields),
            query("since", OpenApiTypes.DATETIME),
            query("until", OpenApiTypes.DATETIME),
        ),
    )
    def get(self, request: Request) -> Response:
        rows = AuditEvent.objects.all()
        if not self.principal.is_operator:
            slugs = [slug for slug, scopes in self.principal.organisations.items() if "read" in scopes]
            rows = rows.filter(organisation__in=slugs)
        filters = AuditFilter(request.query_params, queryset=rows)
        if not filters.is_valid():
            field, messages = next(iter(filters.errors.items()))
            raise InvalidInput(field, " ".join(messages))
        return self.paged(filters.qs, shown.audit)


def _streamed(chunks: Any) -> StreamingHttpResponse:
    response = StreamingHttpResponse(chunks, content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


def _number(asked: Any, name: str, default: int, maximum: int) -> int:
    text = asked.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInput(name, "This has to be a whole number.", remedy=f"Give 0 to {maximum}.")
    return min(int(text), maximum)
