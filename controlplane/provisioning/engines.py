"""Opens an instance's control channel for the services that work on accounts and rooms."""

from __future__ import annotations

from controlplane.drivers.engine.base import EngineControl
from controlplane.provisioning.subject import Subject
from controlplane.values.errors import Rejected, Unavailable
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
    if subject.node_is_away:
        raise Unavailable(
            f"The machine of {subject.domain} is not reached at the moment.",
            remedy="Try again later; it is looked at by itself.",
        )
    try:
        return subject.control
    except Rejected as error:
        # Who asks for accounts is a tenant: what is wrong with the machine is its operator's affair.
        raise Unavailable(
            f"The machine of {subject.domain} cannot be commanded at the moment.",
            remedy="Its operator is told why.",
        ) from error
