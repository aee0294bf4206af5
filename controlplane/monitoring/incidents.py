"""Incidents: opened once per subject, told as they go, ended when the fault is gone.

Each function runs in the caller's transaction or one of its own; people are told by ``notices``, written in the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.fleet.models import Node
from controlplane.monitoring.models import Incident, IncidentEntry
from controlplane.reconcile import history
from tenants.models import Instance

__all__ = ["end_incident", "open_for", "open_incident", "tell"]


@transaction.atomic
def open_incident(
    *,
    kind: str,
    subject: str,
    cause: str,
    title: str,
    message: str,
    instance: Instance | None = None,
    node: Node | None = None,
    started_at: datetime.datetime | None = None,
    details: Mapping[str, Any] | None = None,
) -> tuple[Incident, bool]:
    """The open incident of this subject, and whether it was made now. One that is there gets another cause told.

    ``started_at``: the first sign, if that was earlier than now. With an instance it is its organisation's to see.
    """
    now = timezone.now()
    made = Incident(
        kind=kind,
        subject=subject,
        scope=instance.organisation.slug if instance is not None else "",
        instance=instance,
        node=node,
        cause=cause,
        title=title[:300],
        started_at=min(started_at or now, now),
        noticed_at=now,
        details=dict(details or {}),
    )
    # Two that notice the same at once: the second finds the first's (the unique index makes it wait for that commit).
    Incident.objects.bulk_create([made], ignore_conflicts=True)
    row = Incident.objects.select_for_update().get(subject=subject, ended_at=None)
    if row.key == made.key:
        _say(row, "Noticed", message, event="IncidentOpened")
        return row, True
    if row.cause != cause:
        row.cause, row.title = cause, title[:300]
        row.save(update_fields=["cause", "title"])
        _say(row, "CauseChanged", message)
    return row, False


def open_for(subject: str) -> Incident | None:
    """The open incident of this subject."""
    return Incident.objects.filter(subject=subject, ended_at=None).first()


@transaction.atomic
def tell(incident: Incident, type: str, message: str, details: Mapping[str, Any] | None = None) -> None:
    """Add a line to the timeline, and ``details`` to those that are known."""
    if details:
        row = Incident.objects.select_for_update().get(pk=incident.pk)
        row.details = {**row.details, **details}
        row.save(update_fields=["details"])
        incident.details = row.details
    IncidentEntry.objects.create(incident=incident, type=type, message=message)


@transaction.atomic
def end_incident(subject: str, message: str, details: Mapping[str, Any] | None = None) -> Incident | None:
    """End the open incident of this subject, if there is one; safe to call again."""
    row = Incident.objects.select_for_update().filter(subject=subject, ended_at=None).first()
    if row is None:
        return None
    row.ended_at = timezone.now()
    row.details = {**row.details, **(details or {}), "lasted_s": (row.ended_at - row.started_at).total_seconds()}
    row.save(update_fields=["ended_at", "details"])
    _say(row, "Ended", message, event="IncidentEnded")
    return row


def _say(row: Incident, type: str, message: str, *, event: str = "") -> None:
    """A line of the timeline; what opens or ends it is history and goes out to those who want to be told."""
    from controlplane.monitoring import notices  # it reads incidents itself

    IncidentEntry.objects.create(incident=row, type=type, message=message)
    if not event:
        return
    kind, object_id = ("Instance", row.instance.key) if row.instance else ("Node", row.node.name if row.node else "")
    history.record(kind, object_id, event, scope=row.scope, reason=row.cause, message=message)
    notices.announce(row, "incident.opened" if event == "IncidentOpened" else "incident.ended", message)
