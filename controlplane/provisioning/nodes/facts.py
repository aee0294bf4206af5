"""What a node told of itself, written down when it says something new, and now and then anyway."""

from __future__ import annotations

import datetime
from typing import Any

from django.utils import timezone

from controlplane.fleet.models import Node
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease

PACKAGES = ("prosody", "ejabberd", "haproxy", "coturn")
WRITTEN_EVERY = datetime.timedelta(minutes=5)
#: Facts that move all the time, and by how much they have to before it is news.
MOVING = {"memory_available_mib": "memory_mib", "disk_free_mib": "disk_total_mib"}
NEWS = 0.1
CLOCK_NEWS_S = 1.0
_QUIET = frozenset({*MOVING, "load", "uptime_s", "clock_offset_s"})


def with_clock(told: dict[str, Any], asked_at: float, answered_at: float) -> dict[str, Any]:
    """The facts with the offset of the node's clock in seconds; one that the way there explains is none."""
    facts = dict(told)
    offset_s = float(facts.pop("time")) - (asked_at + answered_at) / 2
    facts["clock_offset_s"] = 0.0 if abs(offset_s) <= (answered_at - asked_at) / 2 + 0.05 else round(offset_s, 1)
    return facts


def store(node: Node, lease: Lease, facts: dict[str, Any]) -> None:
    """Keep them on ``node``, and in the database if they are news. Raises ``LeaseLost``."""
    before, at, now = node.facts, node.facts_at, timezone.now()
    node.facts = facts
    if at is not None and now - at < WRITTEN_EVERY and not _is_news(before, facts):
        return
    node.facts_at = now
    with leases.holding(lease):
        Node.objects.filter(pk=node.pk).update(facts=facts, facts_at=now)


def _is_news(before: dict[str, Any], facts: dict[str, Any]) -> bool:
    if {k: v for k, v in before.items() if k not in _QUIET} != {k: v for k, v in facts.items() if k not in _QUIET}:
        return True
    if abs(before.get("clock_offset_s", 0.0) - facts.get("clock_offset_s", 0.0)) >= CLOCK_NEWS_S:
        return True
    return any(
        abs(before.get(name, 0) - facts.get(name, 0)) > NEWS * facts.get(whole, 0) for name, whole in MOVING.items()
    )
