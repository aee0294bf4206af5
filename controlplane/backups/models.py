"""Where backups are kept, when they are made, what came of each, and what was done with them.

Rows of a tenant outlive its instance: a repository is kept, with the names as text, until its policy lets it expire.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, TypeVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from controlplane.backups.importrows import Import as Import
from tenants.models import Instance, Organisation, Plan

if TYPE_CHECKING:
    from tenants.principal import Principal

KEY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
M = TypeVar("M", bound=models.Model)


def row_key() -> str:
    return "".join(secrets.choice(KEY_ALPHABET) for _ in range(10))


class OfRepository(models.QuerySet[M]):
    """Rows that have a ``repository``: who may see that one may see them."""

    def visible_to(self, principal: Principal) -> OfRepository[M]:
        if principal.is_operator:
            return self
        return self.filter(repository__organisation__slug__in=principal.organisations)


class RepositoryQuerySet(models.QuerySet["Repository"]):
    def visible_to(self, principal: Principal) -> RepositoryQuerySet:
        """The operator sees all, everyone else those of the principal's organisations."""
        return self if principal.is_operator else self.filter(organisation__slug__in=principal.organisations)


class Place(models.Model):
    """Where repositories are made: one per tenant, below ``url``. The operator's; secrets are sealed.

    ``url`` as ``drivers.store.base.Repository`` has it. ``environment_sealed``: JSON of what the place asks for.
    ``host_keys``: for sftp, the only ones that are believed. ``public_key``: ours, to be allowed there.
    """

    name = models.SlugField(unique=True, max_length=40)
    url = models.CharField(max_length=500, help_text="a repository per tenant is made below it")
    environment_sealed = models.TextField(blank=True)
    public_key = models.TextField(blank=True, help_text="ours, for the place's authorized_keys (sftp)")
    key_sealed = models.TextField(blank=True)
    host_keys = models.JSONField(default=list, blank=True, help_text='pinned: "ssh-ed25519 AAAA..." each (sftp)')
    authorities = models.TextField(blank=True, help_text="PEM of the authorities to believe for https; empty: usual")
    upload_kib_s = models.PositiveIntegerField(default=0, help_text="KiB per second of each run; 0: no limit")
    download_kib_s = models.PositiveIntegerField(default=0, help_text="KiB per second of each run; 0: no limit")
    at_once = models.PositiveSmallIntegerField(default=4, help_text="backups and restores at the same time")
    at_once_per_node = models.PositiveSmallIntegerField(default=1, help_text="those of one node at the same time")
    is_default = models.BooleanField(default=False, help_text="new repositories are made here")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_place")
        ]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Repository(models.Model):
    """A tenant's backups: encrypted, with keys of its own. It stays when the instance is gone, until ``expires_at``.

    ``made_at``: when it was seen at its place for the first time. ``tenant_key_id``: the key that the tenant was
    handed out, which is kept nowhere here. ``oracle_key_sealed``: of the digests in the oracles, which lie outside.
    """

    key = models.CharField(max_length=10, unique=True, default=row_key, editable=False)
    place = models.ForeignKey(Place, on_delete=models.PROTECT, related_name="repositories")
    instance = models.OneToOneField(Instance, null=True, on_delete=models.SET_NULL, related_name="backup_repository")
    organisation = models.ForeignKey(
        Organisation, null=True, on_delete=models.SET_NULL, related_name="backup_repositories"
    )
    instance_key = models.CharField(max_length=8, db_index=True)
    domain = models.CharField(max_length=253, help_text="A-labels")
    organisation_slug = models.CharField(max_length=63)
    url = models.CharField(max_length=600)
    key_sealed = models.TextField()
    oracle_key_sealed = models.TextField()
    tenant_key_id = models.CharField(max_length=64, blank=True)
    tenant_key_at = models.DateTimeField(null=True, blank=True)
    made_at = models.DateTimeField(null=True, blank=True)

    pruned_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    check_errors = models.JSONField(default=list, blank=True, help_text="what the last check found, in restic's words")
    maintenance_error = models.TextField(blank=True, help_text="why pruning or checking did not come about last")
    maintenance_retry_at = models.DateTimeField(null=True, blank=True)

    proven_at = models.DateTimeField(null=True, blank=True, help_text="the last drill that found everything")
    rpo_s = models.FloatField(null=True, blank=True, help_text="as measured then: age of the restored moment")
    rto_s = models.FloatField(null=True, blank=True, help_text="as measured then: until all was there again")

    expire_days = models.PositiveIntegerField(default=30, help_text="as its policy said last: kept so long at the end")
    terminated_at = models.DateTimeField(null=True, blank=True, help_text="when its instance was gone")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="then it is removed, with all its data")
    created_at = models.DateTimeField(default=timezone.now)

    objects = RepositoryQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="repository_expiry")]
        ordering = ["-created_at", "key"]

    def __str__(self) -> str:
        return f"{self.key} of {self.domain}"


