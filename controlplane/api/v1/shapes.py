"""Shapes of what goes out, for the schema; ``shown`` builds the bodies."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from controlplane.api.v1.serializers import ContactIn
from tenants.models import ENGINES


class Shape(s.Serializer[Any]):
    """Only described, never used to parse."""


class FieldProblem(Shape):
    field = s.CharField()
    message = s.CharField()
    remedy = s.CharField(allow_blank=True)


class Problem(Shape):
    """RFC 9457."""

    type = s.CharField()
    title = s.CharField()
    status = s.IntegerField()
    code = s.CharField(help_text="stable; decide by it")
    detail = s.CharField()
    remedy = s.CharField(allow_blank=True)
    errors = FieldProblem(many=True)  # type: ignore[assignment]


class Organisation(Shape):
    slug = s.CharField()
    name = s.CharField()
    external_id = s.CharField(allow_blank=True)
    instances = s.IntegerField()
    created_at = s.DateTimeField()
    links = s.DictField(child=s.CharField())


class Proof(Shape):
    """What to publish so that control of the domain is seen."""

    needed = s.BooleanField()
    token = s.CharField(allow_null=True)
    records = s.ListField(child=s.DictField())
    method = s.CharField(allow_blank=True)


class Domain(Shape):
    name = s.CharField(help_text="A-labels")
    unicode = s.CharField(help_text="U-labels, for people")
    organisation = s.CharField()
    mode = s.ChoiceField(["provider", "own"])
    proven = s.BooleanField()
    proven_at = s.DateTimeField(allow_null=True)
    proof = Proof()
    instance = s.CharField(allow_null=True, help_text="key")


class Condition(Shape):
    type = s.CharField()
    status = s.ChoiceField(["True", "False", "Unknown"])
    reason = s.CharField(allow_blank=True)
    message = s.CharField(allow_blank=True)
    remedy = s.CharField(allow_blank=True)
    stalled = s.BooleanField(help_text="waiting will not help")
    observed_generation = s.IntegerField()
    last_transition = s.DateTimeField(allow_null=True)


class InstanceListed(Shape):
    key = s.CharField()
    organisation = s.CharField()
    domain = s.CharField()
    domain_unicode = s.CharField()
    engine = s.ChoiceField(ENGINES)
    plan = s.CharField()
    desired = s.ChoiceField(["running", "suspended", "terminated"])
    ready = s.BooleanField()
    display_name = s.CharField(allow_blank=True)
    language = s.CharField()
    contacts = ContactIn(many=True)
    admins = s.ListField(child=s.CharField())
    s2s_blocked = s.ListField(child=s.CharField())
    publish_links = s.BooleanField(help_text="tells everybody which servers it talks with (XEP-0485)")
    archive_days = s.IntegerField(help_text="messages are kept so long, if the plan allows it; 0: as the plan says")
    upload_days = s.IntegerField(help_text="files are kept so long, if the plan allows it; 0: as the plan says")
    node_labels = s.DictField(child=s.CharField(), help_text="labels that its node has to have, beside the plan's")
    generation = s.IntegerField()
    suspended_at = s.DateTimeField(allow_null=True)
    suspended_reason = s.CharField(allow_blank=True)
    deletion_requested_at = s.DateTimeField(allow_null=True)
    delete_after = s.DateTimeField(allow_null=True)
    created_at = s.DateTimeField()
    links = s.DictField(child=s.CharField())


class Instance(InstanceListed):
    summary = s.CharField(help_text="one sentence: how far it is")
    conditions = Condition(many=True)
    backups = Condition(many=True, help_text="of its backups: whether they are fresh, sound, proven")
    node = s.CharField(allow_null=True)
    placement = s.CharField(allow_blank=True, help_text="why this node")
    addresses = s.ListField(child=s.CharField())
    domain_proof = Proof()


class Account(Shape):
    username = s.CharField()
    jid = s.CharField()
    enabled = s.BooleanField()
    online = s.BooleanField()
    last_active = s.DateTimeField(allow_null=True)


class AccountMade(Account):
    password = s.CharField(allow_null=True, help_text="only if Roost made it up; shown this once")


class PasswordMade(Shape):
    password = s.CharField(allow_null=True, help_text="only if Roost made it up; shown this once")


class RoomListed(Shape):
    name = s.CharField()
    jid = s.CharField()
    occupants = s.IntegerField()
    subject = s.CharField(allow_blank=True)
    title = s.CharField(allow_blank=True)
    description = s.CharField(allow_blank=True)
    access = s.ChoiceField(["open", "members"])
    moderated = s.BooleanField()
    anonymity = s.ChoiceField(["semi", "none"])
    listed = s.BooleanField()
    persistent = s.BooleanField()
    language = s.CharField(allow_blank=True)
    archived = s.BooleanField()


class Room(RoomListed):
    affiliations = s.DictField(child=s.CharField(), help_text="bare JID -> affiliation")


class Record(Shape):
    name = s.CharField()
    type = s.CharField()
    ttl_s = s.IntegerField()
    rdatas = s.ListField(child=s.CharField())
    publisher = s.ChoiceField(["ours", "customer"])
    zone = s.CharField(allow_null=True)
    purpose = s.CharField(allow_blank=True)
    optional = s.BooleanField()
    wanted = s.BooleanField(help_text="false: it is on its way out")
    published = s.BooleanField(help_text="seen at every authoritative server")
    seen = s.ListField(child=s.CharField(), help_text="what is there now")
    conflict = s.BooleanField(help_text="somebody else's data is there; it is never overwritten")
    problem = s.CharField(allow_blank=True)
    checked_at = s.DateTimeField(allow_null=True)


class CertificateOrder(Shape):
    state = s.CharField()
    created_at = s.DateTimeField()
    finished_at = s.DateTimeField(allow_null=True)
    problem = s.CharField(allow_blank=True)


class Certificate(Shape):
    """Before the first order only `wanted`, `issued`, `names`, `condition` and `order` are there."""

    wanted = s.BooleanField()
    issued = s.BooleanField()
    names = s.ListField(child=s.CharField())
    issued_names = s.ListField(child=s.CharField(), required=False)
    serial = s.CharField(required=False, allow_blank=True)
    fingerprint = s.CharField(required=False, allow_blank=True, help_text="SHA-256")
    issuer = s.CharField(required=False, allow_blank=True)
    for_s2s_external = s.BooleanField(required=False, help_text="has the purpose clientAuth")
    not_before = s.DateTimeField(required=False, allow_null=True)
    not_after = s.DateTimeField(required=False, allow_null=True)
    renew_at = s.DateTimeField(required=False, allow_null=True)
    issued_at = s.DateTimeField(required=False, allow_null=True)
    retry_at = s.DateTimeField(required=False, allow_null=True)
    rotation = s.IntegerField(required=False)
    rotation_wanted = s.IntegerField(required=False)
    condition = s.DictField(allow_null=True)
    order = CertificateOrder(allow_null=True)


class Turn(Shape):
    offered = s.BooleanField()
    host = s.CharField(allow_null=True)
    port = s.IntegerField(allow_null=True)
    tls_port = s.IntegerField(allow_null=True)
    label = s.CharField(allow_null=True)  # type: ignore[assignment]
    ttl_s = s.IntegerField(allow_null=True)


class TurnCredentials(Shape):
    username = s.CharField()
    password = s.CharField()
    expires = s.IntegerField(help_text="seconds since 1970")
    ttl_s = s.IntegerField()
    uris = s.ListField(child=s.CharField())


class Usage(Shape):
    instance = s.CharField()
    domain = s.CharField()
    plan = s.CharField()
    suspended = s.BooleanField()
    limits = s.DictField(child=s.IntegerField())
    accounts = s.IntegerField(allow_null=True)
    online = s.IntegerField(allow_null=True)
    rooms = s.IntegerField(allow_null=True)
    archive_messages = s.IntegerField(allow_null=True)
    upload_bytes = s.IntegerField(allow_null=True)
    problem = s.CharField(allow_blank=True)


class OrganisationUsage(Shape):
    organisation = s.CharField()
    instances = Usage(many=True)
    totals = s.DictField(child=s.IntegerField(), help_text="sums over the instances that could be asked")
    complete = s.BooleanField(help_text="every instance could be asked")


class Walk(Shape):
    at = s.DateTimeField(allow_null=True)
    ok = s.BooleanField()
    duration_s = s.FloatField(allow_null=True)
    steps = s.ListField(child=s.DictField())


class Plan(Shape):
    slug = s.CharField()
    name = s.CharField()
    open = s.BooleanField()
    node_labels = s.DictField(child=s.CharField(), help_text="labels that a node has to have")
    max_instances = s.IntegerField()
    max_accounts = s.IntegerField()
    max_rooms = s.IntegerField()
    memory_mib = s.IntegerField()
    upload_max_mib = s.IntegerField()
    upload_quota_mib = s.IntegerField()
    upload_days = s.IntegerField()
    archive_days = s.IntegerField()


class Token(Shape):
    prefix = s.CharField()
    name = s.CharField()
    organisation = s.CharField(allow_null=True)
    scopes = s.ListField(child=s.CharField())
    created_at = s.DateTimeField()
    expires_at = s.DateTimeField(allow_null=True)
    revoked_at = s.DateTimeField(allow_null=True)
    last_used_at = s.DateTimeField(allow_null=True)


class TokenMade(Token):
    token = s.CharField(help_text="shown this once")


class Event(Shape):
    cursor = s.CharField()
    at = s.DateTimeField()
    kind = s.CharField()
    object_id = s.CharField()
    organisation = s.CharField(allow_blank=True)
    type = s.CharField()
    reason = s.CharField(allow_blank=True)
    message = s.CharField(allow_blank=True)


class Events(Shape):
    events = Event(many=True)
    cursor = s.CharField(help_text="give it as `after` in the next request")


class Audit(Shape):
    id = s.IntegerField()
    at = s.DateTimeField()
    actor = s.CharField()
    address = s.CharField(allow_null=True)
    organisation = s.CharField(allow_blank=True)
    action = s.CharField()
    kind = s.CharField()
    object_id = s.CharField()
    summary = s.CharField(allow_blank=True)
    data = s.DictField()  # type: ignore[assignment]


class Root(Shape):
    principal = s.CharField()
    operator = s.BooleanField()
    organisations = s.DictField(child=s.ListField(child=s.CharField()))
    scopes = s.ListField(child=s.CharField())
    links = s.DictField(child=s.CharField())
