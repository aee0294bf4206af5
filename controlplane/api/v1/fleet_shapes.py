"""Shapes of what goes out about nodes, placements and rollouts, for the schema; ``fleet_shown`` builds the bodies."""

from __future__ import annotations

from rest_framework import serializers as s

from controlplane.api.v1.shapes import Condition, Shape
from controlplane.fleet.models import Node as Row
from controlplane.fleet.models import Rollout as RolloutRow


class NodeListed(Shape):
    name = s.CharField()
    connection = s.ChoiceField(Row.CONNECTIONS)
    runtime = s.ChoiceField(Row.RUNTIMES)
    address = s.CharField()
    ssh_port = s.IntegerField()
    ssh_user = s.CharField()
    carries_instances = s.BooleanField()
    edge = s.ChoiceField(Row.EDGES)
    public_addresses = s.ListField(child=s.CharField())
    private_address = s.CharField(allow_null=True)
    instance_network = s.CharField()
    base_port = s.IntegerField()
    labels = s.DictField(child=s.CharField())
    standing = s.ChoiceField(Row.STANDINGS)
    accepting = s.BooleanField(help_text="new instances may be placed there, as far as its operator is concerned")
    ready = s.BooleanField(help_text="it does all that it should")
    reachable = s.BooleanField(allow_null=True)
    summary = s.CharField(help_text="one sentence")
    memory_mib = s.IntegerField(help_text="for all instances together")
    memory_used_mib = s.IntegerField(help_text="what the plans of its instances sum up to")
    instances = s.IntegerField()
    created_at = s.DateTimeField()
    links = s.DictField(child=s.CharField())


class HostKey(Shape):
    type = s.CharField(allow_blank=True)
    fingerprint = s.CharField(help_text="as `ssh-keygen -lf` prints it")
    line = s.CharField(allow_blank=True, help_text="empty while only the fingerprint was given")


class Counter(Shape):
    asked = s.IntegerField()
    done = s.IntegerField()


class BlastCounts(Shape):
    instances = s.IntegerField()
    organisations = s.IntegerField()
    wholly = s.IntegerField(help_text="organisations with all of their instances here")
    accounts = s.IntegerField(help_text="at most, by the plans")
    memory_mib = s.IntegerField()
    led = s.IntegerField(help_text="instances that its edge leads to")
    only_here = s.IntegerField(help_text="instances that no other edge leads to")


class Node(NodeListed):
    conditions = Condition(many=True)
    facts = s.DictField(help_text="what it told of itself: memory, disk, versions …")
    facts_at = s.DateTimeField(allow_null=True)
    root = s.CharField()  # type: ignore[assignment]
    state_dir = s.CharField()
    runtime_dir = s.CharField()
    supervisor_socket = s.CharField(allow_blank=True)
    edge_socket = s.CharField()
    edge_map_dir = s.CharField()
    control_group = s.CharField()
    variables = s.DictField(help_text="of the roles; values are null for who may only read")
    host_keys = HostKey(many=True, help_text="it is believed by")
    seen_host_keys = HostKey(many=True, help_text="it shows, and is not believed by")
    authorized_key = s.CharField(allow_blank=True, help_text="the line for its authorized_keys")
    install_command = s.CharField(allow_blank=True, help_text="puts that line there; run it on the node as ssh_user")
    key_rotations = Counter()
    preparations = Counter()
    prepared_at = s.DateTimeField(allow_null=True)
    blast_radius = BlastCounts()


class BlastRadius(Shape):
    node = s.CharField()
    instances = s.IntegerField()
    organisations = s.ListField(child=s.CharField())
    wholly = s.ListField(child=s.CharField(), help_text="organisations with all of their instances there")
    accounts = s.IntegerField(help_text="at most, by the plans")
    memory_mib = s.IntegerField()
    led = s.IntegerField(help_text="instances that its edge leads to")
    only_here = s.IntegerField(help_text="instances that no other edge leads to")


class Drained(Shape):
    message = s.CharField(help_text="what happens now, and what does not")
    blast_radius = BlastRadius()
    node = Node()


class Beside(Shape):
    provider = s.IntegerField()
    region = s.IntegerField()
    node = s.IntegerField()


class Candidate(Shape):
    node = s.CharField()
    fits = s.BooleanField()
    reason = s.CharField(allow_blank=True)
    message = s.CharField(allow_blank=True)
    labels = s.DictField(child=s.CharField())
    memory_free_mib = s.IntegerField()
    instances = s.IntegerField()
    beside = Beside(help_text="instances of the same organisation there")


class Preview(Shape):
    node = s.CharField(allow_null=True, help_text="null: no node fits")
    explanation = s.CharField()
    remedy = s.CharField(allow_blank=True)
    candidates = Candidate(many=True)
    before = BlastRadius(allow_null=True)
    after = BlastRadius(allow_null=True)


class RolloutNode(Shape):
    name = s.CharField()
    state = s.ChoiceField(["waiting", "running", "done", "failed", "left"])
    message = s.CharField(allow_blank=True)
    started_at = s.DateTimeField(allow_null=True)
    finished_at = s.DateTimeField(allow_null=True)
    versions_before = s.DictField(child=s.CharField())
    versions_after = s.DictField(child=s.CharField())
    tasks_changed = s.IntegerField(allow_null=True)


class Rollout(Shape):
    id = s.IntegerField()
    kind = s.CharField(help_text="upgrade or prepare")
    state = s.ChoiceField(RolloutRow.STATES)
    reason = s.CharField(allow_blank=True, help_text="why it stopped")
    nodes = RolloutNode(many=True, help_text="in their order, the canary first")
    created_by = s.CharField(allow_blank=True)
    created_at = s.DateTimeField()
    finished_at = s.DateTimeField(allow_null=True)
    links = s.DictField(child=s.CharField())
