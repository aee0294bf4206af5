"""Shapes of what comes in about nodes, placements and rollouts. Rules are the services'."""

from __future__ import annotations

from rest_framework import serializers as s
from rest_framework.fields import empty

from controlplane.api.v1.serializers import Strict
from controlplane.fleet.models import Node
from tenants.models import ENGINES

MAX_ADDRESSES = 20


class Flag(s.BooleanField):
    """What a web form leaves out is left out, as in JSON; by default it would be false."""

    default_empty_html = empty


class Labels(s.DictField):
    child = s.CharField(max_length=63)


class NodeFields(Strict):
    """What is said of a node when it is enrolled, and can be changed later."""

    ssh_port = s.IntegerField(min_value=1, max_value=65535, required=False)
    ssh_user = s.CharField(max_length=32, required=False, help_text="somebody who may do everything there; root")
    runtime = s.ChoiceField(Node.RUNTIMES, required=False)
    carries_instances = Flag(required=False, help_text="false: it is an edge only")
    edge = s.ChoiceField(Node.EDGES, required=False)
    public_addresses = s.ListField(
        child=s.CharField(max_length=45), max_length=MAX_ADDRESSES, required=False, help_text="of its edge, for DNS"
    )
    private_address = s.CharField(
        max_length=45, required=False, allow_null=True, help_text="where shared edges reach it, and connect from"
    )
    instance_network = s.CharField(
        max_length=49, required=False, help_text="left out: its private address, shared by ports"
    )
    base_port = s.IntegerField(min_value=1, max_value=65535, required=False)
    root = s.CharField(max_length=200, required=False, help_text="directory of the instances")  # type: ignore[assignment]
    state_dir = s.CharField(max_length=200, required=False)
    runtime_dir = s.CharField(max_length=200, required=False)
    supervisor_socket = s.CharField(max_length=200, required=False, allow_blank=True)
    edge_socket = s.CharField(max_length=200, required=False)
    edge_map_dir = s.CharField(max_length=200, required=False)
    control_group = s.CharField(max_length=32, required=False)
    memory_mib = s.IntegerField(
        min_value=0, max_value=2**31 - 1, required=False, help_text="for instances; 0: four fifths of what it has"
    )
    labels = Labels(required=False, help_text="such as region and provider")
    variables = s.DictField(required=False, help_text="of the roles that prepare it")


class NodeIn(NodeFields):
    name = s.CharField(max_length=42, help_text="small letters, digits, hyphens; never changes")
    address = s.CharField(max_length=253, help_text="where SSH reaches it")
    host_key = s.CharField(
        max_length=9000,
        required=False,
        allow_blank=True,
        help_text="«ssh-ed25519 AAAA…» or «SHA256:…»; left out: compare what it shows, and accept it",
    )


class NodeChange(NodeFields):
    """Any of them; what is left out stays."""

    address = s.CharField(max_length=253, required=False)


class HostKeyIn(Strict):
    fingerprint = s.CharField(max_length=100, help_text="SHA256:… of a key that the node showed")


class PreviewIn(Strict):
    organisation = s.SlugField(max_length=63, required=False, allow_null=True, help_text="left out: a new one")
    plan = s.SlugField()
    engine = s.ChoiceField(ENGINES)
    node_labels = Labels(required=False)


class RolloutIn(Strict):
    kind = s.CharField(max_length=12, help_text="upgrade: newer packages; prepare: this release's roles")
    nodes = s.ListField(
        child=s.CharField(max_length=50),
        max_length=1000,
        required=False,
        allow_null=True,
        help_text="names; left out: all that Roost has prepared",
    )
    canary = s.CharField(max_length=50, required=False, allow_null=True, help_text="who is first; else the first name")
