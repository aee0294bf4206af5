"""What can be done to an instance. Each answers 202 with the instance to watch, and may be sent twice."""

from __future__ import annotations

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.v1 import serializers as forms
from controlplane.api.v1 import shapes
from controlplane.api.v1.base import View
from controlplane.api.v1.instances import accepted, open_plan
from controlplane.api.v1.schema import told
from controlplane.fleet import placing
from tenants import services
from tenants.models import Instance

TAG = "instance actions"


class Action(View):
    """Needs the scope "instances" in the instance's organisation."""

    scopes = {"POST": "instances"}


class Suspend(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.SuspendIn,
        tag=TAG,
        name="suspend_instance",
        summary="Refuse logins, keep the data",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        given = self.given(forms.SuspendIn)
        return accepted(request, services.suspend_instance(instance=row, principal=self.principal, **given))


class Unsuspend(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="unsuspend_instance",
        summary="Run it again",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        self.given(forms.Empty)
        return accepted(request, services.unsuspend_instance(instance=row, principal=self.principal))


class Terminate(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.TerminateIn,
        tag=TAG,
        name="terminate_instance",
        summary="Stop it now, remove it after the grace time",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        given = self.given(forms.TerminateIn)
        return accepted(request, services.terminate_instance(instance=row, principal=self.principal, **given))


class Restore(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="restore_instance",
        summary="Undo a termination within its grace time",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        self.given(forms.Empty)
        return accepted(request, services.restore_instance(instance=row, principal=self.principal))


class Rotate(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.RotateIn,
        tag=TAG,
        name="rotate",
        summary="A new TURN secret, certificate or probe password",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        given = self.given(forms.RotateIn)
        return accepted(request, services.rotate(instance=row, what=given["what"], principal=self.principal))


class Reverify(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.Empty,
        tag=TAG,
        name="reverify_instance",
        summary="Have a client walk through it again",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row = self.instance(key)
        self.given(forms.Empty)
        return accepted(request, services.reverify_instance(instance=row, principal=self.principal))


class ChangePlan(Action):
    @told(
        "POST",
        shapes.Instance,
        status=202,
        body=forms.PlanChoice,
        tag=TAG,
        name="change_instance_plan",
        summary="Put it on another plan",
    )
    @idempotent
    def post(self, request: Request, key: str) -> Response:
        row: Instance = self.instance(key)
        plan = open_plan(self.given(forms.PlanChoice)["plan"])
        with transaction.atomic():
            placing.check_room(row, plan)
            changed = services.change_plan(instance=row, plan=plan, principal=self.principal)
        return accepted(request, changed)
