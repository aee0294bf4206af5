"""The other rooms' rows in Django's admin, all read-only: reconcilers write them. Sealed secrets are left out."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from controlplane.api.login import LimitedLogin
from controlplane.certificates.models import AcmeAccount, Certificate, Order
from controlplane.fleet import admission
from controlplane.fleet.models import EdgeRoute, Node, Placement, Rollout, Scratch
from controlplane.fleet.placing import memory_used_mib
from controlplane.provisioning.models import ProbeAccount, Walk
from controlplane.reconcile.models import Condition, Event, WorkItem
from controlplane.turn.models import TurnCredential
from controlplane.values.errors import RoostError
from controlplane.zones.models import DnsRecord, Zone
from tenants.admin import ReadOnly, conditions_table, principal_of, ready

admin.site.login_form = LimitedLogin
admin.site.site_header = "Roost"
admin.site.site_title = "Roost"
admin.site.enable_nav_sidebar = False  # the lists are wide
admin.site.index_title = "What is, and what should be"


@admin.register(Node)
class NodeAdmin(ReadOnly):
    list_display = ("name", "address", "standing", "ready", "edge", "instances", "memory", "labelled", "prepared_at")
    list_filter = ("standing", "edge", "runtime", "connection", "carries_instances")
    search_fields = ("name", "address")
    readonly_fields = ("conditions", "instances", "memory", "labelled")
    #: Sealed keys are left out, and variables, which may hold secrets.
    fieldsets = (
        (None, {"fields": ("name", "conditions", "standing", "instances", "memory", "labelled")}),
        (
            "Where it is",
            {"fields": ("address", "edge", "public_addresses", "private_address", "instance_network", "base_port")},
        ),
        ("What it told", {"fields": ("facts", "facts_at", "prepared_at", "created_at")}),
        (
            "How it is reached",
            {
                "classes": ("collapse",),
                "fields": ("connection", "ssh_user", "ssh_port", "host_keys", "seen_host_keys", "public_key"),
            },
        ),
        (
            "Paths",
            {
                "classes": ("collapse",),
                "fields": (
                    "runtime",
                    "runtime_dir",
                    "supervisor_socket",
                    "root",
                    "state_dir",
                    "edge_socket",
                    "edge_map_dir",
                    "control_group",
                ),
            },
        ),
    )
    actions = ("cordon", "uncordon", "drain")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and bool(getattr(request.user, "is_superuser", False))

    @admin.display(boolean=True, description="ready")
    def ready(self, row: Node) -> bool | None:
        return ready("Node", row.name)

    @admin.display(description="conditions")
    def conditions(self, row: Node) -> SafeString:
        return conditions_table("Node", row.name)

    @admin.display(description="labels")
    def labelled(self, row: Node) -> str:
        return ", ".join(f"{name}: {value}" for name, value in sorted(row.labels.items()))

    @admin.display(description="instances")
    def instances(self, row: Node) -> int:
        return row.placements.count()

    @admin.display(description="memory (MiB)")
    def memory(self, row: Node) -> str:
        return f"{memory_used_mib(row)} of {row.capacity_mib}"

    @admin.action(description="Cordon: place nothing new there")
    def cordon(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._set(request, rows, Node.CORDONED)

    @admin.action(description="Uncordon: accept new instances again")
    def uncordon(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._set(request, rows, Node.ACTIVE)

    @admin.action(description="Drain: it is to be emptied")
    def drain(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        self._set(request, rows, Node.DRAINING)

    def _set(self, request: HttpRequest, rows: QuerySet[Any], standing: str) -> None:
        done = 0
        for row in rows:
            try:
                admission.set_standing(node=row, standing=standing, principal=principal_of(request))
                done += 1
            except RoostError as error:
                messages.error(request, f"{row.name}: {error}")
        if done:
            messages.success(request, f"Done: {done}.")


@admin.register(Placement)
class PlacementAdmin(ReadOnly):
    list_display = (
        "instance",
        "node",
        "address",
        "base_port",
        "proxy65_port",
        "wanted_state",
        "applied_at",
        "explanation",
    )
    list_filter = ("node", "wanted_state")
    search_fields = ("instance__key", "instance__domain__name", "address")
    list_select_related = ("instance__domain", "node")


@admin.register(EdgeRoute)
class EdgeRouteAdmin(ReadOnly):
    list_display = ("instance", "edge", "address", "base_port", "proxy65_port", "routed_at")
    list_filter = ("edge",)
    search_fields = ("instance__key", "instance__domain__name")
    list_select_related = ("instance__domain", "edge")


@admin.register(Rollout)
class RolloutAdmin(ReadOnly):
    list_display = ("pk", "kind", "state", "created_by", "created_at", "finished_at", "reason")
    list_filter = ("kind", "state")


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


@admin.register(Scratch)
class ScratchAdmin(ReadOnly):
    list_display = ("key", "instance", "node", "engine", "purpose", "owner_kind", "owner_id", "wanted_state", "error")
    search_fields = ("key", "instance__key", "owner_id")
    list_select_related = ("instance__domain", "node")
