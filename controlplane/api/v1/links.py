"""Federation: an instance's links with other servers, «retry now», and the graph of all that one may see."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from rest_framework import serializers as s
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.api.v1.shapes import Shape
from controlplane.api.v1.shown import url
from controlplane.monitoring import links
from controlplane.monitoring.models import S2sLink
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants.models import Instance

TAG = "federation"
#: The graph is one answer: more edges than this are left out, and that is said.
MOST_EDGES = 5000
STATES = [state for state, _ in S2sLink.STATES]


class Stream(Shape):
    """One connection, as the engine told last (once a minute)."""

    direction = s.ChoiceField(["in", "out"])
    local = s.CharField()
    remote = s.CharField()
    encrypted = s.BooleanField()
    auth = s.ChoiceField(["certificate", "dialback", "unknown"])
    address = s.CharField(allow_blank=True)
    age_s = s.FloatField(allow_null=True)
    idle_s = s.FloatField(allow_null=True, help_text="since the last stanza that was no ping between servers")
    error = s.CharField(allow_blank=True, help_text="why the stream before it failed")


class Link(Shape):
    remote = s.CharField(help_text="A-labels")
    state = s.ChoiceField(S2sLink.STATES)
    since = s.DateTimeField()
    cause = s.CharField(allow_blank=True, help_text="such as PeerDown, PeerCertificateExpired, OwnDnsMissing")
    message = s.CharField(allow_blank=True)
    streams = Stream(many=True)
    rtt_ms = s.FloatField(allow_null=True)
    last_ok_at = s.DateTimeField(allow_null=True, help_text="the last ping that was answered")
    last_ping_at = s.DateTimeField(allow_null=True)
    last_seen_at = s.DateTimeField(allow_null=True, help_text="the engine had a stream of it")
    used_at = s.DateTimeField(allow_null=True, help_text="the last traffic that was no ping between servers")
    failures = s.IntegerField(help_text="pings in a row that were not answered")
    retry_at = s.DateTimeField(allow_null=True, help_text="when it is dialled again")
    suspect_by = s.CharField(allow_blank=True, help_text="who asked for the look that is due")
    links = s.DictField(child=s.CharField())


class GraphNode(Shape):
    id = s.CharField()
    domain = s.CharField(allow_null=True, help_text="null: another organisation's server here")
    instance = s.CharField(allow_null=True, help_text="key, if it is one of yours")


class GraphEdge(Shape):
    a = s.CharField(help_text="id of a node")
    b = s.CharField(help_text="id of a node")
    state = s.ChoiceField(S2sLink.STATES)
    encrypted = s.BooleanField(allow_null=True, help_text="all of its streams; null: it has none")
    cause = s.CharField(allow_blank=True)


class Graph(Shape):
    nodes = GraphNode(many=True)
    edges = GraphEdge(many=True)
    complete = s.BooleanField(help_text=f"false: only the first {MOST_EDGES} links are in it")


def shown(row: S2sLink) -> dict[str, Any]:
    names = ("remote", "state", "since", "cause", "message", "streams", "rtt_ms", "last_ok_at", "last_ping_at")
    more = ("last_seen_at", "used_at", "failures", "retry_at", "suspect_by")
    where = {"key": row.instance.key, "remote": row.remote}
    body = {name: getattr(row, name) for name in (*names, *more)}
    return {**body, "links": {"self": url("instance-link", **where), "retry": url("instance-link-retry", **where)}}


class InstanceLinks(View):
    scopes = {"GET": "read"}

    @told(
        "GET",
        Link(many=True),
        tag=TAG,
        name="list_links",
        summary="List the federation links of an instance",
        params=(query("state", enum=STATES),),
    )
    def get(self, request: Request, key: str) -> Response:
        rows = of(self.instance(key))
        state = request.query_params.get("state")
        if state and state not in STATES:
            raise InvalidInput("state", f"There is no state {state}.", remedy=f"Use one of {', '.join(STATES)}.")
        return self.paged(rows.filter(state=state) if state else rows, shown)


class OneLink(View):
    scopes = {"GET": "read"}

    @told("GET", Link, tag=TAG, name="get_link", summary="Read one federation link")
    def get(self, request: Request, key: str, remote: str) -> Response:
        return Response(shown(link_of(self.instance(key), remote)))


class RetryLink(View):
    scopes = {"POST": "instances"}

    @told(
        "POST",
        Link,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="retry_link",
        summary="Look at the link now, whatever its back-off says: close it alone if it is dead, dial, prove",
    )
    @idempotent
    def post(self, request: Request, key: str, remote: str) -> Response:
        row = link_of(self.instance(key), remote)
        self.given(forms.Empty)
        body = shown(links.retry(link=row, principal=self.principal))
        return created(request, body, body["links"]["self"], status=202)


class Links(View):
    """The operator sees every server of the house by name, an organisation its own and the strangers it talks with."""

    scopes = {"GET": "read"}

    @told("GET", Graph, tag=TAG, name="get_federation", summary="The graph of federation links")
    def get(self, request: Request) -> Response:
        mine = Instance.objects.visible_to(self.principal)
        if not self.principal.is_operator:
            slugs = [slug for slug, scopes in self.principal.organisations.items() if "read" in scopes]
            mine = mine.filter(organisation__slug__in=slugs)
        rows = list(_whole(S2sLink.objects.filter(instance__in=mine)).order_by("pk")[: MOST_EDGES + 1])
        return Response(graph(rows[:MOST_EDGES], set(mine.values_list("pk", flat=True)), len(rows) <= MOST_EDGES))


def graph(rows: list[S2sLink], mine: set[int], complete: bool) -> dict[str, Any]:
    """Nodes and edges; a link both of whose ends are in it is one edge. Ids mean something in this answer only."""
    nodes: dict[tuple[str, Any], dict[str, Any]] = {}
    edges: dict[frozenset[str], dict[str, Any]] = {}

    def node(instance: Instance | None, name: str) -> str:
        place = ("ours", instance.pk) if instance is not None else ("far", name)
        hidden = instance is not None and instance.pk not in mine
        made = {
            "id": f"n{len(nodes) + 1}",
            "domain": None if hidden else name,
            "instance": instance.key if instance is not None and not hidden else None,
        }
        return str(nodes.setdefault(place, made)["id"])

    for row in rows:
        a, b = node(row.instance, row.instance.domain.name), node(row.peer, row.remote)
        encrypted = all(stream["encrypted"] for stream in row.streams) if row.streams else None
        edge = {"a": a, "b": b, "state": row.state, "encrypted": encrypted, "cause": row.cause}
        edges.setdefault(frozenset((a, b)), edge)
    return {"nodes": list(nodes.values()), "edges": list(edges.values()), "complete": complete}


def of(instance: Instance) -> QuerySet[S2sLink]:
    return _whole(S2sLink.objects.filter(instance=instance)).order_by("remote")


def link_of(instance: Instance, remote: str) -> S2sLink:
    try:
        name = DomainName.parse(remote).ascii
    except InvalidInput:
        raise Http404 from None
    row = of(instance).filter(remote=name).first()
    if row is None:
        raise Http404
    return row


def _whole(rows: QuerySet[S2sLink]) -> QuerySet[S2sLink]:
    return rows.select_related("instance__domain", "instance__organisation", "peer__domain")
