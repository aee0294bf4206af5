"""Appends to the audit: one event per service call, in the service's transaction.

Callers give no secrets; ``data`` is shown to everyone who may read the organisation.
"""

from __future__ import annotations

from typing import Any

from tenants.models import AuditEvent
from tenants.principal import Principal


def record(
    *,
    principal: Principal,
    action: str,
    kind: str,
    object_id: str,
    organisation: str = "",
    summary: str = "",
    data: dict[str, Any] | None = None,
) -> AuditEvent:
    """Append one event. ``action`` reads ``kind.verb`` (``instance.suspend``), ``organisation`` is a slug."""
    return AuditEvent.objects.create(
        actor=principal.name[:200],
        organisation=organisation,
        action=action,
        kind=kind,
        object_id=object_id[:120],
        summary=summary,
        data=data or {},
        address=principal.address or None,
    )
