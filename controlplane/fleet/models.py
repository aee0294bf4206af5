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


class NodeQuerySet(models.QuerySet["Node"]):
    def carrying(self) -> NodeQuerySet:
        """Those that run engines and are not retired."""
        return self.filter(carries_instances=True).exclude(standing=Node.RETIRED)

    def placeable(self) -> NodeQuerySet:
        """Those that take new instances, as far as their operator is concerned."""
        return self.filter(carries_instances=True, standing=Node.ACTIVE)

    def edges(self) -> NodeQuerySet:
        """Those with an edge that is not retired."""
        return self.exclude(edge=Node.NO_EDGE).exclude(standing=Node.RETIRED)


class Node(models.Model):
    """A machine that runs tenants' engines, an edge, or both. Paths are absolute on the node.

    What is wanted of it is written by services; what is known of it (``seen_host_keys``, ``facts``, ``prepared``, the
    rotation's second key) by its own pass.
    """

    CONNECTIONS = [("local", "this machine"), ("ssh", "SSH")]
    RUNTIMES = [("supervisor", "supervisord"), ("systemd", "systemd")]
    ACTIVE, CORDONED, DRAINING, RETIRED = "active", "cordoned", "draining", "retired"
    STANDINGS = [
        (ACTIVE, "takes new instances"),
        (CORDONED, "takes no new instances"),
        (DRAINING, "is to be emptied"),
        (RETIRED, "is out of use"),
    ]
    NO_EDGE, OWN_EDGE, SHARED_EDGE = "none", "own", "shared"
    EDGES = [
        (NO_EDGE, "none: shared edges lead to its instances"),
        (OWN_EDGE, "its own, for its own instances"),
        (SHARED_EDGE, "shared, for the instances of all nodes without an own one"),
    ]

    name = models.SlugField(unique=True)
    connection = models.CharField(max_length=10, choices=CONNECTIONS, default="ssh")
    runtime = models.CharField(max_length=12, choices=RUNTIMES, default="systemd")
    address = models.CharField(max_length=253, help_text="where ansible reaches it")
    ssh_port = models.PositiveIntegerField(default=22)
    ssh_user = models.CharField(max_length=32, default="root")
    host_keys = models.JSONField(default=list, blank=True, help_text='pinned: "ssh-ed25519 AAAA..." each')
    seen_host_keys = models.JSONField(default=list, blank=True, help_text="what it showed last, if that is not pinned")
    public_key = models.TextField(blank=True, help_text="ours, for its authorized_keys")
    key_sealed = models.TextField(blank=True)
    next_public_key = models.TextField(blank=True, help_text="the one that replaces it, while it is rotated")
    next_key_sealed = models.TextField(blank=True)
    rotate_key = models.PositiveIntegerField(default=0, help_text="rotations asked for")
    rotated_key = models.PositiveIntegerField(default=0, help_text="rotations done")

    carries_instances = models.BooleanField(default=True)
    edge = models.CharField(max_length=8, choices=EDGES, default=OWN_EDGE)
    public_addresses = models.JSONField(default=list, blank=True, help_text="IPv4 and IPv6 of its edge, as text")
    private_address = models.GenericIPAddressField(
        null=True, blank=True, help_text="where shared edges reach its instances, and what an edge connects from"
    )
    instance_network = models.CharField(
        max_length=43,
        validators=[_validate_network],
        help_text="each instance gets one address of it; of a network of one address, one range of ports",
    )
    base_port = models.PositiveIntegerField(default=7000)
    root = models.CharField(max_length=200, default="/srv/roost/instances", help_text="directory of the instances")
    state_dir = models.CharField(max_length=200, default="/var/lib/roost-node")
    runtime_dir = models.CharField(max_length=200, default="/etc/systemd/system")
    supervisor_socket = models.CharField(max_length=200, blank=True)
    edge_socket = models.CharField(max_length=200, default="/run/roost/edge.sock")
    edge_map_dir = models.CharField(max_length=200, default="/var/lib/roost-edge")
    control_group = models.CharField(max_length=32, default="roost")
    variables = models.JSONField(default=dict, blank=True, help_text="variables for the roles that prepare it")
    memory_mib = models.PositiveIntegerField(
        default=0, help_text="for all instances together; 0: what it has, less a reserve"
    )
    labels = models.JSONField(default=dict, blank=True, help_text="such as region and provider")
    standing = models.CharField(max_length=10, choices=STANDINGS, default=ACTIVE)

    facts = models.JSONField(default=dict, blank=True, help_text="what it told of itself")
    facts_at = models.DateTimeField(null=True, blank=True)
    prepared = models.CharField(max_length=64, blank=True, help_text="digest of roles and variables applied last")
    prepared_at = models.DateTimeField(null=True, blank=True)
    prepare_wanted = models.PositiveIntegerField(default=0, help_text="preparations asked for")
    prepare_done = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def accepting(self) -> bool:
        """New instances may be placed here, as far as its operator is concerned."""
        return self.standing == self.ACTIVE and self.carries_instances

    @property
    def capacity_mib(self) -> int:
        """Memory for all instances together: as the operator said, else four fifths of what the machine has."""
        return self.memory_mib or int(self.facts.get("memory_mib", 0)) * 4 // 5


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
    adopt_id = models.CharField(max_length=32, blank=True, help_text="names the last take-over of a scratch's data")
    adopt_key = models.CharField(max_length=8, blank=True, help_text="the scratch whose data is taken over")
    kept = models.CharField(max_length=32, blank=True, help_text="the take-over whose former data is still kept aside")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "address", "base_port"], name="one_instance_per_port")]
        ordering = ["node", "address"]

    def __str__(self) -> str:
        return f"{self.instance_id} on {self.node_id}"


