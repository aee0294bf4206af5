"""The work queue: what is there, what is due, who works, and how long the oldest has been waiting."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.text import Family, gauge

_ITEMS = """
SELECT queue, kind, count(*),
  count(*) FILTER (WHERE is_due), count(*) FILTER (WHERE is_leased), count(*) FILTER (WHERE attempts > 0),
  coalesce(extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE is_due))::float8, 0)
FROM (SELECT queue, kind, attempts, due_at,
    leased_until >= clock_timestamp() IS TRUE AS is_leased,
    due_at <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp()) AS is_due
  FROM reconcile_workitem) item
GROUP BY queue, kind
"""
_LABELS = ("queue", "kind")


def families() -> Iterator[Family]:
    found = rows(_ITEMS)
    for column, name, text in (
        (2, "roost_work_items", "Resources that are kept as they should be."),
        (3, "roost_work_due", "Resources that are due and that nobody has taken yet."),
        (4, "roost_work_leased", "Resources that somebody works on now."),
        (5, "roost_work_failing", "Resources whose last pass failed."),
        (6, "roost_work_oldest_due_seconds", "How long the oldest of those has been due."),
    ):
        yield gauge(name, text, _LABELS, [(queue, kind, row[column - 2]) for queue, kind, *row in found])
