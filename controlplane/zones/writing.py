"""Writes what a zone's pass found of thousands of records, in a few statements; each in its caller's transaction.

A row is written only if it is still the revision that the pass looked at.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

from django.db import connection

from controlplane.zones.decide import Verdict
from controlplane.zones.models import DnsRecord

#: So many rows in a statement.
AT_ONCE = 1000

_ATTEMPTS = """
UPDATE zones_dnsrecord AS record SET attempted = given.attempted, created_by_us = false
FROM unnest(%s::bigint[], %s::text[]::jsonb[]) AS given(id, attempted) WHERE record.id = given.id
"""

_FOUND = """
UPDATE zones_dnsrecord AS record SET published = given.published, conflict = given.conflict, problem = given.problem,
  seen = given.seen, created_by_us = given.owned, checked_at = %s
FROM unnest(%s::bigint[], %s::bigint[], %s::bool[], %s::bool[], %s::text[], %s::text[]::jsonb[], %s::bool[])
  AS given(id, revision, published, conflict, problem, seen, owned)
WHERE record.id = given.id AND record.revision = given.revision
RETURNING record.id
"""

_OWNED = """
UPDATE zones_dnsrecord AS record SET created_by_us = given.owned
FROM unnest(%s::bigint[], %s::bool[]) AS given(id, owned) WHERE record.id = given.id
"""


def note_attempts(due: Sequence[Verdict]) -> None:
    """Write what is about to be created, and that what is changed otherwise is ours."""
    made = [v for v in due if v.change is not None and v.change.action == "create"]
    # Known by its data only, which is about to change.
    other = [v.row.pk for v in due if v.change is not None and v.change.action != "create" and not v.row.created_by_us]
    for some in _parts(made):
        data = [json.dumps(sorted(v.change.record_set.rdatas)) for v in some if v.change is not None]
        with connection.cursor() as cursor:
            cursor.execute(_ATTEMPTS, [[v.row.pk for v in some], data])
    if other:
        DnsRecord.objects.filter(pk__in=other).update(created_by_us=True)


def store(verdicts: Sequence[Verdict], now: datetime.datetime) -> set[str]:
    """Write what was found; the keys of the instances that it is news for."""
    gone = [v for v in verdicts if v.gone]
    news = [v for v in verdicts if not v.gone and _is_news(v)]
    same = [v for v in verdicts if not v.gone and not _is_news(v)]
    moved = {v.row.instance.key for v in news} | _deleted(gone)
    for some in _parts(news):
        columns: list[list[Any]] = [
            [v.row.pk for v in some],
            [v.row.revision for v in some],
            [_is_published(v) for v in some],
            [v.conflict for v in some],
            [v.problem for v in some],
            [json.dumps(v.seen) for v in some],
            [v.owned for v in some],
        ]
        with connection.cursor() as cursor:
            cursor.execute(_FOUND, [now, *columns])
            written = {pk for (pk,) in cursor.fetchall()}
            # Wanted otherwise meanwhile; whose it is stays true, and the next pass is due already.
            late = [v for v in some if v.row.pk not in written]
            if late:
                cursor.execute(_OWNED, [[v.row.pk for v in late], [v.owned for v in late]])
    for some in _parts(same):  # nearly all are as they were
        DnsRecord.objects.filter(pk__in=[v.row.pk for v in some]).update(checked_at=now)
    return moved


def _is_published(verdict: Verdict) -> bool:
    return verdict.row.wanted and not verdict.problem


def _is_news(verdict: Verdict) -> bool:
    row = verdict.row
    found = (_is_published(verdict), verdict.conflict, verdict.problem, verdict.seen, verdict.owned)
    return found != (row.published, row.conflict, row.problem, row.seen, row.created_by_us)


def _deleted(gone: Sequence[Verdict]) -> set[str]:
    """Delete the rows of these that are still the same revision; the keys of their instances."""
    keys: set[str] = set()
    by_revision: dict[int, list[Verdict]] = {}
    for verdict in gone:
        by_revision.setdefault(verdict.row.revision, []).append(verdict)
    for revision, some in by_revision.items():
        rows = DnsRecord.objects.filter(pk__in=[v.row.pk for v in some], revision=revision)
        there = set(rows.select_for_update().values_list("pk", flat=True))
        DnsRecord.objects.filter(pk__in=there).delete()
        keys |= {v.row.instance.key for v in some if v.row.pk in there}
    return keys


def _parts(verdicts: Sequence[Verdict]) -> list[Sequence[Verdict]]:
    return [verdicts[start : start + AT_ONCE] for start in range(0, len(verdicts), AT_ONCE)]
