"""Backups of an instance: made now, listed, called off, pinned, taken along; and their policy and key."""

from __future__ import annotations

from typing import Any

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import backup_shapes as shapes
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1.base import View, created
from controlplane.api.v1.schema import query, told
from controlplane.api.v1.shown import url
from controlplane.backups import bundles, policy, repositories, requests
from controlplane.backups.models import Backup, Policy, Repository
from controlplane.values.errors import InvalidInput
from tenants.models import Instance, Plan

TAG = "backups"
FILTERS = (
    query("kind", enum=shapes.KINDS),
    query("state", enum=shapes.STATES),
)
READ: tuple[str, ...] = ("read", "backups")


class BackupView(View):
    """What views of backups share."""

    def filtered(self, rows: Any) -> Any:
        for name, known in (("kind", shapes.KINDS), ("state", shapes.STATES)):
            value = self.request.query_params.get(name)
            if value is not None and value not in known:
                raise InvalidInput(name, "There is no such one.", remedy=f"Use {', '.join(known)}.")
            if value is not None:
                rows = rows.filter(**{name: value})
        return rows.select_related("repository")

    def backup(self, key: str) -> Backup:
        """The backup, with the scope that this method needs in its organisation."""
        rows = Backup.objects.visible_to(self.principal).select_related("repository__place", "repository__organisation")
        found = rows.filter(key=key).first()
        if found is None:
            raise Http404
        self.demand_of(found.repository)
        return found

    def demand_of(self, repository: Repository) -> None:
        """Of an organisation that is gone, all is the operator's."""
        self.demand(repository.organisation.slug if repository.organisation is not None else "")


