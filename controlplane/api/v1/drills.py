"""Drills: a backup is restored aside and compared, on a schedule or when somebody asks for it."""

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
from controlplane.backups import drills
from controlplane.backups.models import Backup, Drill
from controlplane.values.errors import InvalidInput

TAG = "drills"
READ: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups")}


class DrillIn(forms.Strict):
    backup = s.CharField(max_length=10, required=False, help_text="key; by default the newest full one")


class DrillShown(Shape):
    key = s.CharField()
    instance = s.CharField(help_text="key")
    domain = s.CharField()
    backup = s.CharField(allow_null=True)
    trigger = s.ChoiceField(choices=["schedule", "manual"])
    state = s.ChoiceField(choices=[state for state, _ in Drill.STATES])
    progress = s.DictField()
    result = s.DictField(
        help_text="checked (kind: number), as_client (what clients read), missing, changed, added, refused, and up to "
        "50 differences in words"
    )
    rpo_s = s.FloatField(allow_null=True, help_text="age of what was restored when the drill began, in seconds")
    rto_s = s.FloatField(allow_null=True, help_text="seconds until all was there again and compared")
    requested_by = s.CharField(allow_blank=True)
    created_at = s.DateTimeField()
    started_at = s.DateTimeField(allow_null=True)
    finished_at = s.DateTimeField(allow_null=True)
    cancel_requested_at = s.DateTimeField(allow_null=True)
    error = s.CharField(allow_blank=True)
    remedy = s.CharField(allow_blank=True)
    links = s.DictField(child=s.CharField())


def shown(row: Drill) -> dict[str, Any]:
    return {
        "key": row.key,
        "instance": row.repository.instance_key,
        "domain": row.repository.domain,
        "backup": row.backup.key if row.backup is not None else None,
        "trigger": row.trigger,
        "state": row.state,
        "progress": row.progress,
        "result": row.result,
        "rpo_s": row.rpo_s,
        "rto_s": row.rto_s,
        "requested_by": row.requested_by,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "cancel_requested_at": row.cancel_requested_at,
        "error": row.error,
        "remedy": row.remedy,
        "links": {"self": url("drill", key=row.key), "cancel": url("drill-cancel", key=row.key)},
    }


class OfDrills(View):
    def rows(self) -> QuerySet[Drill]:
        found: QuerySet[Drill] = Drill.objects.visible_to(self.principal)
        return found.select_related("repository", "backup")

    def row(self, key: str) -> Drill:
        found = self.rows().filter(key=key).first()
        if found is None:
            raise Http404
        self.demand(found.repository.organisation_slug)
        return found


class InstanceDrills(OfDrills):
    scopes: dict[str, str | tuple[str, ...]] = {**READ, "POST": "backups"}

    @told("GET", DrillShown(many=True), tag=TAG, name="list_drills", summary="How an instance's backups were proven")
    def get(self, request: Request, key: str) -> Response:
        return self.paged(self.rows().filter(repository__instance=self.instance(key)), shown)

    @told(
        "POST",
        DrillShown,
        status=202,
        body=DrillIn,
        tag=TAG,
        name="request_drill",
        summary="Have a backup proven now",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        wanted = self.given(DrillIn).get("backup")
        backup = None
        if wanted is not None:
            rows = Backup.objects.visible_to(self.principal).filter(repository__instance=instance)
            backup = rows.filter(key=wanted).first()
            if backup is None:
                raise InvalidInput("backup", "There is no such backup.")
        made = drills.request_drill(instance=instance, principal=self.principal, backup=backup)
        row = self.rows().get(pk=made.pk)
        return created(request, shown(row), url("drill", key=row.key), status=202)


class Drills(OfDrills):
    scopes = READ

    @told(
        "GET",
        DrillShown(many=True),
        tag=TAG,
        name="list_all_drills",
        summary="All drills, the newest first",
        params=(query("state", enum=[state for state, _ in Drill.STATES]),),
    )
    def get(self, request: Request) -> Response:
        rows, state = self.rows(), request.query_params.get("state")
        if state is not None and state not in dict(Drill.STATES):
            raise InvalidInput("state", "There is no such state.")
        return self.paged(rows if state is None else rows.filter(state=state), shown)


class OneDrill(OfDrills):
    scopes = READ

    @told("GET", DrillShown, tag=TAG, name="get_drill", summary="What came of a drill")
    def get(self, request: Request, key: str) -> Response:
        return Response(shown(self.row(key)))


class CancelDrill(OfDrills):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "backups"}

    @told("POST", DrillShown, status=202, body=forms.Empty, tag=TAG, name="cancel_drill", summary="Call a drill off")
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.row(key)
        self.given(forms.Empty)
        drills.cancel_drill(drill=row, principal=self.principal)
        return created(request, shown(self.row(key)), url("drill", key=key), status=202)
