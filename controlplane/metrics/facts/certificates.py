"""Certificates: when each ends, and how many orders are under way or failed."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.metrics.facts.asked import rows
from controlplane.metrics.facts.instances import RUNNING, Tenant
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, gauge

_ENDS = """
SELECT instance_id, extract(epoch FROM not_after)::float8, extract(epoch FROM not_after - not_before)::float8
FROM certificates_certificate WHERE wanted AND not_after IS NOT NULL
"""
_COUNTS = """
SELECT count(*) FILTER (WHERE not_after IS NULL),
  count(*) FILTER (WHERE not_after <= clock_timestamp()),
  count(*) FILTER (WHERE not_after > clock_timestamp() AND renew_at <= clock_timestamp()),
  count(*) FILTER (WHERE not_after > clock_timestamp() AND (renew_at IS NULL OR renew_at > clock_timestamp())),
  coalesce(extract(epoch FROM min(not_after) - clock_timestamp())::float8 / 86400, 'NaN'::float8)
FROM certificates_certificate c JOIN tenants_instance i ON i.id = c.instance_id
WHERE wanted AND i.suspended_at IS NULL AND i.deletion_requested_at IS NULL
"""
_ORDERS = "SELECT state, count(*) FROM certificates_order GROUP BY state"


def families(known: dict[int, Tenant], labels: TenantLabels) -> Iterator[Family]:
    missing, expired, due, good, soonest = rows(_COUNTS)[0]
    yield gauge(
        "roost_certificates",
        "Certificates of instances that should run: good, due (to be renewed now), expired, missing (never issued).",
        ("state",),
        [("good", good), ("due", due), ("expired", expired), ("missing", missing)],
    )
    yield gauge("roost_certificate_days_left_min", "Days left of the certificate that ends first.", (), [(soonest,)])
    yield gauge("roost_certificate_orders", "ACME orders by state.", ("state",), rows(_ORDERS))
    if labels.shown:
        found = [(known.get(pk), end, life) for pk, end, life in rows(_ENDS)]
        running = [(one, end, life) for one, end, life in found if one is not None and one.desired == RUNNING]
        yield gauge(
            "roost_certificate_not_after_seconds",
            "When each certificate ends, in seconds since 1970.",
            ("instance", "node"),
            [(one.label, one.node, end) for one, end, _ in running],
        )
        yield gauge(
            "roost_certificate_life_seconds",
            "For how long each certificate was issued.",
            ("instance", "node"),
            [(one.label, one.node, life) for one, _, life in running],
        )
