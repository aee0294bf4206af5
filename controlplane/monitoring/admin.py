"""Monitoring's rows in Django's admin, all read-only: probers, passes and services write them. Secrets are left out."""

from __future__ import annotations

from django.contrib import admin

from controlplane.monitoring.models import (
    AddressSighting,
    AddressWatch,
    CheckState,
    Incident,
    IncidentEntry,
    Maintenance,
    Notice,
    ProbePlace,
    ProbePlan,
    Roll,
    S2sLink,
    SampleHour,
    Subscription,
)
from tenants.admin import ReadOnly


class Timeline(admin.TabularInline):  # type: ignore[type-arg]
    model = IncidentEntry
    extra = 0
    can_delete = False
    fields = ("at", "type", "message")
    readonly_fields = fields

    def has_add_permission(self, *_: object) -> bool:
        return False


@admin.register(Incident)
class IncidentAdmin(ReadOnly):
    list_display = ("key", "started_at", "ended_at", "kind", "cause", "scope", "title")
    list_filter = (("ended_at", admin.EmptyFieldListFilter), "kind", "cause")
    search_fields = ("key", "subject", "title", "scope")
    list_select_related = ("instance", "node")
    inlines = (Timeline,)


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnly):
    list_display = ("id", "organisation", "kind", "target", "active", "failing_since", "last_ok_at")
    list_filter = ("kind", "active")
    search_fields = ("target", "organisation__slug")
    list_select_related = ("organisation",)
    exclude = ("secret_sealed",)


@admin.register(Notice)
class NoticeAdmin(ReadOnly):
    """The payload is left out: one that asks for consent holds the link that gives it."""

    list_display = ("id", "created_at", "event", "subscription", "attempts", "sent_at", "given_up_at")
    list_filter = ("event", ("sent_at", admin.EmptyFieldListFilter))
    list_select_related = ("subscription",)
    exclude = ("payload",)


@admin.register(Maintenance)
class MaintenanceAdmin(ReadOnly):
    list_display = ("starts_at", "ends_at", "message", "node", "organisation", "instance", "cancelled_at")
    list_select_related = ("node", "organisation", "instance__domain")


@admin.register(S2sLink)
class S2sLinkAdmin(ReadOnly):
    list_display = ("instance", "remote", "state", "since", "cause", "rtt_ms", "retry_at")
    list_filter = ("state",)
    search_fields = ("instance__key", "instance__domain__name", "remote")
    list_select_related = ("instance__domain",)


@admin.register(CheckState)
class CheckStateAdmin(ReadOnly):
    list_display = ("instance", "check_name", "place", "state", "since", "last_at", "cause", "message")
    list_filter = ("state", "check_name", "place")
    search_fields = ("instance__key", "instance__domain__name")
    list_select_related = ("instance__domain",)


@admin.register(Roll)
class RollAdmin(ReadOnly):
    """Who and what is on it is its organisation's."""

    list_display = ("instance", "taken_at", "engine_started_at")
    list_select_related = ("instance__domain",)
    exclude = ("content", "missing", "digest")


@admin.register(ProbePlace)
class ProbePlaceAdmin(ReadOnly):
    list_display = ("name", "shard", "shards", "seen_at", "cut_off", "message")


admin.site.register([AddressSighting, AddressWatch, IncidentEntry, ProbePlan, SampleHour], ReadOnly)
