"""Planned work: announced before, shown while it lasts, and no incident is opened for what it covers.

Only the operator plans. Without a node, an organisation or an instance it covers everything.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.monitoring import notices
from controlplane.monitoring.models import Maintenance, Subscription
from controlplane.reconcile import history
from controlplane.values.errors import InvalidInput
from tenants import audit, validators
from tenants.errors import WrongState
from tenants.models import Instance, Organisation
from tenants.principal import Principal

MAX_LENGTH = datetime.timedelta(days=14)
MAX_AHEAD = datetime.timedelta(days=366)
_ALL = Q(node=None, organisation=None, instance=None)


def running(at: datetime.datetime | None = None) -> QuerySet[Maintenance]:
    """What is under way."""
    now = at or timezone.now()
    return Maintenance.objects.filter(cancelled_at=None, starts_at__lte=now, ends_at__gt=now)


def coming(*, within: datetime.timedelta, at: datetime.datetime | None = None) -> QuerySet[Maintenance]:
    """What begins within that time, the soonest first."""
    now = at or timezone.now()
    rows = Maintenance.objects.filter(cancelled_at=None, starts_at__gt=now, starts_at__lte=now + within)
    return rows.order_by("starts_at", "pk")


def of(instance: Instance) -> Q:
    """Matches the maintenances that cover this instance where it is now: those of its node and of its edges, too."""
    here = Placement.objects.filter(instance=instance).values("node")
    edges = EdgeRoute.objects.filter(instance=instance).values("edge")
    mine = Q(instance=instance) | Q(organisation=instance.organisation_id) | Q(node__in=here) | Q(node__in=edges)
    return _ALL | mine


def covering(instance: Instance, at: datetime.datetime | None = None) -> Maintenance | None:
    """The one under way that covers this instance; of several the one that ends last."""
    return running(at).filter(of(instance)).order_by("-ends_at").first()


def covered(keys: Collection[str], at: datetime.datetime | None = None) -> set[str]:
    """Those of these instances' keys that are under planned work; one query while there is none."""
    rows = list(running(at))
    if not rows:
        return set()
    if any(row.node_id is None and row.organisation_id is None and row.instance_id is None for row in rows):
        return set(keys)
    within = Q(pk__in=[row.instance_id for row in rows if row.instance_id])
    within |= Q(organisation__in=[row.organisation_id for row in rows if row.organisation_id])
    within |= _on([row.node_id for row in rows if row.node_id])
    return set(Instance.objects.filter(within, key__in=keys).values_list("key", flat=True))


def _on(nodes: Collection[int]) -> Q:
    placed = Placement.objects.filter(node__in=nodes).values("instance")
    routed = EdgeRoute.objects.filter(edge__in=nodes).values("instance")
    return Q(pk__in=placed) | Q(pk__in=routed)


def instances_of(row: Maintenance) -> QuerySet[Instance]:
    """Those that it covers now."""
    found = Instance.objects.filter(deletion_requested_at=None)
    if row.instance_id:
        found = found.filter(pk=row.instance_id)
    if row.organisation_id:
        found = found.filter(organisation=row.organisation_id)
    if row.node_id:
        found = found.filter(_on([row.node_id]))
    return found


@transaction.atomic
def plan(
    *,
    starts_at: datetime.datetime,
    ends_at: datetime.datetime,
    message: str,
    principal: Principal,
    node: Node | None = None,
    organisation: Organisation | None = None,
    instance: Instance | None = None,
) -> Maintenance:
    """Announce it to those whom it concerns. At most one of node, organisation, instance."""
    if sum(part is not None for part in (node, organisation, instance)) > 1:
        raise InvalidInput("node", "It covers one thing or everything.", remedy="Give one of the three, or none.")
    row = Maintenance(node=node, organisation=organisation, instance=instance, created_by=principal.name[:200])
    row.starts_at, row.ends_at, row.message = starts_at, ends_at, _message(message)
    _check_times(row)
    row.save()
    _say(row, "planned", principal)
    return row


