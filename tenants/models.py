"""The desired state: who the tenants are and what each instance should be.

Nothing here observes the world; conditions (``controlplane.reconcile``) do. Rows change through
``tenants.services`` only, which audits and touches the work queue in the same transaction.
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from tenants.querysets import DomainQuerySet, InstanceQuerySet, OrganisationQuerySet

ENGINES = [("prosody", "Prosody"), ("ejabberd", "ejabberd")]


class Organisation(models.Model):
    """A tenant: the customer of the hosting provider."""

    slug = models.SlugField(unique=True, max_length=63, help_text="short name in URLs and tokens; never changes")
    name = models.CharField(max_length=200)
    external_id = models.CharField(max_length=120, blank=True, help_text="the billing system's own id")
    created_at = models.DateTimeField(default=timezone.now)

    objects = OrganisationQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class Membership(models.Model):
    """A person's role in an organisation."""

    ROLES = [("owner", "Owner"), ("admin", "Administrator"), ("helper", "Helper"), ("reader", "Read-only")]

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    organisation = models.ForeignKey(Organisation, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=ROLES)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "organisation"], name="one_role_per_person")]
        ordering = ["organisation", "user"]

    def __str__(self) -> str:
        return f"{self.user} {self.role} of {self.organisation}"


class Plan(models.Model):
    """What an instance may use. Sizes in MiB, times in days."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    max_instances = models.PositiveIntegerField(default=3, help_text="instances per organisation on this plan")
    max_accounts = models.PositiveIntegerField(default=100, help_text="accounts per instance")
    max_rooms = models.PositiveIntegerField(default=200, help_text="rooms per instance")
    memory_mib = models.PositiveIntegerField(default=512)
    upload_max_mib = models.PositiveIntegerField(default=50, help_text="one file")
    upload_quota_mib = models.PositiveIntegerField(default=2048)
    upload_days = models.PositiveIntegerField(default=90)
    archive_days = models.PositiveIntegerField(default=365)
    open = models.BooleanField(default=True, help_text="new instances may take it")
    node_labels = models.JSONField(default=dict, blank=True, help_text="labels that a node has to have, such as region")

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


def proof_token() -> str:
    return secrets.token_urlsafe(24)


class Domain(models.Model):
    """A domain that an organisation claims. It counts only once control of it is proven (``proven_at``).

    ``mode``: "provider" (a name below the provider's zone: ours to give) or "own" (the customer's zone).
    """

    MODES = [("provider", "Below the provider's zone"), ("own", "The organisation's own")]

    name = models.CharField(max_length=253, help_text="A-labels")
    organisation = models.ForeignKey(Organisation, on_delete=models.PROTECT, related_name="domains")
    mode = models.CharField(max_length=10, choices=MODES)
    proof_token = models.CharField(max_length=64, default=proof_token, editable=False)
    proven_at = models.DateTimeField(null=True, blank=True)
    proof_method = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    objects = DomainQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organisation", "name"], name="one_claim_per_organisation"),
            models.UniqueConstraint(fields=["name"], condition=Q(proven_at__isnull=False), name="one_proven_owner"),
        ]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


def instance_key() -> str:
    """8 of ``[a-z0-9]``, first a letter, without look-alikes."""
    letters, digits = "abcdefghjkmnpqrstuvwxyz", "23456789"
    return secrets.choice(letters) + "".join(secrets.choice(letters + digits) for _ in range(7))


class Instance(models.Model):
    """One XMPP server of an organisation, as it should be. ``generation`` grows with each change of the spec."""

    key = models.CharField(max_length=8, unique=True, default=instance_key, editable=False)
    organisation = models.ForeignKey(Organisation, on_delete=models.PROTECT, related_name="instances")
    domain = models.OneToOneField(Domain, on_delete=models.PROTECT, related_name="instance")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="instances")
    engine = models.CharField(max_length=20, choices=ENGINES)
    display_name = models.CharField(max_length=200, blank=True)
    language = models.CharField(max_length=35, default="en", help_text="BCP 47; the default of new rooms")
    contacts = models.JSONField(default=list, blank=True, help_text="contact addresses (XEP-0157): [{kind, uri}]")
    admins = models.JSONField(default=list, blank=True, help_text="bare JIDs with administrator rights")
    s2s_blocked = models.JSONField(default=list, blank=True, help_text="domains that this server does not talk to")
    publish_links = models.BooleanField(
        default=False, help_text="tell everybody which servers it talks with (XEP-0485); others' names by their wish"
    )
    archive_days = models.PositiveIntegerField(
        default=0, help_text="messages are kept so long, if that is less than the plan's; 0: as the plan says"
    )
    upload_days = models.PositiveIntegerField(
        default=0, help_text="files are kept so long, if that is less than the plan's; 0: as the plan says"
    )
    node_labels = models.JSONField(
        default=dict, blank=True, help_text="labels that its node has to have, beside the plan's"
    )
    generation = models.BigIntegerField(default=1)
    verify_generation = models.BigIntegerField(default=1, help_text="raised by «reverify»")
    rotate_turn = models.BigIntegerField(default=0, help_text="raised by «rotate turn»")
    rotate_certificate = models.BigIntegerField(default=0, help_text="raised by «rotate certificate»")
    rotate_probe = models.BigIntegerField(default=0, help_text="raised by «rotate probe»")
    suspended_at = models.DateTimeField(null=True, blank=True)
    suspended_reason = models.CharField(max_length=200, blank=True)
    deletion_requested_at = models.DateTimeField(null=True, blank=True)
    delete_after = models.DateTimeField(null=True, blank=True, help_text="until then a termination can be undone")
    created_at = models.DateTimeField(default=timezone.now)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "key"]

    def __str__(self) -> str:
        return f"{self.key} {self.domain.name}"

    @property
    def should_run(self) -> bool:
        """Neither suspended nor on its way out."""
        return self.suspended_at is None and self.deletion_requested_at is None

    @property
    def deletion_due(self) -> bool:
        return self.delete_after is not None and self.delete_after <= timezone.now()


class AuditEvent(models.Model):
    """Who did what, when. Only ever appended (a database trigger refuses the rest); names are kept as text."""

    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=200, help_text="user name, token or «roost» itself")
    organisation = models.CharField(max_length=63, blank=True, help_text="slug")
    action = models.CharField(max_length=60)
    kind = models.CharField(max_length=40)
    object_id = models.CharField(max_length=120)
    summary = models.TextField(blank=True)
    data = models.JSONField(default=dict, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["organisation", "-at"]), models.Index(fields=["kind", "object_id"])]
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.actor} {self.action} {self.object_id}"


class ApiToken(models.Model):
    """A bearer token; only its keyed digest is stored. Without an organisation it is the operator's."""

    SCOPES: ClassVar[dict[str, str]] = {
        "read": "read everything that the token's owner may see",
        "instances": "create, change, suspend and terminate instances",
        "accounts": "create, change and delete accounts",
        "passwords": "set passwords of accounts, and nothing else of them",
        "rooms": "create, change and delete rooms",
        "backups": "back instances up, restore them, hand out and take in whole ones",
        "people": "invite people to an organisation and change their roles",
        "logins": "make links that log a person in once (operator only)",
        "organisations": "create and change organisations (operator only)",
        "admin": "plans, nodes and tokens (operator only)",
    }

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, blank=True)
    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, null=True, blank=True, related_name="tokens"
    )
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class Invitation(models.Model):
    """A person asked into an organisation by mail. Only the keyed digest of the link's secret is stored."""

    organisation = models.ForeignKey(Organisation, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField(help_text="in lower case")
    role = models.CharField(max_length=10, choices=Membership.ROLES)
    digest = models.CharField(max_length=64, editable=False, unique=True)
    invited_by = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    mailed_at = models.DateTimeField(null=True, blank=True, help_text="the mail server took it")
    accepted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organisation", "email"], condition=Q(accepted_at=None), name="one_open_invitation_per_person"
            )
        ]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.email} {self.role} of {self.organisation}"

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()


class LoginLink(models.Model):
    """Logs one person in, once, for one organisation: what a billing system's «open the panel» leads to."""

    organisation = models.ForeignKey(Organisation, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=64, editable=False, unique=True)
    target = models.CharField(max_length=300, blank=True, help_text="path in the portal; empty: the organisation")
    created_by = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.user} of {self.organisation}"


class IdempotencyKey(models.Model):
    """The answer to a request with an ``Idempotency-Key``, given again when the request comes again."""

    owner = models.CharField(max_length=120)
    key = models.CharField(max_length=200)
    request_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0, help_text="0 while the first request runs")
    body: models.JSONField[Any, Any] = models.JSONField(null=True)
    location = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="one_answer_per_key")]

    def __str__(self) -> str:
        return f"{self.owner} {self.key}"