class Policy(models.Model):
    """When an instance is backed up and what is kept: a plan's, or one instance's own beside it.

    ``values``: only what differs from what is above it, by the names of ``policy.Rules``, which also has the defaults.
    """

    plan = models.OneToOneField(Plan, null=True, blank=True, on_delete=models.CASCADE, related_name="backup_policy")
    instance = models.OneToOneField(
        Instance, null=True, blank=True, on_delete=models.CASCADE, related_name="backup_policy"
    )
    values = models.JSONField(default=dict, blank=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_reason = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(plan__isnull=False, instance__isnull=True) | Q(plan__isnull=True, instance__isnull=False),
                name="policy_of_plan_or_instance",
            )
        ]

    def __str__(self) -> str:
        return f"backup policy of {'plan' if self.plan_id else 'instance'} {self.plan_id or self.instance_id}"


class Backup(models.Model):
    """One backup, wanted, under way or done. Its snapshot carries its key as a tag, so each is found from the other.

    ``progress``: {"phase", "done", "total", "bytes"}. ``moments``: scope -> ISO time that it is consistent as of.
    ``counts``: the manifest's. ``bytes``: of all that was saved; ``added_bytes``: what was new to the repository.
    """

    FULL, MEMBERS = "full", "members"
    KINDS = [(FULL, "everything"), (MEMBERS, "accounts, contacts and rooms without archives and files")]
    SCHEDULE, MANUAL, SAFETY, IMPORT = "schedule", "manual", "safety", "import"
    TRIGGERS = [
        (SCHEDULE, "its time had come"),
        (MANUAL, "somebody asked for it"),
        (SAFETY, "before something was restored"),
        (IMPORT, "before something was imported"),
    ]
    WAITING, RUNNING, DONE, FAILED, CANCELLED, EXPIRED = "waiting", "running", "done", "failed", "cancelled", "expired"
    STATES = [
        (WAITING, "waits for its turn"),
        (RUNNING, "is being made"),
        (DONE, "is there"),
        (FAILED, "could not be made"),
        (CANCELLED, "was called off"),
        (EXPIRED, "was removed, by age or with its repository"),
    ]
    OPEN = (WAITING, RUNNING)

    key = models.CharField(max_length=10, unique=True, default=row_key, editable=False)
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="backups")
    kind = models.CharField(max_length=8, choices=KINDS)
    trigger = models.CharField(max_length=8, choices=TRIGGERS)
    state = models.CharField(max_length=10, choices=STATES, default=WAITING)
    requested_by = models.CharField(max_length=200, blank=True)
    due_for = models.DateTimeField(null=True, blank=True, help_text="the time of the schedule that it was made for")
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True, help_text="of the last attempt")
    finished_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0, help_text="attempts that failed")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    progress = models.JSONField(default=dict, blank=True)
    node = models.CharField(max_length=50, blank=True, help_text="the node that it is read from, while it runs")

    snapshot = models.CharField(max_length=64, blank=True)
    moment = models.DateTimeField(null=True, blank=True, help_text="the oldest of its moments: all before it is in it")
    moments = models.JSONField(default=dict, blank=True)
    counts = models.JSONField(default=dict, blank=True)
    files = models.PositiveBigIntegerField(default=0)
    bytes = models.PositiveBigIntegerField(default=0)
    added_bytes = models.PositiveBigIntegerField(default=0)
    engine = models.JSONField(default=dict, blank=True, help_text="name and version that it was made of")
    error = models.TextField(blank=True)
    remedy = models.TextField(blank=True)
    pinned = models.BooleanField(default=False, help_text="no retention takes it away")

    objects = OfRepository["Backup"].as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["repository", "kind"],
                condition=Q(state__in=["waiting", "running"], trigger="schedule"),
                name="one_scheduled_backup_at_a_time",
            )
        ]
        indexes = [
            models.Index(fields=["repository", "kind", "state", "-moment"], name="backup_newest"),
            models.Index(fields=["state"], condition=Q(state__in=["waiting", "running"]), name="backup_open"),
        ]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.key} {self.kind} {self.state}"


