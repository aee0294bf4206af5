"""Opens an instance's control channel for the services that work on accounts and rooms."""

from __future__ import annotations

from controlplane.drivers.engine.base import EngineControl
from controlplane.provisioning.subject import Subject
from controlplane.values.errors import Unavailable
from tenants.models import Instance


def control_of(instance: Instance) -> EngineControl:
    """Raises ``Unavailable`` while the instance has no running server; the remedy says what to wait for."""
    subject = Subject(instance)
    if not instance.should_run:
        what = "terminated" if instance.deletion_requested_at is not None else "suspended"
        raise Unavailable(f"{subject.domain} is {what}.", remedy="Resume it first.")
    placement = subject.placement
    if placement is None or not placement.applied_digest:
        raise Unavailable(
            f"The server of {subject.domain} does not run yet.", remedy="Wait for the condition ServerRunning."
        )
    return subject.control