class Scratch(models.Model):
    """An engine of a tenant's that nobody talks with but Roost: a backup is brought back there and looked at.

    It has the instance's names and a key, a user, an address and ports of its own; no DNS, no edge, no other server
    leads to it. Digests as a placement's. ``owner_kind`` and ``owner_id``: whose work item is touched by news of it.
    A former one is what the instance itself left on a node when it was restored onto another.
    """

    SCRATCH, FORMER = "scratch", "former"

    key = models.CharField(max_length=8, unique=True, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="scratches")
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="scratches")
    engine = models.CharField(max_length=20)
    address = models.GenericIPAddressField()
    base_port = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField(help_text="reserved of the node's memory")
    owner_kind = models.CharField(max_length=40)
    owner_id = models.CharField(max_length=80)
    purpose = models.CharField(max_length=8, default=SCRATCH)
    wanted_digest = models.CharField(max_length=64, blank=True)
    wanted_state = models.CharField(max_length=8, default="running")
    applied_digest = models.CharField(max_length=64, blank=True)
    applied_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="what the last convergence said, empty if it succeeded")
    failures = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["node", "address", "base_port"], name="one_scratch_per_port"),
            models.UniqueConstraint(fields=["owner_kind", "owner_id", "purpose"], name="one_scratch_per_owner"),
        ]
        ordering = ["node", "address"]

    def __str__(self) -> str:
        return f"{self.key} for {self.owner_kind} {self.owner_id}"


class EdgeRoute(models.Model):
    """The names and the proxy65 port that one edge forwards to an instance."""

    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="edge_routes")
    edge = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="edge_routes")
    hosts = models.JSONField(default=list)
    address = models.GenericIPAddressField()
    base_port = models.PositiveIntegerField()
    proxy65_port = models.PositiveIntegerField()
    routed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance", "edge"], name="one_route_per_edge")]
        ordering = ["instance", "edge"]

    def __str__(self) -> str:
        return f"{self.instance_id} by {self.edge_id} -> {self.address}:{self.base_port}"


class Rollout(models.Model):
    """One change of many nodes, one at a time: the first is the canary, and a failure stops the rest.

    ``results``: node name -> {"state": waiting|running|done|failed, "message", "started_at", "finished_at",
    "versions"}.
    """

    RUNNING, STOPPED, DONE, CANCELLED = "running", "stopped", "done", "cancelled"
    STATES = [
        (RUNNING, "runs"),
        (STOPPED, "stopped at a failure"),
        (DONE, "done"),
        (CANCELLED, "was called off"),
    ]

    kind = models.CharField(max_length=12, choices=[("upgrade", "newer packages"), ("prepare", "roles applied again")])
    nodes = models.JSONField(default=list, help_text="names, the canary first")
    state = models.CharField(max_length=10, choices=STATES, default=RUNNING)
    results = models.JSONField(default=dict, blank=True)
    reason = models.TextField(blank=True, help_text="why it stopped")
    created_by = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            # Two at once could take two nodes of one organisation down together.
            models.UniqueConstraint(fields=["state"], condition=models.Q(state="running"), name="one_rollout_at_a_time")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}: {self.state}"
