"""The other rooms' rows in Django's admin, all read-only: reconcilers write them. Sealed secrets are left out."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from controlplane.api.login import LimitedLogin
from controlplane.certificates.models import AcmeAccount, Certificate, Order
from controlplane.fleet import admission
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.provisioning.models import ProbeAccount, Walk
from controlplane.reconcile.models import Condition, Event, WorkItem
from controlplane.turn.models import TurnCredential
from controlplane.zones.models import DnsRecord, Zone
from tenants.admin import ReadOnly, principal_of

admin.site.login_form = LimitedLogin
admin.site.site_header = "Roost"
admin.site.site_title = "Roost"
admin.site.enable_nav_sidebar = False  # the lists are wide
admin.site.index_title = "What is, and what should be"


@admin.register(Node)
class NodeAdmin(ReadOnly):
    list_display = ("name", "connection", "runtime", "address", "memory_mib", "accepting", "created_at")
    list_filter = ("accepting", "runtime")
    search_fields = ("name", "address")
    actions = ("cordon", "uncordon")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and bool(getattr(request.user, "is_superuser", False))

    @admin.action(description="Cordon: place nothing new there")
    def cordon(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._set(request, rows, accepting=False)

    @admin.action(description="Uncordon: accept new instances again")
    def uncordon(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._set(request, rows, accepting=True)

    def _set(self, request: HttpRequest, rows: QuerySet[Any], *, accepting: bool) -> None:
        for row in rows:
            admission.set_accepting(node=row, accepting=accepting, principal=principal_of(request))
        messages.success(request, "Done.")


@admin.register(Placement)
class PlacementAdmin(ReadOnly):
    list_display = ("instance", "node", "address", "base_port", "proxy65_port", "wanted_state", "applied_at", "error")
    list_filter = ("node", "wanted_state")
    search_fields = ("instance__key", "instance__domain__name", "address")
    list_select_related = ("instance__domain", "node")


@admin.register(EdgeRoute)
class EdgeRouteAdmin(ReadOnly):
    list_display = ("instance", "address", "base_port", "proxy65_port", "routed_at")
    search_fields = ("instance__key", "instance__domain__name")
    list_select_related = ("instance__domain",)


@admin.register(Zone)
class ZoneAdmin(ReadOnly):
    list_display = ("name", "created_at")
    search_fields = ("name",)


@admin.register(DnsRecord)
class DnsRecordAdmin(ReadOnly):
    list_display = ("name", "type", "rdatas", "publisher", "wanted", "published", "problem", "checked_at")
    list_filter = ("type", "publisher", "published", "wanted", "conflict")
    search_fields = ("name", "instance__key", "instance__domain__name")


@admin.register(AcmeAccount)
class AcmeAccountAdmin(ReadOnly):
    list_display = ("directory_url", "uri", "roots_fetched_at", "created_at")
    exclude = ("key_sealed",)


@admin.register(Certificate)
class CertificateAdmin(ReadOnly):
    list_display = ("instance", "serial", "not_after", "renew_at", "issued_at", "wanted")
    search_fields = ("instance__key", "instance__domain__name", "serial")
    exclude = ("key_sealed",)
    list_select_related = ("instance__domain",)


@admin.register(Order)
class OrderAdmin(ReadOnly):
    list_display = ("id", "certificate", "state", "problem", "created_at", "finished_at")
    list_filter = ("state",)
    exclude = ("key_sealed", "state_json")


@admin.register(TurnCredential)
class TurnCredentialAdmin(ReadOnly):
    list_display = ("instance", "rotation", "retire_at", "created_at")
    exclude = ("secret_sealed", "previous_sealed")
    list_select_related = ("instance__domain",)


@admin.register(ProbeAccount)
class ProbeAccountAdmin(ReadOnly):
    list_display = ("instance", "rotation", "applied", "created_at")
    exclude = ("password_sealed",)
    list_select_related = ("instance__domain",)


@admin.register(Walk)
class WalkAdmin(ReadOnly):
    list_display = ("instance", "ok", "at", "duration_s")
    list_filter = ("ok",)
    search_fields = ("instance__key", "instance__domain__name")
    list_select_related = ("instance__domain",)


@admin.register(WorkItem)
class WorkItemAdmin(ReadOnly):
    list_display = ("kind", "object_id", "queue", "due_at", "leased_until", "holder", "fence", "attempts")
    list_filter = ("kind", "queue")
    search_fields = ("object_id", "holder")


@admin.register(Condition)
class ConditionAdmin(ReadOnly):
    list_display = ("kind", "object_id", "type", "status", "reason", "message", "stalled", "last_transition")
    list_filter = ("kind", "type", "status", "stalled")
    search_fields = ("object_id", "reason", "message")


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ("at", "kind", "object_id", "scope", "type", "reason", "message")
    list_filter = ("kind", "type")
    search_fields = ("object_id", "scope", "message")
    date_hierarchy = "at"
    ordering = ("-id",)
