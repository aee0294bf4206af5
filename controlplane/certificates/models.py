"""ACME accounts, orders and certificates. Keys are sealed (``controlplane.vault``)."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from tenants.models import Instance


class AcmeAccount(models.Model):
    """Our account at one ACME directory, and the roots that its certificates chain to (empty: system trust)."""

    directory_url = models.URLField(unique=True)
    uri = models.URLField(blank=True, max_length=500)
    key_sealed = models.TextField()
    roots_pem = models.TextField(blank=True)
    roots_fetched_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.directory_url


class Certificate(models.Model):
    """The certificate of an instance: what it should name, and what is issued. Times are UTC."""

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="certificate")
    names = models.JSONField(default=list, help_text="subject alternative names wanted, A-labels")
    challenge_targets = models.JSONField(default=dict, help_text="identifier -> [zone, record name] for DNS-01")
    wanted = models.BooleanField(default=True)
    rotation = models.BigIntegerField(default=0, help_text="the instance's rotate_certificate when last issued")
    rotation_wanted = models.BigIntegerField(default=0)
    chain_pem = models.TextField(blank=True)
    key_sealed = models.TextField(blank=True)
    serial = models.CharField(max_length=64, blank=True, help_text="hexadecimal")
    not_before = models.DateTimeField(null=True, blank=True)
    not_after = models.DateTimeField(null=True, blank=True)
    renew_at = models.DateTimeField(null=True, blank=True)
    renewal_checked_at = models.DateTimeField(null=True, blank=True)
    issued_at = models.DateTimeField(null=True, blank=True)
    retry_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="no order before this: a rate limit, or a pause after failures",
    )

    class Meta:
        ordering = ["instance"]

    def __str__(self) -> str:
        return f"certificate of {self.instance_id}"


class Order(models.Model):
    """One ACME order, resumable: its state as the CA last told, and the key and CSR that it is for."""

    STATES = [("open", "open"), ("issued", "issued"), ("failed", "failed"), ("abandoned", "abandoned")]

    certificate = models.ForeignKey(Certificate, on_delete=models.CASCADE, related_name="orders")
    state = models.CharField(max_length=10, choices=STATES, default="open")
    url = models.URLField(blank=True, max_length=500)
    state_json = models.TextField(blank=True)
    key_sealed = models.TextField()
    csr_pem = models.TextField()
    names = models.JSONField(default=list)
    rotation = models.BigIntegerField(default=0)
    published = models.JSONField(default=list, help_text="TXT sets to take away after it: [[zone, name, [values]]]")
    http_answers = models.JSONField(default=dict, help_text="HTTP-01: token -> key authorization")
    problem = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["certificate"], condition=models.Q(state="open"), name="one_open_order_per_certificate"
            )
        ]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"order {self.pk} {self.state}"
