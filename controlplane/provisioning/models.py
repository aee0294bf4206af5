"""The account that Roost's own checks log in with, and what the last walk of a client found."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from tenants.models import Instance


class ProbeAccount(models.Model):
    """Password of the reserved account on an instance, sealed."""

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="probe_account")
    password_sealed = models.TextField()
    rotation = models.BigIntegerField(default=0)
    applied = models.BooleanField(default=False, help_text="the engine has this password")
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"probe account of {self.instance_id}"


#: A walk whose s2s step was left out for want of another tenant.
NO_PEER = [{"name": "s2s", "skipped": True}]


class Walk(models.Model):
    """The last walk of a client through an instance, step by step."""

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="walk")
    at = models.DateTimeField(default=timezone.now)
    ok = models.BooleanField(default=False)
    subject = models.CharField(
        max_length=64, blank=True, help_text="digest of what was walked: changes ask for another"
    )
    steps = models.JSONField(default=list)
    duration_s = models.FloatField(default=0)

    class Meta:
        indexes = [
            # Each instance that becomes Ready asks who still lacks somebody to talk with: few, or none.
            models.Index(
                fields=["instance"], name="walk_lacks_peer", condition=models.Q(ok=True, steps__contains=NO_PEER)
            )
        ]

    def __str__(self) -> str:
        return f"walk of {self.instance_id}: {'ok' if self.ok else 'failed'}"