@transaction.atomic
def change(*, maintenance: Maintenance, changes: Mapping[str, Any], principal: Principal) -> Maintenance:
    """``starts_at``, ``ends_at``, ``message``; of what is over nothing can be changed."""
    row = _open(maintenance)
    before = (row.starts_at, row.ends_at, row.message)
    row.starts_at = changes.get("starts_at", row.starts_at)
    row.ends_at = changes.get("ends_at", row.ends_at)
    row.message = _message(changes.get("message", row.message))
    if before == (row.starts_at, row.ends_at, row.message):
        return row
    _check_times(row)
    row.save(update_fields=["starts_at", "ends_at", "message"])
    _say(row, "changed", principal)
    return row


@transaction.atomic
def cancel(*, maintenance: Maintenance, principal: Principal) -> Maintenance:
    """It does not take place; if it is under way, it ends now. Again: nothing changes."""
    row = _locked(maintenance)
    if row.cancelled_at is not None:
        return row
    row = _open(row)
    now = timezone.now()
    if row.starts_at < now:  # it did take place until now, and history says so
        row.ends_at = now
        row.save(update_fields=["ends_at"])
        _say(row, "ended", principal)
        return row
    row.cancelled_at = now
    row.save(update_fields=["cancelled_at"])
    _say(row, "cancelled", principal)
    return row


def _locked(row: Maintenance) -> Maintenance:
    rows = Maintenance.objects.select_for_update(of=("self",))
    return rows.select_related("node", "organisation", "instance__organisation", "instance__domain").get(pk=row.pk)


def _open(maintenance: Maintenance) -> Maintenance:
    row = _locked(maintenance)
    if row.cancelled_at is not None or row.ends_at <= timezone.now():
        raise WrongState("This maintenance is over.", remedy="Plan another one.")
    return row


def _message(text: str) -> str:
    return validators.line(text, field="message", maximum=500, empty=False)


def _check_times(row: Maintenance) -> None:
    now = timezone.now()
    if row.ends_at <= row.starts_at:
        raise InvalidInput("ends_at", "It ends before it begins.", remedy="Give a later end.")
    if row.ends_at <= now:
        raise InvalidInput("ends_at", "That time is over.", remedy="Give a time in the future.")
    if row.ends_at - row.starts_at > MAX_LENGTH:
        raise InvalidInput("ends_at", "It is too long.", remedy=f"At most {MAX_LENGTH.days} days are possible.")
    if row.starts_at - now > MAX_AHEAD:
        raise InvalidInput("starts_at", "It is too far ahead.", remedy="Give a time within a year.")


def scope_of(row: Maintenance) -> str:
    """The slug of the one organisation that it concerns; empty: several, or all."""
    if row.instance is not None:
        return row.instance.organisation.slug
    return row.organisation.slug if row.organisation is not None else ""


def _say(row: Maintenance, what: str, principal: Principal) -> None:
    """Audit, history, and a notice to each organisation that it concerns, of its own servers only."""
    times = {"starts_at": row.starts_at.isoformat(), "ends_at": row.ends_at.isoformat()}
    scope, summary = scope_of(row), f"Maintenance {what}: {row.message}"
    audit.record(
        principal=principal,
        action=f"maintenance.{what}",
        kind="Maintenance",
        object_id=str(row.pk),
        organisation=scope,
        summary=summary,
        data=times,
    )
    history.record("Maintenance", str(row.pk), f"Maintenance{what.title()}", scope=scope, message=row.message)
    event = f"maintenance.{what}"
    title = f"Maintenance {what}: {row.starts_at:%Y-%m-%d %H:%M} to {row.ends_at:%Y-%m-%d %H:%M} UTC"
    shared = {"event": event, "kind": "maintenance", "maintenance": row.pk, "title": title, "message": row.message}
    shared |= times
    providers = Subscription.objects.filter(active=True, organisation=None)
    place = {"node": row.node.name if row.node else None, "organisation": scope or None}
    notices.write(providers, event, {**shared, **place}, kind="maintenance")
    subscribed = Subscription.objects.filter(active=True).exclude(organisation=None)
    concerned: dict[str, list[str]] = {}
    covered_now = instances_of(row).filter(organisation__subscriptions__in=subscribed).distinct()
    for slug, name in covered_now.values_list("organisation__slug", "domain__name"):
        concerned.setdefault(slug, []).append(name)
    for slug, names in concerned.items():
        payload = {**shared, "organisation": slug, "domains": sorted(names)}
        notices.write(subscribed.filter(organisation__slug=slug), event, payload, kind="maintenance")
