"""The tenants' rows in Django's admin: to look at, and to do what the services do.

Nothing is written past the services: forms and actions call them, everything else is read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from controlplane.reconcile.models import Condition
from controlplane.values.errors import RoostError
from tenants import services, tokens
from tenants.models import (
    ApiToken,
    AuditEvent,
    Domain,
    IdempotencyKey,
    Instance,
    Invitation,
    LoginLink,
    Membership,
    Organisation,
    Plan,
)
from tenants.principal import Principal

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
    _Inline = admin.TabularInline[Any, Any]
else:  # Django's classes take no type arguments at run time
    _Admin, _Inline = admin.ModelAdmin, admin.TabularInline


def principal_of(request: HttpRequest) -> Principal:
    return tokens.principal_of_user(request.user, address=request.META.get("REMOTE_ADDR") or None)


def conditions_table(kind: str, object_id: str) -> SafeString:
    """What the last pass found of a resource."""
    found = Condition.objects.filter(kind=kind, object_id=object_id).order_by("position")
    rows = format_html_join(
        "",
        '<tr><td><b>{}</b></td><td class="roost-{}">{}</td><td>{}</td><td>{} {}</td></tr>',
        ((c.type, c.status.lower(), c.status, c.reason, c.message, c.remedy) for c in found),
    )
    return format_html('<table class="roost-conditions">{}</table>', rows) if rows else SafeString("none yet")


def ready(kind: str, object_id: str) -> bool | None:
    """The condition Ready, as the admin's lists show it; None: not known."""
    found = Condition.objects.filter(kind=kind, object_id=object_id, type="Ready").first()
    return None if found is None or found.status == "Unknown" else found.status == "True"


