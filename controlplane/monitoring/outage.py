"""XEP-0455: what clients are told of an outage, at an address that does not depend on the server in question.

The document is made from incidents and maintenances when it is asked for, so it says nothing any more once they end.
The engines announce its address in service discovery (``values.spec.InstanceSpec.outage_url``).
"""

from __future__ import annotations

import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from controlplane.fleet.models import Placement
from controlplane.monitoring import maintenance
from controlplane.monitoring.models import Incident
from controlplane.monitoring.wording import DOWN, PUBLIC_KINDS, wording
from tenants.models import Instance

#: Planned work is announced to clients this long before.
AHEAD = datetime.timedelta(days=2)


def affecting(instance: Instance) -> QuerySet[Incident]:
    """Incidents that the public may know of: the instance's own, and those of the machine that it is on."""
    here = Placement.objects.filter(instance=instance).values("node")
    mine = Q(instance=instance) | Q(instance=None, node__in=here)
    return Incident.objects.filter(mine, kind__in=PUBLIC_KINDS)


def document(instance: Instance, now: datetime.datetime | None = None) -> dict[str, Any]:
    """The status file (XEP-0455 §2.2): empty while nothing is wrong and nothing is planned soon."""
    now = now or timezone.now()
    if not instance.should_run:
        return {}
    found = list(affecting(instance).filter(ended_at=None).order_by("started_at"))
    told = [(row, said) for row in found if (said := wording(row.kind, row.cause, row.subject)) is not None]
    if told:
        worst = next((said for _, said in told if said.level == DOWN), told[0][1])
        text = f"{worst.sentence}. We are working on it."
        return _outage(planned=False, beginning=told[0][0].started_at, message=text)
    mine = maintenance.of(instance)
    work = maintenance.running(now).filter(mine).order_by("-ends_at").first()
    work = work or maintenance.coming(within=AHEAD, at=now).filter(mine).first()
    if work is None:
        return {}
    return _outage(planned=True, beginning=work.starts_at, expected_end=work.ends_at, message=work.message)


def _outage(
    *, planned: bool, beginning: datetime.datetime, message: str, expected_end: datetime.datetime | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"planned": planned, "beginning": _xmpp(beginning)}
    if expected_end is not None:
        made["expected_end"] = _xmpp(expected_end)
    return {**made, "message": {"default": message}}


def _xmpp(at: datetime.datetime) -> str:
    """XEP-0082."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
