"""Backups: how old the newest of each tenant is, when the last one was proven by a drill, and what that measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.facts.instances import RUNNING, Tenant
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, gauge

PROVEN = "BackupProven"
_NEWEST = """
SELECT r.instance_id, b.kind, extract(epoch FROM clock_timestamp() - max(b.moment))::float8
FROM backups_repository r JOIN backups_backup b ON b.repository_id = r.id
WHERE b.state = 'done' AND r.instance_id IS NOT NULL GROUP BY r.instance_id, b.kind
"""
_PROVEN = """
SELECT instance_id, extract(epoch FROM proven_at)::float8, rpo_s, rto_s FROM backups_repository
WHERE instance_id IS NOT NULL AND proven_at IS NOT NULL
"""
_LACKING = """
SELECT r.instance_id, c.type, c.status, c.reason FROM reconcile_condition c
JOIN backups_repository r ON c.object_id IN (r.instance_key, r.key)
WHERE c.kind = 'Backups' AND r.instance_id IS NOT NULL
"""
_STATES = """
SELECT 'backup', state, count(*) FROM backups_backup GROUP BY state
UNION ALL SELECT 'restore', state, count(*) FROM backups_restore GROUP BY state
UNION ALL SELECT 'drill', state, count(*) FROM backups_drill GROUP BY state
"""
_LAST_DRILLS = """
SELECT DISTINCT ON (d.repository_id) r.instance_id, d.state FROM backups_drill d
JOIN backups_repository r ON r.id = d.repository_id
WHERE r.instance_id IS NOT NULL AND d.state IN ('passed', 'failed', 'broken')
ORDER BY d.repository_id, d.created_at DESC
"""
_CHECKS = """
SELECT count(*) FILTER (WHERE check_errors <> '[]'), count(*) FILTER (WHERE maintenance_error <> ''), count(*)
FROM backups_repository
"""


def families(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    yield gauge("roost_backup_runs", "Backups, restores and drills by state.", ("run", "state"), rows(_STATES))
    damaged, neglected, all_ = rows(_CHECKS)[0]
    yield gauge(
        "roost_backup_repositories",
        "Repositories: all, damaged (the last check found errors), neglected (pruning or checking did not come about).",
        ("state",),
        [("all", all_), ("damaged", damaged), ("neglected", neglected)],
    )
    said = [(known.get(pk), *rest) for pk, *rest in rows(_LACKING)]
    of_running = [(one, *rest) for one, *rest in said if one is not None and one.desired == RUNNING]
    proven = [(one, status == "True") for one, type_, status, _ in of_running if type_ == PROVEN]
    engines = sorted({one.engine for one, _ in proven})
    yield gauge(
        "roost_level_instances_backup",
        "Instances with backups, by whether a drill has proven lately that theirs can be restored.",
        ("engine", "state"),
        [
            (engine, state, sum(1 for one, well in proven if one.engine == engine and well == (state == "met")))
            for engine in engines
            for state in ("met", "missed")
        ],
    )
    if labels.shown:
        yield from _each(known, of_running)


def _each(known: dict[int, Tenant], said: list[tuple[Any, ...]]) -> Iterator[Family]:
    yield gauge(
        "roost_instance_backup_condition_not_true",
        "1 for each condition of a tenant's backups that is not true.",
        ("instance", "node", "condition", "status", "reason"),
        [(one.label, one.node, type_, status, why, 1) for one, type_, status, why in said if status != "True"],
    )
    newest = [(known.get(pk), kind, age_s) for pk, kind, age_s in rows(_NEWEST)]
    yield gauge(
        "roost_instance_backup_age_seconds",
        "How old the newest backup is: everything that is younger would be lost.",
        ("instance", "node", "kind"),
        [(one.label, one.node, kind, age_s) for one, kind, age_s in newest if one is not None],
    )
    proofs = [(known.get(pk), *rest) for pk, *rest in rows(_PROVEN)]
    for place, name, text in (
        (1, "roost_instance_backup_proven_seconds", "When a drill proved a backup last, in seconds since 1970."),
        (2, "roost_instance_backup_rpo_seconds", "As measured then: how old what was restored was."),
        (3, "roost_instance_backup_rto_seconds", "As measured then: how long restoring it took."),
    ):
        found = [(row[0], row[place]) for row in proofs if row[0] is not None and row[place] is not None]
        yield gauge(name, text, ("instance", "node"), [(one.label, one.node, value) for one, value in found])
    drills = [(known.get(pk), state) for pk, state in rows(_LAST_DRILLS)]
    yield gauge(
        "roost_instance_backup_drill_failed",
        "Whether the last drill of a tenant's backups failed or could not be carried out.",
        ("instance", "node", "state"),
        [(one.label, one.node, state, state != "passed") for one, state in drills if one is not None],
    )