class ReadOnly(_Admin):
    """Rows that services or reconcilers write."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MembershipInline(_Inline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)


@admin.register(Organisation)
class OrganisationAdmin(_Admin):
    list_display = ("slug", "name", "external_id", "instances", "created_at")
    search_fields = ("slug", "name", "external_id")
    fields = ("slug", "name", "external_id")
    inlines = (MembershipInline,)

    @admin.display(description="instances")
    def instances(self, row: Organisation) -> SafeString:
        where = reverse("admin:tenants_instance_changelist")
        return format_html('<a href="{}?organisation__id__exact={}">{}</a>', where, row.pk, row.instances.count())

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        values = {"name": obj.name, "external_id": obj.external_id, "principal": principal_of(request)}
        try:
            if change:
                services.change_organisation(organisation=obj, **values)
            else:
                obj.pk = services.create_organisation(slug=obj.slug, **values).pk
        except RoostError as error:
            messages.error(request, str(error))


@admin.register(Plan)
class PlanAdmin(_Admin):
    list_display = ("slug", "name", "open", "max_instances", "max_accounts", "max_rooms", "memory_mib", "node_labels")
    list_filter = ("open",)
    search_fields = ("slug", "name")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in form.changed_data if name != "slug"}
        if "node_labels" in values:
            values["node_labels"] = values["node_labels"] or {}  # an empty field is None
        try:
            if change:
                services.update_plan(plan=obj, principal=principal_of(request), **values)
            else:
                values.setdefault("name", obj.name)
                obj.pk = services.create_plan(slug=obj.slug, principal=principal_of(request), **values).pk
        except RoostError as error:
            messages.error(request, str(error))


@admin.register(Domain)
class DomainAdmin(ReadOnly):
    list_display = ("name", "organisation", "mode", "proven_at", "proof_method")
    list_filter = ("mode", ("proven_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "organisation__slug")
    list_select_related = ("organisation",)


Service = Callable[..., Any]


def _each(request: HttpRequest, rows: QuerySet[Any], service: Service, said: str, **more: Any) -> None:
    done = 0
    for row in rows:
        try:
            service(instance=row, principal=principal_of(request), **more)
            done += 1
        except RoostError as error:
            messages.error(request, f"{row.key}: {error}")
    if done:
        messages.success(request, f"{said}: {done}.")


class DesiredFilter(admin.SimpleListFilter):
    """Running, suspended or terminated, as the API has it."""

    title = "desired"
    parameter_name = "desired"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word) for word in ("running", "suspended", "terminated")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "terminated":
            return queryset.filter(deletion_requested_at__isnull=False)
        if self.value() in {"running", "suspended"}:
            return queryset.filter(deletion_requested_at=None, suspended_at__isnull=self.value() == "running")
        return queryset


@admin.register(Instance)
class InstanceAdmin(ReadOnly):
    list_display = ("key", "domain", "organisation", "engine", "plan", "state", "ready", "created_at")
    list_filter = (DesiredFilter, "engine", "plan", "organisation")
    search_fields = ("key", "domain__name", "organisation__slug", "display_name")
    list_select_related = ("domain", "organisation", "plan")
    readonly_fields = ("conditions",)
    fieldsets = (
        (None, {"fields": ("organisation", "domain", "plan", "engine", "conditions")}),
        (
            "What it should be",
            {
                "fields": (
                    "display_name",
                    "language",
                    "contacts",
                    "admins",
                    "s2s_blocked",
                    "publish_links",
                    "archive_days",
                    "upload_days",
                    "node_labels",
                )
            },
        ),
        (
            "Life",
            {"fields": ("created_at", "suspended_at", "suspended_reason", "deletion_requested_at", "delete_after")},
        ),
        (
            "Counters",
            {"fields": ("generation", "verify_generation", "rotate_turn", "rotate_certificate", "rotate_probe")},
        ),
    )
    actions = ("suspend", "resume", "verify_again", "terminate")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # The list's actions need it; the form itself stays read-only.
        return obj is None and bool(getattr(request.user, "is_superuser", False))

    @admin.display(description="desired")
    def state(self, row: Instance) -> str:
        if row.deletion_requested_at:
            return "terminated"
        return "suspended" if row.suspended_at else "running"

    @admin.display(boolean=True, description="ready")
    def ready(self, row: Instance) -> bool | None:
        return ready("Instance", row.key)

    @admin.display(description="conditions")
    def conditions(self, row: Instance) -> SafeString:
        return conditions_table("Instance", row.key)

    @admin.action(description="Suspend: refuse logins, keep data")
    def suspend(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        _each(request, rows, services.suspend_instance, "Suspended", reason="by the operator")

    @admin.action(description="Resume")
    def resume(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        _each(request, rows, services.unsuspend_instance, "Resumed")

    @admin.action(description="Verify again")
    def verify_again(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        _each(request, rows, services.reverify_instance, "To be verified")

    @admin.action(description="Terminate, with the usual grace time")
    def terminate(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        _each(request, rows, services.terminate_instance, "Terminated; can be restored through the API until the end")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly):
    list_display = ("at", "actor", "action", "organisation", "summary", "address")
    list_filter = ("action", "organisation")
    search_fields = ("actor", "object_id", "summary", "organisation")
    date_hierarchy = "at"


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    list_display = ("name", "prefix", "organisation", "scopes", "expires_at", "revoked_at", "last_used_at")
    search_fields = ("name", "prefix", "organisation__slug")
    exclude = ("digest",)
    list_select_related = ("organisation",)
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and bool(getattr(request.user, "is_superuser", False))

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        for row in rows:
            services.revoke_token(token=row, principal=principal_of(request))
        messages.success(request, "Revoked.")


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnly):
    list_display = ("owner", "key", "status", "location", "created_at")
    search_fields = ("owner", "key")
    exclude = ("body", "request_digest")


@admin.register(Membership)
class MembershipAdmin(_Admin):
    list_display = ("user", "organisation", "role")
    list_filter = ("role",)
    search_fields = ("user__username", "organisation__slug")
    autocomplete_fields = ("user", "organisation")


@admin.register(Invitation)
class InvitationAdmin(ReadOnly):
    list_display = ("email", "organisation", "role", "invited_by", "created_at", "expires_at", "accepted_at")
    search_fields = ("email", "organisation__slug")
    list_select_related = ("organisation",)
    exclude = ("digest",)


@admin.register(LoginLink)
class LoginLinkAdmin(ReadOnly):
    list_display = ("user", "organisation", "created_by", "created_at", "expires_at", "used_at")
    search_fields = ("user__username", "organisation__slug")
    list_select_related = ("user", "organisation")
    exclude = ("digest",)
