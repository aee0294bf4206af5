"""Bodies of backups, their policy and their places: shapes for the schema, what comes in, and rows as they go out."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from controlplane.api.v1.serializers import Strict
from controlplane.api.v1.shapes import Condition, Shape
from controlplane.api.v1.shown import conditions_of, url
from controlplane.backups import places as services
from controlplane.backups import policy as rules
from controlplane.backups.models import Backup as BackupRow
from controlplane.backups.models import Place as PlaceRow
from controlplane.backups.models import Repository as RepositoryRow
from controlplane.backups.schedule import MAX_LENGTH
from tenants.models import Instance

KINDS = [kind for kind, _ in BackupRow.KINDS]
STATES = [state for state, _ in BackupRow.STATES]


class BackupIn(Strict):
    kind = s.ChoiceField(KINDS, default="full")


class PauseIn(Strict):
    reason = s.CharField(max_length=200, allow_blank=True, default="")


class PolicyIn(Strict):
    """What is left out stays; null takes an own value away, so that the plan's counts again."""

    full_cron = s.CharField(max_length=MAX_LENGTH, allow_blank=True, allow_null=True, required=False)
    members_cron = s.CharField(max_length=MAX_LENGTH, allow_blank=True, allow_null=True, required=False)
    time_zone = s.CharField(max_length=64, allow_null=True, required=False)
    jitter_s = s.IntegerField(allow_null=True, required=False)
    keep = s.DictField(child=s.IntegerField(), allow_null=True, required=False)
    keep_members = s.DictField(child=s.IntegerField(), allow_null=True, required=False)
    prune_days = s.IntegerField(allow_null=True, required=False)
    check_days = s.IntegerField(allow_null=True, required=False)
    check_percent = s.IntegerField(allow_null=True, required=False)
    drill_days = s.IntegerField(allow_null=True, required=False)
    expire_days = s.IntegerField(allow_null=True, required=False)


class Policy(Shape):
    full_cron = s.CharField(allow_blank=True, help_text="five fields; empty: never")
    members_cron = s.CharField(allow_blank=True)
    time_zone = s.CharField()
    jitter_s = s.IntegerField(help_text="starts are spread over so many seconds")
    keep = s.DictField(child=s.IntegerField(), help_text="last, hourly, daily, weekly, monthly, yearly -> how many")
    keep_members = s.DictField(child=s.IntegerField())
    prune_days = s.IntegerField()
    check_days = s.IntegerField(help_text="0: never")
    check_percent = s.IntegerField(help_text="of the data, read at each check")
    drill_days = s.IntegerField(help_text="0: never")
    expire_days = s.IntegerField(help_text="kept so long after the instance's end")
    paused_at = s.DateTimeField(allow_null=True)
    paused_reason = s.CharField(allow_blank=True)
    own = s.ListField(child=s.CharField(), help_text="which values are the instance's own")
    next_full = s.DateTimeField(allow_null=True, help_text="when the next one begins")
    next_members = s.DateTimeField(allow_null=True)


class Backup(Shape):
    key = s.CharField()
    instance = s.CharField(help_text="key; it may be gone")
    domain = s.CharField()
    kind = s.ChoiceField(BackupRow.KINDS)
    trigger = s.ChoiceField(BackupRow.TRIGGERS)
    state = s.ChoiceField(BackupRow.STATES)
    requested_by = s.CharField(allow_blank=True)
    due_for = s.DateTimeField(allow_null=True)
    created_at = s.DateTimeField()
    started_at = s.DateTimeField(allow_null=True)
    finished_at = s.DateTimeField(allow_null=True)
    attempts = s.IntegerField(help_text="that failed")
    progress = s.DictField(help_text="phase, done, total, bytes, while it is made")
    moment = s.DateTimeField(allow_null=True, help_text="everything until then is in it")
    moments = s.DictField(child=s.CharField(), help_text="accounts, rooms, archives, uploads -> as of when")
    counts = s.DictField(child=s.IntegerField())
    files = s.IntegerField()
    bytes = s.IntegerField()
    added_bytes = s.IntegerField(help_text="new to the repository, before compression")
    engine = s.DictField(child=s.CharField())
    snapshot = s.CharField(allow_blank=True, help_text="restic's id")
    pinned = s.BooleanField()
    error = s.CharField(allow_blank=True)
    remedy = s.CharField(allow_blank=True)
    links = s.DictField(child=s.CharField())


class Repository(Shape):
    """The backups of one instance, also of one that is gone."""

    key = s.CharField()
    instance = s.CharField()
    domain = s.CharField()
    organisation = s.CharField()
    there = s.BooleanField(help_text="the instance is")
    place = s.CharField(help_text="its name")
    url = s.CharField()
    made_at = s.DateTimeField(allow_null=True)
    last_full = s.DateTimeField(allow_null=True, help_text="the moment of the newest")
    last_members = s.DateTimeField(allow_null=True)
    bytes = s.IntegerField(help_text="of the newest full backup")
    backups = s.IntegerField()
    running = s.IntegerField(help_text="waiting or being made")
    pruned_at = s.DateTimeField(allow_null=True)
    checked_at = s.DateTimeField(allow_null=True)
    check_errors = s.ListField(child=s.CharField())
    maintenance_error = s.CharField(allow_blank=True)
    proven_at = s.DateTimeField(allow_null=True)
    rpo_s = s.FloatField(allow_null=True)
    rto_s = s.FloatField(allow_null=True)
    tenant_key_at = s.DateTimeField(allow_null=True)
    terminated_at = s.DateTimeField(allow_null=True)
    expires_at = s.DateTimeField(allow_null=True)
    conditions = Condition(many=True)
    links = s.DictField(child=s.CharField())


