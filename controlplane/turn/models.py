"""The TURN secret of each instance, sealed. During a rotation the old one stays valid for a while."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from tenants.models import Instance


class TurnCredential(models.Model):
    """A shared secret for TURN REST credentials. ``retire_at``: when the previous one leaves the server."""

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="turn_credential")
    secret_sealed = models.TextField()
    rotation = models.BigIntegerField(default=0, help_text="the instance's rotate_turn that this secret is for")
    previous_sealed = models.TextField(blank=True)
    retire_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"TURN secret of {self.instance_id}"