class InstanceBackups(BackupView):
    scopes = {"GET": READ, "POST": "backups"}

    @told(
        "GET",
        shapes.Backup(many=True),
        tag=TAG,
        name="list_instance_backups",
        summary="List an instance's backups, the newest first",
        params=FILTERS,
    )
    def get(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        rows = Backup.objects.filter(repository__instance=instance)
        return self.paged(self.filtered(rows), shapes.backup)

    @told(
        "POST",
        shapes.Backup,
        status=202,
        body=shapes.BackupIn,
        tag=TAG,
        name="back_up_now",
        summary="Back it up now",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(shapes.BackupIn)
        row = requests.request_backup(instance=instance, principal=self.principal, kind=given["kind"])
        return created(request, shapes.backup(row), url("backup", key=row.key), status=202)


class Backups(BackupView):
    scopes = {"GET": READ}

    @told(
        "GET",
        shapes.Backup(many=True),
        tag=TAG,
        name="list_backups",
        summary="List all backups that you may see, the newest first",
        params=(*FILTERS, query("repository", description="key of a repository, also of an instance that is gone")),
    )
    def get(self, request: Request) -> Response:
        rows = Backup.objects.visible_to(self.principal)
        wanted = request.query_params.get("repository")
        if wanted is not None:
            rows = rows.filter(repository__key=wanted)
        return self.paged(self.filtered(rows), shapes.backup)


class OneBackup(BackupView):
    scopes = {"GET": READ}

    @told("GET", shapes.Backup, tag=TAG, name="get_backup", summary="Read a backup, and how far it is")
    def get(self, request: Request, key: str) -> Response:
        return Response(shapes.backup(self.backup(key)))


class CancelBackup(BackupView):
    scopes = {"POST": "backups"}

    @told(
        "POST",
        shapes.Backup,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="cancel_backup",
        summary="Call off a backup that is not there yet",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.backup(key)
        self.given(forms.Empty)
        changed = requests.cancel_backup(backup=row, principal=self.principal)
        return created(request, shapes.backup(changed), url("backup", key=key), status=202)


class PinBackup(BackupView):
    scopes = {"POST": "backups"}

    @told("POST", shapes.Backup, body=forms.Empty, tag=TAG, name="pin_backup", summary="Keep it whatever its age")
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.backup(key)
        self.given(forms.Empty)
        return Response(shapes.backup(requests.pin_backup(backup=row, principal=self.principal)))


class UnpinBackup(BackupView):
    scopes = {"POST": "backups"}

    @told("POST", shapes.Backup, body=forms.Empty, tag=TAG, name="unpin_backup", summary="Let it go by its age again")
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.backup(key)
        self.given(forms.Empty)
        return Response(shapes.backup(requests.pin_backup(backup=row, principal=self.principal, pinned=False)))


class Bundle(BackupView):
    """Everything that is in it, credentials too: so reading does not suffice."""

    scopes = {"GET": "backups"}

    @told(
        "GET",
        OpenApiTypes.BINARY,
        tag=TAG,
        name="get_bundle",
        summary="Take it along: its bundle as .tar.gz (docs/contracts/portable.md)",
        live=True,
    )
    def get(self, request: Request, key: str) -> HttpResponseBase:
        row = self.backup(key)
        stream = bundles.opened(backup=row, principal=self.principal)
        answer = StreamingHttpResponse(stream, content_type="application/gzip")
        answer["Content-Disposition"] = f'attachment; filename="{bundles.file_name(row)}"'
        answer["Cache-Control"] = "no-store"
        return answer


class InstancePolicy(BackupView):
    scopes = {"GET": READ, "PATCH": "backups"}

    @told("GET", shapes.Policy, tag=TAG, name="get_backup_policy", summary="When it is backed up, and what is kept")
    def get(self, request: Request, key: str) -> Response:
        return self.shown(self.instance(key))

    @told(
        "PATCH",
        shapes.Policy,
        body=shapes.PolicyIn,
        tag=TAG,
        name="change_backup_policy",
        summary="Change the schedule; what is kept for how long is the operator's",
    )
    def patch(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        given = self.given(shapes.PolicyIn, partial=True)
        if not self.principal.is_operator and not set(given) <= policy.TENANTS_OWN:
            raise PermissionDenied(f"Only the operator changes {', '.join(sorted(set(given) - policy.TENANTS_OWN))}.")
        policy.set_policy(instance=instance, principal=self.principal, values=given)
        return self.shown(instance)

    def shown(self, instance: Instance) -> Response:
        return Response(shapes.policy(instance, policy.rules_of(instance), timezone.now()))


class PausePolicy(InstancePolicy):
    scopes = {"POST": "backups"}
    http_method_names = ["post", "options"]

    @told(
        "POST",
        shapes.Policy,
        body=shapes.PauseIn,
        tag=TAG,
        name="pause_backups",
        summary="Begin no scheduled backup until they are resumed",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        policy.pause(instance=instance, principal=self.principal, **self.given(shapes.PauseIn))
        return self.shown(instance)


class ResumePolicy(InstancePolicy):
    scopes = {"POST": "backups"}
    http_method_names = ["post", "options"]

    @told("POST", shapes.Policy, body=forms.Empty, tag=TAG, name="resume_backups", summary="Back to the schedule")
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        instance = self.instance(key)
        self.given(forms.Empty)
        policy.resume(instance=instance, principal=self.principal)
        return self.shown(instance)


class PlanPolicy(View):
    operator_only = True
    scopes = {"GET": "admin", "PATCH": "admin"}

    @told(
        "GET",
        OpenApiTypes.OBJECT,
        tag=TAG,
        name="get_plan_backup_policy",
        summary="What instances of a plan have otherwise than the defaults",
    )
    def get(self, request: Request, slug: str) -> Response:
        row = Policy.objects.filter(plan=self.plan(slug)).first()
        return Response(row.values if row is not None else {})

    @told(
        "PATCH",
        OpenApiTypes.OBJECT,
        body=shapes.PolicyIn,
        tag=TAG,
        name="change_plan_backup_policy",
        summary="Change it for all of its instances that have no own value",
    )
    def patch(self, request: Request, slug: str) -> Response:
        plan = self.plan(slug)
        given = self.given(shapes.PolicyIn, partial=True)
        return Response(policy.set_plan_policy(plan=plan, principal=self.principal, values=given))

    def plan(self, slug: str) -> Plan:
        found = Plan.objects.filter(slug=slug).first()
        if found is None:
            raise Http404
        return found


class BackupKey(BackupView):
    scopes = {"POST": "backups", "DELETE": "backups"}

    # Not idempotent by key: the answer holds a secret, which is not kept to be given again.
    @told(
        "POST",
        shapes.BackupKey,
        status=201,
        body=forms.Empty,
        tag=TAG,
        name="hand_out_backup_key",
        summary="A key of your own to the repository; the one before opens it no more",
        live=True,
    )
    def post(self, request: Request, key: str) -> Response:
        repository = self.repository(self.instance(key))
        self.given(forms.Empty)
        made = repositories.hand_out_key(repository=repository, principal=self.principal)
        body = {"key": made.key.reveal(), "key_id": made.key_id, "url": made.url, "command": made.command}
        return Response({**body, "made_at": made.at}, status=201, headers={"Cache-Control": "no-store"})

    @told("DELETE", None, status=204, tag=TAG, name="take_back_backup_key", summary="Take that key back", live=True)
    def delete(self, request: Request, key: str) -> Response:
        repository = self.repository(self.instance(key))
        if not repositories.take_back_key(repository=repository, principal=self.principal):
            raise Http404
        return Response(status=204)

    def repository(self, instance: Instance) -> Repository:
        found = Repository.objects.select_related("place").filter(instance=instance).first()
        if found is None:
            raise Http404
        return found


class Repositories(BackupView):
    scopes = {"GET": READ}

    @told(
        "GET",
        shapes.Repository(many=True),
        tag=TAG,
        name="list_backup_repositories",
        summary="An overview: how fresh, how large, how sound, when proven; of instances that are gone, too",
        params=(query("there", bool, description="whether the instance is there"),),
    )
    def get(self, request: Request) -> Response:
        rows = Repository.objects.visible_to(self.principal).select_related("place")
        there = request.query_params.get("there")
        if there is not None:
            if there not in ("true", "false"):
                raise InvalidInput("there", "Say true or false.")
            rows = rows.filter(instance__isnull=there == "false")
        return self.paged(rows, lambda row: shapes.repository(row, operator=self.principal.is_operator))


class OneRepository(BackupView):
    scopes = {"GET": READ}

    @told("GET", shapes.Repository, tag=TAG, name="get_backup_repository", summary="Read one of them")
    def get(self, request: Request, key: str) -> Response:
        rows = Repository.objects.visible_to(self.principal).select_related("place", "organisation")
        found = rows.filter(key=key).first()
        if found is None:
            raise Http404
        self.demand_of(found)
        return Response(shapes.repository(found, operator=self.principal.is_operator))
