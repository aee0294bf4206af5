"""What is watched and what came of it: places that probe, checks with their states, samples, incidents, links.

States are judged (several results in a row), samples are what was measured; an incident is what people are told.
"""

from __future__ import annotations

import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone

from controlplane.fleet.models import Node
from tenants.models import Instance, Organisation

KEY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def incident_key() -> str:
    return "".join(secrets.choice(KEY_ALPHABET) for _ in range(10))


class ProbePlace(models.Model):
    """A prober process at a place: ``name`` is the place, ``shard`` of ``shards`` its part of the instances.

    Where there are two places, both have to see a fault before it is one.
    """

    name = models.SlugField(max_length=40)
    shard = models.PositiveIntegerField(default=0)
    shards = models.PositiveIntegerField(default=1)
    seen_at = models.DateTimeField(default=timezone.now)
    cut_off = models.BooleanField(default=False, help_text="it does not reach its references: it judges nothing")
    cut_off_since = models.DateTimeField(null=True, blank=True)
    message = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "shard"], name="one_prober_per_shard")]
        ordering = ["name", "shard"]

    def __str__(self) -> str:
        return f"{self.name} {self.shard}/{self.shards}"


class ProbePlan(models.Model):
    """That an instance is probed from a place: since it was Ready for the first time, and as long as it should run.

    The prober keeps its own times; ``full_due_at`` survives its restart. ``wanted_at``: somebody wants all of it
    looked at now; the prober takes it away when it does.
    """

    place = models.CharField(max_length=40)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="probe_plans")
    full_due_at = models.DateTimeField(default=timezone.now)
    wanted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["place", "instance"], name="one_probe_plan_per_place")]
        indexes = [models.Index(fields=["place"], condition=Q(wanted_at__isnull=False), name="probes_wanted")]

    def __str__(self) -> str:
        return f"{self.place}: {self.instance_id}"


class CheckState(models.Model):
    """One check of one instance as one place judges it, with hysteresis: it turns after several like results."""

    UP, DOWN, UNKNOWN = "up", "down", "unknown"
    STATES = [(UP, "works"), (DOWN, "fails"), (UNKNOWN, "not known")]

    place = models.CharField(max_length=40)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="check_states")
    check_name = models.CharField(max_length=40, help_text="such as resolve, tls, login, turn, s2s")
    state = models.CharField(max_length=8, choices=STATES, default=UNKNOWN)
    since = models.DateTimeField(default=timezone.now, help_text="of this state")
    streak = models.PositiveIntegerField(default=0, help_text="results in a row that speak against the state")
    first_against_at = models.DateTimeField(null=True, blank=True, help_text="of that streak")
    last_at = models.DateTimeField(null=True, blank=True)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    duration_ms = models.FloatField(null=True, blank=True)
    cause = models.CharField(max_length=60, blank=True)
    message = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["place", "instance", "check_name"], name="one_state_per_check_and_place")
        ]
        indexes = [models.Index(fields=["state"], condition=Q(state="down"), name="checks_that_fail")]

    def __str__(self) -> str:
        return f"{self.place}: {self.check_name} of {self.instance_id} {self.state}"


class Sample(models.Model):
    """One result of one check. The table is partitioned by day of ``at``, and rolled up by the hour."""

    pk = models.CompositePrimaryKey("at", "instance_key", "check_name", "place")
    at = models.DateTimeField()
    instance_key = models.CharField(max_length=8)
    check_name = models.CharField(max_length=40)
    place = models.CharField(max_length=40)
    ok = models.BooleanField()
    duration_ms = models.FloatField()
    message = models.TextField(blank=True)

    class Meta:
        managed = False
        db_table = "monitoring_sample"

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.check_name} of {self.instance_key}: {self.ok}"


class SampleHour(models.Model):
    """An hour of samples of one check of one instance, from all places together."""

    instance_key = models.CharField(max_length=8)
    check_name = models.CharField(max_length=40)
    hour = models.DateTimeField()
    samples = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    duration_ms_mean = models.FloatField(default=0)
    duration_ms_max = models.FloatField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["instance_key", "check_name", "hour"], name="one_hour_per_check")
        ]
        indexes = [models.Index(fields=["hour"])]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.check_name} of {self.instance_key}"


