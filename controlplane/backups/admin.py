"""Backups' rows in Django's admin, all read-only: services and passes write them. Secrets are left out."""

from __future__ import annotations

from django.contrib import admin

from controlplane.backups.models import Backup, Drill, Import, OraclePart, Place, Policy, Repository, Restore
from tenants.admin import ReadOnly


@admin.register(Place)
class PlaceAdmin(ReadOnly):
    list_display = ("name", "url", "is_default", "at_once", "at_once_per_node")
    search_fields = ("name", "url")
    exclude = ("environment_sealed", "key_sealed")


@admin.register(Repository)
class RepositoryAdmin(ReadOnly):
    list_display = (
        "key",
        "instance_key",
        "domain",
        "organisation_slug",
        "place",
        "proven_at",
        "checked_at",
        "expires_at",
    )
    list_filter = ("place", ("expires_at", admin.EmptyFieldListFilter))
    search_fields = ("key", "instance_key", "domain", "organisation_slug")
    list_select_related = ("place",)
    exclude = ("key_sealed", "oracle_key_sealed")


@admin.register(Policy)
class PolicyAdmin(ReadOnly):
    list_display = ("id", "plan", "instance", "paused_at", "values")
    search_fields = ("instance__key", "plan__slug")
    list_select_related = ("plan", "instance__domain")


@admin.register(Backup)
class BackupAdmin(ReadOnly):
    list_display = (
        "key",
        "repository",
        "kind",
        "trigger",
        "state",
        "created_at",
        "finished_at",
        "bytes",
        "added_bytes",
    )
    list_filter = ("state", "kind", "trigger")
    search_fields = ("key", "repository__instance_key", "repository__domain")
    list_select_related = ("repository",)


@admin.register(OraclePart)
class OraclePartAdmin(ReadOnly):
    list_display = ("id", "backup", "number")
    search_fields = ("backup__key",)
    list_select_related = ("backup",)
    exclude = ("content",)


@admin.register(Restore)
class RestoreAdmin(ReadOnly):
    list_display = ("key", "instance_key", "mode", "state", "created_at", "switched_at", "finished_at", "error")
    list_filter = ("state", "mode")
    search_fields = ("key", "instance_key")


@admin.register(Drill)
class DrillAdmin(ReadOnly):
    list_display = ("key", "repository", "trigger", "state", "rpo_s", "rto_s", "created_at", "finished_at")
    list_filter = ("state", "trigger")
    search_fields = ("key", "repository__instance_key", "repository__domain")
    list_select_related = ("repository",)


@admin.register(Import)
class ImportAdmin(ReadOnly):
    list_display = ("key", "instance_key", "file_name", "state", "created_at", "finished_at", "error")
    list_filter = ("state",)
    search_fields = ("key", "instance_key", "file_name")
