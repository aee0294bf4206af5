"""Restores: a preview is asked for, looked at, confirmed; parts and whole instances, in place or elsewhere."""

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
from controlplane.backups import restoring
from controlplane.backups.models import Backup, Restore
from controlplane.values.errors import InvalidInput
from tenants.models import Instance

TAG = "restores"
SELECTION = (
    "of parts: `accounts`, `rooms`, `member_lists` (names as before the @), `exact` (take off who was not on the saved "
    "member list), `archives` {`from`, `to`, `accounts`, `rooms`}; of a whole instance: `engine`, `node` (operator "
    "only), `keep_going` (switch although something is missing), `unseen` (the present state is lost: compare and save "
    "nothing)"
)


class RestoreIn(forms.Strict):
    backup = s.CharField(max_length=10, help_text="key; for new_instance another instance's")
    mode = s.ChoiceField(choices=[mode for mode, _ in Restore.MODES])
    selection = s.DictField(required=False, default=dict, help_text=SELECTION)


class RestoreShown(Shape):
    key = s.CharField()
    instance = s.CharField(help_text="key of the one that it is restored into")
    domain = s.CharField(help_text="of the backup")
    backup = s.CharField(allow_null=True)
    mode = s.ChoiceField(choices=[mode for mode, _ in Restore.MODES])
    selection = s.DictField(help_text=SELECTION)
    state = s.ChoiceField(choices=[state for state, _ in Restore.STATES])
    progress = s.DictField(help_text="phase, done, total, messages, bytes")
    preview = s.DictField(
        help_text="added, changed, lost, each {total, kinds, items}; not_carried; domains that get other names"
    )
    report = s.DictField(help_text="what came of it: made, changed_pieces, skipped, refused, rewritten, missing, …")
    safety = s.CharField(allow_null=True, help_text="key of the backup of the state that was replaced")
    requested_by = s.CharField()
    created_at = s.DateTimeField()
    previewed_at = s.DateTimeField(allow_null=True)
    confirmed_at = s.DateTimeField(allow_null=True)
    started_at = s.DateTimeField(allow_null=True)
    switched_at = s.DateTimeField(allow_null=True, help_text="from then on the restored state serves")
    finished_at = s.DateTimeField(allow_null=True)
    cancel_requested_at = s.DateTimeField(allow_null=True)
    error = s.CharField(allow_blank=True)
    remedy = s.CharField(allow_blank=True)
    links = s.DictField(child=s.CharField())


def shown(row: Restore) -> dict[str, Any]:
    return {
        "key": row.key,
        "instance": row.instance_key,
        "domain": row.repository.domain,
        "backup": row.backup.key if row.backup is not None else None,
        "mode": row.mode,
        "selection": row.selection,
        "state": row.state,
        "progress": row.progress,
        "preview": row.preview,
        "report": {name: value for name, value in row.report.items() if name != "built"},
        "safety": row.safety.key if row.safety is not None else None,
        "requested_by": row.requested_by,
        "created_at": row.created_at,
        "previewed_at": row.previewed_at,
        "confirmed_at": row.confirmed_at,
        "started_at": row.started_at,
        "switched_at": row.switched_at,
        "finished_at": row.finished_at,
        "cancel_requested_at": row.cancel_requested_at,
        "error": row.error,
        "remedy": row.remedy,
        "links": {
            "self": url("restore", key=row.key),
            "confirm": url("restore-confirm", key=row.key),
            "cancel": url("restore-cancel", key=row.key),
        },
    }


class OfRestores(View):
    def rows(self) -> QuerySet[Restore]:
        """Those of backups that the principal may see, into instances that it may see."""
        rows: QuerySet[Restore] = Restore.objects.visible_to(self.principal)
        if not self.principal.is_operator:
            rows = rows.filter(instance__organisation__slug__in=self.principal.organisations)
        return rows.select_related("repository", "backup", "safety", "instance__organisation")

    def row(self, key: str) -> Restore:
        found = self.rows().filter(key=key).first()
        if found is None:
            raise Http404
        if found.instance is not None:
            self.demand(found.instance.organisation.slug)
        return found


class InstanceRestores(OfRestores):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups"), "POST": "backups"}

    @told("GET", RestoreShown(many=True), tag=TAG, name="list_restores", summary="Restores into an instance")
    def get(self, request: Request, key: str) -> Response:
        return self.paged(self.rows().filter(instance=self.instance(key)), shown)

    @told(
        "POST",
        RestoreShown,
        status=202,
        body=RestoreIn,
        tag=TAG,
        name="request_restore",
        summary="Have a restore previewed; nothing is changed before it is confirmed",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(RestoreIn)
        row = restoring.request_restore(
            instance=instance,
            backup=self._backup(given["backup"], instance),
            mode=given["mode"],
            selection=given["selection"],
            principal=self.principal,
        )
        return created(request, shown(row), url("restore", key=row.key), status=202)

    def _backup(self, key: str, instance: Instance) -> Backup:
        """One that may be taken out of its organisation's repository; a stranger's is not there."""
        found = Backup.objects.visible_to(self.principal).select_related("repository").filter(key=key).first()
        allowed = found is not None and (
            self.principal.is_operator or self.principal.may("backups", found.repository.organisation_slug)
        )
        if found is None or not allowed:
            raise InvalidInput("backup", "There is no such backup.")
        return found


class Restores(OfRestores):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups")}

    @told(
        "GET",
        RestoreShown(many=True),
        tag=TAG,
        name="list_all_restores",
        summary="All restores, the newest first",
        params=(query("state", enum=[state for state, _ in Restore.STATES]),),
    )
    def get(self, request: Request) -> Response:
        rows, state = self.rows(), request.query_params.get("state")
        if state is not None and state not in dict(Restore.STATES):
            raise InvalidInput("state", "There is no such state.")
        return self.paged(rows if state is None else rows.filter(state=state), shown)


class OneRestore(OfRestores):
    scopes: dict[str, str | tuple[str, ...]] = {"GET": ("read", "backups")}

    @told("GET", RestoreShown, tag=TAG, name="get_restore", summary="How a restore stands, with its preview")
    def get(self, request: Request, key: str) -> Response:
        return Response(shown(self.row(key)))


class ConfirmRestore(OfRestores):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "backups"}

    @told(
        "POST",
        RestoreShown,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="confirm_restore",
        summary="Do what was previewed",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.row(key)
        self.given(forms.Empty)
        restoring.confirm_restore(restore=row, principal=self.principal)
        return created(request, shown(self.row(key)), url("restore", key=key), status=202)


class CancelRestore(OfRestores):
    scopes: dict[str, str | tuple[str, ...]] = {"POST": "backups"}

    @told(
        "POST",
        RestoreShown,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="cancel_restore",
        summary="Call a restore off, before the restored state serves",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.row(key)
        self.given(forms.Empty)
        restoring.cancel_restore(restore=row, principal=self.principal)
        return created(request, shown(self.row(key)), url("restore", key=key), status=202)