class BackupKey(Shape):
    key = s.CharField(help_text="the password of the repository; shown this once, and kept nowhere")
    key_id = s.CharField()
    url = s.CharField()
    command = s.CharField()
    made_at = s.DateTimeField()


class PlaceIn(Strict):
    name = s.CharField(max_length=40)
    url = s.CharField(max_length=services.MAX_URL)
    environment = s.DictField(child=s.CharField(max_length=4096, allow_blank=True), required=False)
    host_keys = s.ListField(child=s.CharField(max_length=9000), max_length=services.MAX_HOST_KEYS, required=False)
    authorities = s.CharField(max_length=services.MAX_AUTHORITIES, allow_blank=True, required=False)
    upload_kib_s = s.IntegerField(required=False)
    download_kib_s = s.IntegerField(required=False)
    at_once = s.IntegerField(required=False)
    at_once_per_node = s.IntegerField(required=False)
    is_default = s.BooleanField(required=False)


class PlaceChange(PlaceIn):
    name = None  # type: ignore[assignment]  # it never changes
    url = s.CharField(max_length=services.MAX_URL, required=False)


class Place(Shape):
    name = s.CharField()
    url = s.CharField()
    variables = s.ListField(child=s.CharField(), help_text="names of what it is given; values are never shown")
    public_key = s.CharField(allow_blank=True, help_text="ours, for its authorized_keys (sftp)")
    host_keys = s.ListField(child=s.CharField())
    authorities = s.CharField(allow_blank=True)
    upload_kib_s = s.IntegerField()
    download_kib_s = s.IntegerField()
    at_once = s.IntegerField()
    at_once_per_node = s.IntegerField()
    is_default = s.BooleanField()
    repositories = s.IntegerField()


_BACKUP = (
    *("key", "kind", "trigger", "state", "requested_by", "due_for", "created_at", "started_at", "finished_at"),
    *("attempts", "progress", "moment", "moments", "counts", "files", "bytes", "added_bytes", "engine", "snapshot"),
    *("pinned", "error", "remedy"),
)


def backup(row: BackupRow) -> dict[str, Any]:
    links = {"self": url("backup", key=row.key)}
    if row.state == BackupRow.DONE:
        links["bundle"] = url("backup-bundle", key=row.key)
    if row.repository.instance_id is not None:
        links["instance"] = url("instance", key=row.repository.instance_key)
    return {
        **{name: getattr(row, name) for name in _BACKUP},
        "instance": row.repository.instance_key,
        "domain": row.repository.domain,
        "links": links,
    }


_REPOSITORY = (
    *("key", "domain", "url", "made_at", "pruned_at", "checked_at", "check_errors", "maintenance_error", "proven_at"),
    *("rpo_s", "rto_s", "tenant_key_at", "terminated_at", "expires_at"),
)


def repository(row: RepositoryRow, *, operator: bool) -> dict[str, Any]:
    """What went wrong with the storage in words of the machine is the operator's to read."""
    done = row.backups.filter(state=BackupRow.DONE).exclude(moment=None).order_by("-moment")
    newest = {kind: done.filter(kind=kind).first() for kind in KINDS}
    full, members = newest["full"], newest["members"]
    body = {name: getattr(row, name) for name in _REPOSITORY}
    if not operator and body["maintenance_error"]:
        body["maintenance_error"] = "Its upkeep did not come about; the provider is told why."
    return {
        **body,
        "instance": row.instance_key,
        "organisation": row.organisation_slug,
        "there": row.instance_id is not None,
        "place": row.place.name,
        "last_full": full.moment if full else None,
        "last_members": members.moment if members else None,
        "bytes": full.bytes if full else 0,
        "backups": done.count(),
        "running": row.backups.filter(state__in=BackupRow.OPEN).count(),
        "conditions": conditions_of("Backups", row.instance_key) if row.instance_id is not None else [],
        "links": {"self": url("backup-repository", key=row.key), "backups": f"{url('backups')}?repository={row.key}"},
    }


def policy(instance: Instance, found: rules.Rules, now: Any) -> dict[str, Any]:
    def begins(kind: str) -> Any:
        jitter = found.jitter(instance.key, kind)
        at = found.next_after(kind, now - jitter)
        return at + jitter if at is not None and found.paused_at is None else None

    return {
        **rules.shown(found),
        "own": sorted(rules.own_values(instance)),
        "next_full": begins("full"),
        "next_members": begins("members"),
    }


def place(row: PlaceRow) -> dict[str, Any]:
    fields = (
        *("name", "url", "public_key", "host_keys", "authorities", "upload_kib_s", "download_kib_s", "at_once"),
        *("at_once_per_node", "is_default"),
    )
    return {
        **{name: getattr(row, name) for name in fields},
        "variables": services.variables(row),
        "repositories": row.repositories.count(),
    }
