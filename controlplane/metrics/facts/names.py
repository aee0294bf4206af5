"""DNS: record sets by how they are, and how old the last comparison of everything is."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.facts.instances import RUNNING, Tenant
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, gauge

_RECORDS = """
SELECT publisher, CASE WHEN conflict THEN 'conflict' WHEN NOT wanted THEN 'leaving' WHEN published THEN 'published'
    WHEN optional THEN 'optional' ELSE 'missing' END, count(*)
FROM zones_dnsrecord GROUP BY 1, 2
"""
_DRIFT = """
SELECT instance_id, count(*) FROM zones_dnsrecord WHERE wanted AND NOT optional AND (conflict OR NOT published)
GROUP BY instance_id
"""
_ZONES = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(coalesce(checked_at, created_at)))::float8, 0)
FROM zones_zone
"""


def families(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    yield gauge(
        "roost_dns_records",
        "Record sets: published, missing, leaving, optional (missing, and allowed to), conflict (somebody else's).",
        ("publisher", "state"),
        rows(_RECORDS),
    )
    count, oldest = rows(_ZONES)[0]
    yield gauge("roost_zones", "Zones that Roost writes.", (), [(count,)])
    yield gauge(
        "roost_zone_compared_age_seconds_max",
        "How long ago all records of the zone were compared that was compared longest ago.",
        (),
        [(oldest,)],
    )
    drifting = [(known.get(pk), number) for pk, number in rows(_DRIFT)]
    found = [(one, number) for one, number in drifting if one is not None and one.desired == RUNNING]
    yield gauge("roost_instances_dns_drift", "Instances that should run and lack a record set.", (), [(len(found),)])
    if labels.shown:
        yield gauge(
            "roost_instance_dns_drift",
            "Record sets that are not as wanted, of each instance that has any.",
            ("instance", "node"),
            [(one.label, one.node, number) for one, number in found],
        )
