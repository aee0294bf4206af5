"""Numbers for the operator's pages: how many, how many are ready, what is stalled."""

from __future__ import annotations

from typing import Any

from controlplane.fleet.models import Node
from controlplane.reconcile.models import Condition, Event
from tenants.models import Instance, Organisation


def numbers() -> dict[str, Any]:
    """A handful of counting queries, cheap enough for each page view."""
    stalled = Condition.objects.filter(stalled=True).exclude(status="True")
    return {
        "organisations": Organisation.objects.count(),
        "instances": Instance.objects.count(),
        "ready": Condition.objects.filter(kind="Instance", type="Ready", status="True").count(),
        "suspended": Instance.objects.filter(suspended_at__isnull=False, deletion_requested_at=None).count(),
        "terminating": Instance.objects.filter(deletion_requested_at__isnull=False).count(),
        "nodes": Node.objects.exclude(standing=Node.RETIRED).count(),
        "nodes_ready": Condition.objects.filter(kind="Node", type="Ready", status="True").count(),
        "stalled": list(stalled.order_by("-last_transition")[:5]),
        "stalled_count": stalled.count(),
        "events": list(Event.objects.order_by("-id")[:8]),
    }
