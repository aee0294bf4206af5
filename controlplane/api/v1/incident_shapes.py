"""Shapes of incidents, subscriptions and maintenances, what comes in and what goes out. Rules are the services'."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from controlplane.api.v1.fleet_forms import Flag
from controlplane.api.v1.serializers import Strict
from controlplane.api.v1.shapes import Shape
from controlplane.api.v1.shown import url
from controlplane.monitoring import models
from controlplane.monitoring.subscriptions import KINDS

# -- what goes out


class Entry(Shape):
    at = s.DateTimeField()
    type = s.CharField(help_text="such as Noticed, Acted, CauseChanged, Ended")
    message = s.CharField()


class IncidentListed(Shape):
    key = s.CharField()
    kind = s.ChoiceField(models.Incident.KINDS)
    cause = s.CharField(help_text="stable; decide by it")
    title = s.CharField()
    organisation = s.CharField(allow_blank=True, help_text="empty: the provider's own")
    instance = s.CharField(allow_null=True, help_text="key")
    domain = s.CharField(allow_null=True)
    node = s.CharField(allow_null=True, help_text="shown to the operator only")
    open = s.BooleanField()
    started_at = s.DateTimeField(help_text="the first sign of it")
    noticed_at = s.DateTimeField()
    ended_at = s.DateTimeField(allow_null=True)
    lasted_s = s.FloatField(allow_null=True, help_text="null while it is open")
    links = s.DictField(child=s.CharField())


class Incident(IncidentListed):
    details = s.DictField(help_text="times in seconds and what else a program may want")
    timeline = Entry(many=True)


class Subscription(Shape):
    number = s.IntegerField()
    organisation = s.CharField(allow_null=True, help_text="none: the provider's")
    kind = s.ChoiceField(["webhook", "email"])
    target = s.CharField()
    kinds = s.ListField(child=s.CharField(), help_text="of incidents; empty: all")
    active = s.BooleanField()
    confirmed = s.BooleanField(help_text="an organisation's mail address gets nothing before its owner agreed")
    created_at = s.DateTimeField()
    last_ok_at = s.DateTimeField(allow_null=True)
    failing_since = s.DateTimeField(allow_null=True)
    failures = s.IntegerField(help_text="deliveries in a row that failed")
    retry_at = s.DateTimeField(allow_null=True)
    last_error = s.CharField(allow_blank=True)
    links = s.DictField(child=s.CharField())


class SubscriptionMade(Subscription):
    secret = s.CharField(allow_null=True, help_text="signs a webhook's requests; shown this once")


class SecretMade(Shape):
    secret = s.CharField(help_text="signs a webhook's requests from now on; shown this once")


class Notice(Shape):
    number = s.IntegerField()
    event = s.CharField()
    incident = s.CharField(allow_null=True, help_text="key")
    state = s.ChoiceField(["waiting", "sent", "given-up"])
    created_at = s.DateTimeField()
    attempts = s.IntegerField()
    sent_at = s.DateTimeField(allow_null=True)
    given_up_at = s.DateTimeField(allow_null=True)
    error = s.CharField(allow_blank=True)
    payload = s.DictField()


class Maintenance(Shape):
    number = s.IntegerField()
    state = s.ChoiceField(["planned", "running", "over", "cancelled"])
    starts_at = s.DateTimeField()
    ends_at = s.DateTimeField()
    message = s.CharField()
    node = s.CharField(allow_null=True, help_text="shown to the operator only")
    organisation = s.CharField(allow_null=True, help_text="slug, if it covers one organisation or one of its servers")
    instance = s.CharField(allow_null=True, help_text="key")
    created_at = s.DateTimeField()
    cancelled_at = s.DateTimeField(allow_null=True)
    links = s.DictField(child=s.CharField())


# -- what comes in


class SubscriptionIn(Strict):
    organisation = s.SlugField(max_length=63, required=False, allow_null=True, help_text="none: the provider's")
    kind = s.ChoiceField(["webhook", "email"])
    target = s.CharField(max_length=500, help_text="https URL or mail address")
    kinds = s.ListField(child=s.ChoiceField(list(KINDS)), required=False, help_text="left out or empty: all")


class SubscriptionChange(Strict):
    active = Flag(required=False)
    kinds = s.ListField(child=s.ChoiceField(list(KINDS)), required=False)


class MaintenanceIn(Strict):
    """At most one of node, organisation and instance; none: everything."""

    starts_at = s.DateTimeField()
    ends_at = s.DateTimeField()
    message = s.CharField(max_length=500, help_text="for everybody whom it concerns; public")
    node = s.CharField(max_length=63, required=False, allow_null=True)
    organisation = s.SlugField(max_length=63, required=False, allow_null=True)
    instance = s.CharField(max_length=8, required=False, allow_null=True, help_text="key")


class MaintenanceChange(Strict):
    starts_at = s.DateTimeField(required=False)
    ends_at = s.DateTimeField(required=False)
    message = s.CharField(max_length=500, required=False)


# -- rows as bodies


def incident_listed(row: models.Incident, *, operator: bool) -> dict[str, Any]:
    ended = row.ended_at
    links = {"self": url("incident", incident=row.key)}
    if row.instance is not None:
        links["instance"] = url("instance", key=row.instance.key)
    return {
        "key": row.key,
        "kind": row.kind,
        "cause": row.cause,
        "title": row.title,
        "organisation": row.scope,
        "instance": row.instance.key if row.instance else None,
        "domain": row.instance.domain.name if row.instance else None,
        "node": row.node.name if row.node and operator else None,
        "open": row.is_open,
        "started_at": row.started_at,
        "noticed_at": row.noticed_at,
        "ended_at": ended,
        "lasted_s": (ended - row.started_at).total_seconds() if ended is not None else None,
        "links": links,
    }


def incident(row: models.Incident, *, operator: bool) -> dict[str, Any]:
    lines = [{"at": line.at, "type": line.type, "message": line.message} for line in row.entries.all()]
    return {**incident_listed(row, operator=operator), "details": row.details, "timeline": lines}


def subscription(row: models.Subscription) -> dict[str, Any]:
    number = str(row.pk)
    fields = ("kind", "target", "kinds", "active", "created_at", "last_ok_at", "failing_since", "failures", "retry_at")
    return {
        "number": row.pk,
        "organisation": row.organisation.slug if row.organisation else None,
        "confirmed": row.kind != "email" or row.organisation is None or row.confirmed_at is not None,
        **{name: getattr(row, name) for name in (*fields, "last_error")},
        "links": {
            "self": url("subscription", number=number),
            "notices": url("subscription-notices", number=number),
            "test": url("subscription-test", number=number),
        },
    }


def notice(row: models.Notice) -> dict[str, Any]:
    state = "sent" if row.sent_at else "given-up" if row.given_up_at else "waiting"
    fields = ("event", "created_at", "attempts", "sent_at", "given_up_at", "error")
    # The link by which a mail's owner agrees is the owner's alone.
    payload = {name: value for name, value in row.payload.items() if name != "link"}
    return {
        "number": row.pk,
        "incident": row.incident.key if row.incident else None,
        "state": state,
        **{name: getattr(row, name) for name in fields},
        "payload": payload,
    }


def maintenance(row: models.Maintenance, *, state: str, scope: str, operator: bool) -> dict[str, Any]:
    fields = ("starts_at", "ends_at", "message", "created_at", "cancelled_at")
    return {
        "number": row.pk,
        "state": state,
        **{name: getattr(row, name) for name in fields},
        "node": row.node.name if row.node and operator else None,
        "organisation": scope or None,
        "instance": row.instance.key if row.instance else None,
        "links": {"self": url("maintenance", number=str(row.pk))},
    }
