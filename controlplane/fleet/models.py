"""Nodes (machines that run engines), placements (instance -> node) and edge routes.

A placement is the intent: it names address and ports before anything exists on the node.
"""

from __future__ import annotations

import ipaddress

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from tenants.models import Instance


def _validate_network(value: str) -> None:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValidationError(f"{value} is not a network such as 127.77.128.0/17.") from error


class Node(models.Model):
    """A machine that runs tenants' engines. Paths are absolute on the node."""

    CONNECTIONS = [("local", "this machine"), ("ssh", "SSH")]
    RUNTIMES = [("supervisor", "supervisord"), ("systemd", "systemd")]

    name = models.SlugField(unique=True)
    connection = models.CharField(max_length=10, choices=CONNECTIONS, default="ssh")
    runtime = models.CharField(max_length=12, choices=RUNTIMES, default="systemd")
    address = models.CharField(max_length=253, help_text="where ansible reaches it")
    public_addresses = models.JSONField(default=list, help_text="IPv4 and IPv6 addresses of its edge, as text")
    instance_network = models.CharField(
        max_length=43, validators=[_validate_network], help_text="each instance gets one address of it"
    )
    base_port = models.PositiveIntegerField(default=7000)
    root = models.CharField(max_length=200, help_text="directory of the instances")
    state_dir = models.CharField(max_length=200)
    runtime_dir = models.CharField(max_length=200)
    supervisor_socket = models.CharField(max_length=200, blank=True)
    control_group = models.CharField(max_length=32, default="roost")
    memory_mib = models.PositiveIntegerField(default=2048, help_text="for all instances together")
    accepting = models.BooleanField(default=True, help_text="new instances may be placed here")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Placement(models.Model):
    """Where an instance lives, and what the node last applied of it.

    ``wanted_digest`` is written by the instance's pass, ``applied_digest`` by the node's: unequal means work.
    ``loaded_digest`` lags behind ``applied_digest`` until the engine was told to read its files again.
    """

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="placement")
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="placements")
    address = models.GenericIPAddressField()
    base_port = models.PositiveIntegerField()
    proxy65_port = models.PositiveIntegerField(unique=True)
    wanted_digest = models.CharField(max_length=64, blank=True)
    wanted_state = models.CharField(max_length=8, default="running")
    applied_digest = models.CharField(max_length=64, blank=True)
    loaded_digest = models.CharField(max_length=64, blank=True, help_text="what the running engine has read")
    applied_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="what the last convergence said, empty if it succeeded")
    failures = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    explanation = models.TextField(blank=True, help_text="why this node")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "address", "base_port"], name="one_instance_per_port")]
        ordering = ["node", "address"]

    def __str__(self) -> str:
        return f"{self.instance_id} on {self.node_id}"


class EdgeRoute(models.Model):
    """The names and the proxy65 port that the edge forwards to an instance."""

    instance = models.OneToOneField(Instance, on_delete=models.PROTECT, related_name="edge_route")
    hosts = models.JSONField(default=list)
    address = models.GenericIPAddressField()
    base_port = models.PositiveIntegerField()
    proxy65_port = models.PositiveIntegerField()
    routed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.instance_id} -> {self.address}:{self.base_port}"
