"""Shapes of what comes in. Rules (what a domain may be, what a plan allows) are the services'."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from controlplane.drivers.engine.base import AFFILIATIONS
from tenants.models import ENGINES, ApiToken
from tenants.services import DEFAULT_GRACE_S, MAX_GRACE_S
from tenants.services.instances import ROTATABLE
from tenants.services.plans import LIMITS
from tenants.validators import CONTACT_KINDS

SETTINGS = ("title", "description", "access", "moderated", "anonymity", "listed", "persistent", "language", "archived")


class Strict(s.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt name must not be ignored."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = sorted(set(map(str, data)) - set(self.fields))
            if unknown:
                raise s.ValidationError({name: ["There is no such field."] for name in unknown})
        return super().to_internal_value(data)


class Empty(Strict):
    """A body with nothing in it."""


class ContactIn(Strict):
    kind = s.ChoiceField(CONTACT_KINDS)
    uri = s.CharField(max_length=500, help_text="mailto:, xmpp: or https:")


class OrganisationIn(Strict):
    slug = s.CharField(max_length=63, help_text="lower-case letters, digits, hyphens; never changes")
    name = s.CharField(max_length=200)
    external_id = s.CharField(max_length=120, required=False, allow_blank=True, help_text="your own id for it")


class OrganisationChange(Strict):
    name = s.CharField(max_length=200, required=False)
    external_id = s.CharField(max_length=120, required=False, allow_blank=True)


class SpecIn(Strict):
    """What can be changed later."""

    display_name = s.CharField(max_length=200, required=False, allow_blank=True)
    language = s.CharField(max_length=35, required=False, help_text="BCP 47, the default of new rooms")
    contacts = ContactIn(many=True, required=False)
    admins = s.ListField(child=s.CharField(max_length=600), required=False, help_text="bare JIDs of the domain")
    s2s_blocked = s.ListField(child=s.CharField(max_length=300), required=False, help_text="domains")
    publish_links = s.BooleanField(
        required=False, help_text="tell everybody which servers it talks with (XEP-0485); off at first"
    )
    archive_days = s.IntegerField(required=False, help_text="keep messages for less long than the plan; 0: as it says")
    upload_days = s.IntegerField(required=False, help_text="keep files for less long than the plan; 0: as it says")
    node_labels = s.DictField(
        child=s.CharField(max_length=63),
        required=False,
        help_text="labels that its node has to have, beside the plan's; counts when a node is looked for",
    )


class InstanceChange(SpecIn):
    """Any of them; what is left out stays."""


class InstanceInOrganisation(SpecIn):
    domain = s.CharField(max_length=1000, help_text="below the provider's zone, or a domain of your own")
    engine = s.ChoiceField(ENGINES)
    plan = s.SlugField(help_text="slug of an open plan")


class InstanceIn(InstanceInOrganisation):
    organisation = s.SlugField(max_length=63)


class SuspendIn(Strict):
    reason = s.CharField(max_length=200, required=False, allow_blank=True)


class TerminateIn(Strict):
    grace_s = s.IntegerField(
        min_value=0, max_value=MAX_GRACE_S, required=False, help_text=f"seconds; {DEFAULT_GRACE_S} if left out"
    )


class RotateIn(Strict):
    what = s.ChoiceField(ROTATABLE)


class PlanChoice(Strict):
    plan = s.SlugField()


class AccountIn(Strict):
    username = s.CharField(max_length=255)
    password = s.CharField(
        max_length=512, required=False, trim_whitespace=False, write_only=True, help_text="made up if left out"
    )


class AccountChange(Strict):
    enabled = s.BooleanField(help_text="a disabled account keeps its data; logins are refused")


class PasswordIn(Strict):
    password = s.CharField(
        max_length=512, required=False, trim_whitespace=False, write_only=True, help_text="made up if left out"
    )


class RoomSettingsIn(Strict):
    title = s.CharField(max_length=200, required=False, allow_blank=True)
    description = s.CharField(max_length=500, required=False, allow_blank=True)
    access = s.ChoiceField(["open", "members"], required=False)
    moderated = s.BooleanField(required=False)
    anonymity = s.ChoiceField(["semi", "none"], required=False, help_text="semi: only moderators see JIDs")
    listed = s.BooleanField(required=False)
    persistent = s.BooleanField(required=False)
    language = s.CharField(max_length=35, required=False, allow_blank=True)
    archived = s.BooleanField(required=False)


class RoomIn(RoomSettingsIn):
    name = s.CharField(max_length=255)
    owner = s.CharField(max_length=600, help_text="bare JID")


class AffiliationIn(Strict):
    affiliation = s.ChoiceField(AFFILIATIONS)


class TurnCredentialsIn(Strict):
    ttl_s = s.IntegerField(min_value=60, max_value=86_400, default=3600)


class DomainIn(Strict):
    domain = s.CharField(max_length=1000)


class PlanChange(Strict):
    """Sizes in MiB, times in days."""

    name = s.CharField(max_length=100, required=False)
    open = s.BooleanField(required=False)
    node_labels = s.DictField(
        child=s.CharField(max_length=63), required=False, help_text="labels that a node has to have, such as region"
    )

    def get_fields(self) -> dict[str, Any]:
        limits = {k: s.IntegerField(min_value=low, max_value=high, required=False) for k, (low, high) in LIMITS.items()}
        return {**super().get_fields(), **limits}


class PlanIn(PlanChange):
    slug = s.CharField(max_length=50)
    name = s.CharField(max_length=100)


class TokenIn(Strict):
    name = s.CharField(max_length=100)
    scopes = s.ListField(child=s.ChoiceField(list(ApiToken.SCOPES)), allow_empty=False)
    organisation = s.SlugField(max_length=63, required=False, allow_null=True, help_text="none: an operator's token")
    expires_at = s.DateTimeField(required=False, allow_null=True)
