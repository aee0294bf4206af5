"""The row of an import: what an organisation brings along from elsewhere, previewed, confirmed, taken in."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q
from django.utils import timezone

from tenants.models import Instance

if TYPE_CHECKING:
    from tenants.principal import Principal

KEY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def import_key() -> str:
    return "".join(secrets.choice(KEY_ALPHABET) for _ in range(10))


class ImportQuerySet(models.QuerySet["Import"]):
    def visible_to(self, principal: Principal) -> ImportQuerySet:
        """The operator sees all, everyone else those of the principal's organisations."""
        if principal.is_operator:
            return self
        return self.filter(instance__organisation__slug__in=principal.organisations)


class Import(models.Model):
    """A file from elsewhere (XEP-0227, or a bundle of Roost's) that is brought into an instance.

    The file itself is in the spool under ``key`` until the import ends. ``host``: of which of its domains accounts are
    taken; "" while nobody has chosen. ``preview`` and ``report``: see ``imports``.
    """

    PREVIEWING, PREVIEWED, WAITING, RUNNING = "previewing", "previewed", "waiting", "running"
    DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
    STATES = [
        (PREVIEWING, "is being looked through"),
        (PREVIEWED, "waits to be confirmed"),
        (WAITING, "waits for its turn"),
        (RUNNING, "is being taken in"),
        (DONE, "is taken in"),
        (FAILED, "could not be taken in"),
        (CANCELLED, "was called off"),
    ]
    OPEN = (PREVIEWING, PREVIEWED, WAITING, RUNNING)

    key = models.CharField(max_length=10, unique=True, default=import_key, editable=False)
    instance = models.ForeignKey(Instance, null=True, on_delete=models.SET_NULL, related_name="imports")
    instance_key = models.CharField(max_length=8)
    file_name = models.CharField(max_length=200, blank=True, help_text="as its sender called it")
    file_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    host = models.CharField(max_length=253, blank=True)
    replace = models.BooleanField(default=False, help_text="what is there otherwise is overwritten, passwords too")
    state = models.CharField(max_length=10, choices=STATES, default=PREVIEWING)
    progress = models.JSONField(default=dict, blank=True)
    preview = models.JSONField(default=dict, blank=True)
    report = models.JSONField(default=dict, blank=True)
    requested_by = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    previewed_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True, help_text="of the last attempt")
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0, help_text="how often it was begun")
    error = models.TextField(blank=True)
    remedy = models.TextField(blank=True)

    objects = ImportQuerySet.as_manager()

    class Meta:
        app_label = "backups"
        constraints = [
            models.UniqueConstraint(
                fields=["instance"],
                condition=Q(state__in=["previewing", "previewed", "waiting", "running"]),
                name="one_import_at_a_time",
            )
        ]
        indexes = [models.Index(fields=["instance_key", "-created_at"], name="import_newest")]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.key} {self.state}"