class Incident(models.Model):
    """Something was wrong: from when to when, why, and what was done (``entries``).

    ``subject`` names the thing ("instance:KEY:tls", "node:NAME", "link:KEY:remote.example"): one open incident per
    subject. ``details``: times in seconds and what else a program may want, JSON. Other organisations' names must not
    be in anything of an incident that belongs to one.
    """

    KINDS = [
        ("check", "a check fails"),
        ("address", "an address changed"),
        ("link", "a federation link is broken"),
        ("node", "a node is not reached"),
        ("data", "members or rooms differ"),
        ("backup", "backups are not as they should be"),
        ("prober", "a prober is cut off"),
    ]

    key = models.CharField(max_length=10, unique=True, default=incident_key, editable=False)
    kind = models.CharField(max_length=10, choices=KINDS)
    subject = models.CharField(max_length=300)
    scope = models.CharField(max_length=63, blank=True, help_text="the organisation's slug; empty: the provider's own")
    instance = models.ForeignKey(Instance, null=True, blank=True, on_delete=models.SET_NULL, related_name="incidents")
    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.SET_NULL, related_name="incidents")
    cause = models.CharField(max_length=60, help_text="CamelCase, such as CertificateExpired")
    title = models.CharField(max_length=300)
    started_at = models.DateTimeField(help_text="the first sign of it")
    noticed_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["subject"], condition=Q(ended_at=None), name="one_open_incident_per_subject"
            )
        ]
        indexes = [
            models.Index(fields=["scope", "-started_at"]),
            models.Index(fields=["instance", "-started_at"]),
            models.Index(fields=["ended_at", "-started_at"]),
        ]
        ordering = ["-started_at", "-id"]

    def __str__(self) -> str:
        return f"{self.key} {self.title}"

    @property
    def is_open(self) -> bool:
        return self.ended_at is None


class IncidentEntry(models.Model):
    """A line of an incident's timeline."""

    incident = models.ForeignKey(Incident, on_delete=models.CASCADE, related_name="entries")
    at = models.DateTimeField(default=timezone.now)
    type = models.CharField(max_length=40, help_text="CamelCase, such as Noticed, Acted, Ended")
    message = models.TextField()

    class Meta:
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.type}"


