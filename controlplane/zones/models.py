"""Zones that Roost writes, and the record sets that it wants in them or expects in a customer's."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from controlplane.values.records import RecordSet
from tenants.models import Instance


class Zone(models.Model):
    """A zone that the configured DNS driver writes.

    ``checked_at``: all of its records were compared after this moment; None: never, or asked for anew.
    ``resync_from``: since when a comparison of all is under way; records looked at before it are still to come.
    """

    name = models.CharField(max_length=253, unique=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    resync_from = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DnsRecord(models.Model):
    """One record set that should exist (or, ``wanted`` false, should go).

    ``publisher`` "ours": in ``zone``, written by Roost. "customer": in the customer's own zone; we only look.
    ``created_by_us`` is set only when Roost itself made the set, and only then may Roost change or delete it.
    ``attempted`` is the data that Roost was about to create: so it knows its own work after a crash in between.
    ``revision`` grows when what is wanted changes; a pass writes only about the revision that it looked at.
    """

    PUBLISHERS = [("ours", "Roost"), ("customer", "the customer")]

    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, null=True, blank=True, related_name="records")
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="dns_records")
    publisher = models.CharField(max_length=10, choices=PUBLISHERS)
    name = models.CharField(max_length=253)
    type = models.CharField(max_length=8)
    ttl_s = models.PositiveIntegerField()
    rdatas = models.JSONField(default=list)
    purpose = models.CharField(max_length=300, blank=True)
    optional = models.BooleanField(default=False)
    wanted = models.BooleanField(default=True)
    revision = models.PositiveBigIntegerField(default=1)
    attempted = models.JSONField(default=list, blank=True)
    created_by_us = models.BooleanField(default=False)
    published = models.BooleanField(default=False, help_text="seen at every authoritative server, as wanted")
    seen = models.JSONField(default=list, blank=True, help_text="the rdata that was there at the last look")
    checked_at = models.DateTimeField(null=True, blank=True)
    conflict = models.BooleanField(default=False)
    problem = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["zone", "name", "type"], name="one_record_set_per_key"),
            models.UniqueConstraint(
                fields=["instance", "name", "type"],
                condition=Q(publisher="customer"),
                name="one_customer_record_set_per_key",
            ),
            models.CheckConstraint(
                condition=Q(publisher="customer", zone__isnull=True) | Q(publisher="ours", zone__isnull=False),
                name="our_records_have_a_zone",
            ),
        ]
        indexes = [
            models.Index(
                fields=["zone"],
                condition=Q(wanted=False) | Q(published=False),
                name="dns_records_unsettled",
            )
        ]
        ordering = ["name", "type"]

    def __str__(self) -> str:
        return f"{self.name} {self.type}"

    @property
    def key(self) -> tuple[str, str]:
        return (self.name, self.type)

    def record_set(self) -> RecordSet:
        return RecordSet.of(self.name, self.type, self.ttl_s, self.rdatas)