class OraclePart(models.Model):
    """A piece of what a backup has to contain, by number and keyed digest (``portable.Tally``, compressed).

    It is kept here and not in the repository, so that whoever changes one cannot change the other.
    """

    backup = models.ForeignKey(Backup, on_delete=models.CASCADE, related_name="oracle_parts")
    number = models.PositiveIntegerField()
    content = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["backup", "number"], name="one_oracle_part_per_number")]
        ordering = ["backup", "number"]

    def __str__(self) -> str:
        return f"oracle of {self.backup_id}, part {self.number}"


class Restore(models.Model):
    """Something of a backup is brought back. First it is previewed, then somebody confirms it, then it is done.

    ``selection``: {"accounts": […], "rooms": […], "member_lists": […], "archives": {"from", "to"}, "engine", "node",
    "domain"}: what there is of it depends on ``mode``. ``report``: what came of it, {"made", "changed", "skipped",
    "refused": [[what, why]…], "refused_total"}.
    """

    IN_PLACE, NEW_INSTANCE, PART = "in_place", "new_instance", "part"
    MODES = [
        (IN_PLACE, "the whole instance, in place"),
        (NEW_INSTANCE, "into another instance"),
        (PART, "parts of it, into the running instance"),
    ]
    PREVIEWING, PREVIEWED, WAITING, RUNNING = "previewing", "previewed", "waiting", "running"
    DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
    STATES = [
        (PREVIEWING, "is being compared"),
        (PREVIEWED, "waits to be confirmed"),
        (WAITING, "waits for its turn"),
        (RUNNING, "is being restored"),
        (DONE, "is restored"),
        (FAILED, "could not be restored"),
        (CANCELLED, "was called off"),
    ]
    OPEN = (PREVIEWING, PREVIEWED, WAITING, RUNNING)

    key = models.CharField(max_length=10, unique=True, default=row_key, editable=False)
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="restores")
    backup = models.ForeignKey(Backup, null=True, on_delete=models.SET_NULL, related_name="restores")
    instance = models.ForeignKey(Instance, null=True, on_delete=models.SET_NULL, related_name="restores")
    instance_key = models.CharField(max_length=8, help_text="of the instance that it is restored into")
    mode = models.CharField(max_length=12, choices=MODES)
    selection = models.JSONField(default=dict, blank=True)
    preview = models.JSONField(default=dict, blank=True)
    safety = models.ForeignKey(Backup, null=True, blank=True, on_delete=models.SET_NULL, related_name="saves_for")
    state = models.CharField(max_length=10, choices=STATES, default=PREVIEWING)
    progress = models.JSONField(default=dict, blank=True)
    report = models.JSONField(default=dict, blank=True)
    requested_by = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    previewed_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    switched_at = models.DateTimeField(null=True, blank=True, help_text="from then on the restored state serves")
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    remedy = models.TextField(blank=True)

    objects = OfRepository["Restore"].as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["instance"],
                condition=Q(state__in=["waiting", "running"]),
                name="one_restore_at_a_time",
            )
        ]
        indexes = [models.Index(fields=["instance_key", "-created_at"], name="restore_newest")]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.key} {self.mode} {self.state}"


class Drill(models.Model):
    """A backup was restored aside and compared with its oracle, to prove that it could be.

    ``result``: {"checked": {kind: number}, "missing", "changed", "added", "differences": [in words, at most 50]}.
    """

    WAITING, RUNNING, PASSED, FAILED, BROKEN, CANCELLED = (
        "waiting", "running", "passed", "failed", "broken", "cancelled",
    )  # fmt: skip
    STATES = [
        (WAITING, "waits for its turn"),
        (RUNNING, "is being restored and compared"),
        (PASSED, "everything was there"),
        (FAILED, "something was not as it was saved"),
        (BROKEN, "could not be carried out"),
        (CANCELLED, "was called off"),
    ]
    OPEN = (WAITING, RUNNING)

    key = models.CharField(max_length=10, unique=True, default=row_key, editable=False)
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="drills")
    backup = models.ForeignKey(Backup, null=True, on_delete=models.SET_NULL, related_name="drills")
    trigger = models.CharField(max_length=8, choices=Backup.TRIGGERS[:2], default=Backup.SCHEDULE)
    state = models.CharField(max_length=10, choices=STATES, default=WAITING)
    progress = models.JSONField(default=dict, blank=True)
    result = models.JSONField(default=dict, blank=True)
    rpo_s = models.FloatField(null=True, blank=True)
    rto_s = models.FloatField(null=True, blank=True)
    requested_by = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    remedy = models.TextField(blank=True)

    objects = OfRepository["Drill"].as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["repository"], condition=Q(state__in=["waiting", "running"]), name="one_drill_at_a_time"
            )
        ]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.key} {self.state}"