class S2sLink(models.Model):
    """The federation between an instance and one remote domain, both directions. Its pass runs on the queue "heal".

    A server of ours is one remote, by its domain, with its components' streams in ``streams``; then both ends have a
    row, and the work item is that of the lower number. ``waiting_for``: the address incident that waits for its proof.
    ``directions``: {"out"|"in": {"encrypted", "auth", "address", "age_s", "idle_s"}} as the engine said last; a missing
    direction has no stream now. ``peer``: the remote one, if it is ours too; when that one is
    ended for good the link goes with it, since nobody has a fault then.
    """

    UNKNOWN, UP, IDLE, SUSPECT, DOWN = "unknown", "up", "idle", "suspect", "down"
    PEER_PENDING, BLOCKED = "peer-pending", "blocked"
    STATES = [
        (UNKNOWN, "not looked at yet"),
        (UP, "answers"),
        (IDLE, "no stream now; one is opened when somebody writes"),
        (SUSPECT, "something speaks against it: it is being looked at"),
        (DOWN, "does not answer"),
        (PEER_PENDING, "our half is well; the other server's own half is not in our hands"),
        (BLOCKED, "not wanted by the instance"),
    ]

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="s2s_links")
    remote = models.CharField(max_length=253, help_text="A-labels")
    peer = models.ForeignKey(Instance, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    state = models.CharField(max_length=14, choices=STATES, default=UNKNOWN)
    since = models.DateTimeField(default=timezone.now)
    directions = models.JSONField(default=dict, blank=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(null=True, blank=True, help_text="when the engine last had a stream of it")
    last_ping_at = models.DateTimeField(null=True, blank=True)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    rtt_ms = models.FloatField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="pings in a row without an answer")
    retry_at = models.DateTimeField(null=True, blank=True, help_text="when it is dialled again; visible back-off")
    cause = models.CharField(max_length=60, blank=True)
    message = models.TextField(blank=True)
    suspect_at = models.DateTimeField(null=True, blank=True, help_text="somebody asked for a look at this moment")
    suspect_by = models.CharField(max_length=40, blank=True, help_text="watcher, ping, address, operator, verify")
    closed_at = models.DateTimeField(null=True, blank=True, help_text="when we closed its streams last")
    streams = models.JSONField(
        default=list, blank=True, help_text="every stream, as the engine said last; also those of components"
    )
    used_at = models.DateTimeField(
        null=True, blank=True, help_text="last traffic that was no ping of ours, as far as the engine tells"
    )
    dialled = models.JSONField(
        default=list, blank=True, help_text="addresses that did not help: others are tried at once"
    )
    waiting_for = models.ForeignKey(
        Incident, null=True, blank=True, on_delete=models.SET_NULL, related_name="links_to_prove"
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance", "remote"], name="one_link_per_remote")]
        indexes = [models.Index(fields=["state"]), models.Index(fields=["remote"])]
        ordering = ["instance", "remote"]

    def __str__(self) -> str:
        return f"{self.instance_id} <-> {self.remote}: {self.state}"


class AddressSighting(models.Model):
    """A public address of a node as one source named it last (its interfaces, a STUN server, an echo URL)."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="sightings")
    source = models.CharField(max_length=200, help_text='such as "interface", "stun:192.0.2.1:3478", "echo:https://…"')
    family = models.PositiveSmallIntegerField(choices=[(4, "IPv4"), (6, "IPv6")])
    addresses = models.JSONField(default=list, help_text="as text; an interface may have several")
    at = models.DateTimeField(default=timezone.now)
    error = models.TextField(blank=True)
    held = models.BooleanField(default=False, help_text="it named some once")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "source", "family"], name="one_sighting_per_source")]

    def __str__(self) -> str:
        return f"{self.node_id} by {self.source}: {', '.join(self.addresses)}"


class Maintenance(models.Model):
    """Planned work: people are told, and no incident is opened for what it covers.

    Without a node, an organisation or an instance it covers all.
    """

    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.CASCADE, related_name="maintenances")
    organisation = models.ForeignKey(Organisation, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    instance = models.ForeignKey(Instance, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    message = models.TextField()
    created_by = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    cancelled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(ends_at__gt=models.F("starts_at")), name="maintenance_ends")]
        ordering = ["-starts_at"]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d %H:%M} {self.message[:40]}"


class Subscription(models.Model):
    """Who is told of incidents: a URL (signed webhook) or an e-mail address, of an organisation or of the provider."""

    organisation = models.ForeignKey(
        Organisation, null=True, blank=True, on_delete=models.CASCADE, related_name="subscriptions"
    )
    kind = models.CharField(max_length=8, choices=[("webhook", "webhook"), ("email", "e-mail")])
    target = models.CharField(max_length=500, help_text="https URL or e-mail address")
    secret_sealed = models.TextField(blank=True, help_text="signs webhooks (HMAC-SHA-256)")
    kinds = models.JSONField(default=list, blank=True, help_text="kinds of incidents; empty: all")
    active = models.BooleanField(default=True)
    confirmed_at = models.DateTimeField(
        null=True, blank=True, help_text="an organisation's e-mail address gets nothing before its owner agreed"
    )
    created_at = models.DateTimeField(default=timezone.now)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    failing_since = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="deliveries in a row that failed")
    retry_at = models.DateTimeField(null=True, blank=True, help_text="nothing is sent before, while it fails")
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


class Notice(models.Model):
    """One message to one subscription; written with what it tells, sent by its own pass until it is taken."""

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="notices")
    incident = models.ForeignKey(Incident, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    event = models.CharField(max_length=40, help_text="incident.opened, maintenance.planned, confirm, test, …")
    payload = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    sent_at = models.DateTimeField(null=True, blank=True)
    given_up_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["created_at"])]
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.event} to {self.subscription_id}"


class Roll(models.Model):
    """Rooms with settings and affiliations, and members, as they were last known; compared after a restart.

    ``missing``: what a restart has taken away and nobody has brought back or accepted yet, in the shape of ``content``
    (``losses`` describes it), and ``missing_since`` when it was seen last.
    """

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="roll")
    taken_at = models.DateTimeField(default=timezone.now)
    engine_started_at = models.DateTimeField(null=True, blank=True)
    digest = models.CharField(max_length=64)
    content = models.JSONField(default=dict)
    missing = models.JSONField(default=dict, blank=True)
    missing_since = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"roll of {self.instance_id} at {self.taken_at:%Y-%m-%d %H:%M}"


class AddressWatch(models.Model):
    """Whether a node's public addresses are followed, what its operator pinned, and how its last look ended.

    ``pinned`` and ``candidate``: {"4": [addresses], "6": [addresses]}; a family that is missing is not pinned, or has
    no candidate. ``candidate_at``: the first sign of it. ``agreed``: the last addresses that were agreed upon, also of
    nodes without an edge, whose own links depend on them.
    """

    node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="address_watch")
    follows = models.BooleanField(default=True, help_text="a change that the sources agree upon is carried out")
    pinned = models.JSONField(default=dict, blank=True)
    agreed = models.JSONField(default=dict, blank=True)
    candidate = models.JSONField(default=dict, blank=True)
    candidate_at = models.DateTimeField(null=True, blank=True)
    looked_at = models.DateTimeField(null=True, blank=True)
    message = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"addresses of {self.node_id}"
