"""Whom Prometheus scrapes, as its HTTP service discovery reads it: each running tenant's engine, by the web process.

Prometheus asks again every minute, so a new tenant is scraped without anyone's reload.
"""

from __future__ import annotations

from typing import Any

from controlplane.metrics.facts.instances import RUNNING, tenants
from controlplane.metrics.labels import TenantLabels


def engines(host: str) -> list[dict[str, Any]]:
    """One group a tenant. Without tenants' labels there is none: an engine's metrics are a tenant's."""
    labels = TenantLabels.configured()
    if not labels.shown:
        return []
    found = []
    for one in sorted(tenants(labels).values(), key=lambda one: one.key):
        if one.desired != RUNNING or not one.node:
            continue
        said = {"__metrics_path__": f"/metrics/instances/{one.label}", "instance": one.label, "engine": one.engine}
        said["node"] = one.node
        if labels.named:
            said |= {"organisation": one.organisation, "domain": one.domain}
        found.append({"targets": [host], "labels": said})
    return found
