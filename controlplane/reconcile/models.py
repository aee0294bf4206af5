"""The work queue (a row per resource, not per job), the conditions, and the history of what changed.

Resources are named by kind and id as text, so this room knows none of them.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone


class WorkItem(models.Model):
    """One resource that is kept as it should be. ``fence`` grows with every claim; writes compare it."""

    kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=80)
    queue = models.CharField(max_length=20)
    due_at = models.DateTimeField(default=timezone.now)
    leased_until = models.DateTimeField(null=True, blank=True)
    holder = models.CharField(max_length=120, blank=True)
    fence = models.BigIntegerField(default=0)
    nudged = models.BooleanField(default=False)
    attempts = models.PositiveIntegerField(default=0, help_text="passes in a row that ended with an error")
    origin = models.CharField(
        max_length=64, default="", db_default="", help_text="the request that it was touched by, for the logs"
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "object_id"], name="one_item_per_resource")]
        indexes = [models.Index(fields=["queue", "due_at"], name="work_due")]
        ordering = ["due_at"]

    def __str__(self) -> str:
        return f"{self.kind} {self.object_id}"


class Status(models.TextChoices):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(models.Model):
    """One fact about a resource, as the last pass saw it."""

    kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=80)
    type = models.CharField(max_length=40)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.UNKNOWN)
    reason = models.CharField(max_length=60, blank=True)
    message = models.TextField(blank=True)
    remedy = models.TextField(blank=True)
    stalled = models.BooleanField(default=False, help_text="waiting will not help: somebody has to act")
    observed_generation = models.BigIntegerField(default=0)
    last_transition = models.DateTimeField(default=timezone.now)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "object_id", "type"], name="one_condition_per_type"),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="condition_status_known"),
        ]
        # "Which instances are Ready, the longest first": asked by walks that look for a peer, and by overviews.
        indexes = [models.Index(fields=["kind", "type", "status", "last_transition"], name="condition_by_status")]
        ordering = ["kind", "object_id", "position", "type"]

    def __str__(self) -> str:
        return f"{self.type}={self.status} ({self.reason})"


class Event(models.Model):
    """What happened to a resource, for people and for followers. ``scope``: the organisation's slug or empty.

    ``txid`` is the writing transaction (filled by the database): followers read only below the oldest
    running transaction, in the order (txid, id), so a slow commit is never skipped.
    """

    at = models.DateTimeField(default=timezone.now)
    txid = models.BigIntegerField(editable=False)
    kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=80)
    scope = models.CharField(max_length=63, blank=True)
    type = models.CharField(max_length=60)
    reason = models.CharField(max_length=60, blank=True)
    message = models.TextField(blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["kind", "object_id", "txid", "id"], name="event_of_object"),
            models.Index(fields=["txid", "id"], name="event_order"),
            models.Index(fields=["scope", "txid", "id"], name="event_of_scope"),
        ]
        ordering = ["txid", "id"]

    def __str__(self) -> str:
        return f"{self.type} {self.kind} {self.object_id}"
