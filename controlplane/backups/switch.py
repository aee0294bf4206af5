"""The moment at which what was built aside becomes the instance: one transaction, which its node and its pass follow.

Before it the old state serves; after it there is no way but forward. What the instance had is kept beside.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from controlplane.backups.models import Restore
from controlplane.fleet.models import Placement, Scratch
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import faults, watch
from controlplane.reconcile.lease import Lease, hold
from controlplane.values.bundle import RUNNING, STOPPED
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.outcome import Wait
from tenants import audit
from tenants.models import Instance
from tenants.principal import SYSTEM
from tenants.services import instances as tenants

#: The audit's word for it; whoever compares an instance with what it had before asks for that.
SWITCHED = "backup.restore"


def switch(restore: Restore, scratch: Scratch, lease: Lease) -> None:
    """Have the instance take over the scratch's data, its node and its engine. Safe to call again."""
    faults.point("before-switch")
    with transaction.atomic():
        hold(lease)
        row = Restore.objects.select_for_update().get(pk=restore.pk)
        if row.switched_at is not None:
            return
        if row.cancel_requested_at is not None:
            raise Rejected("It was called off.")
        instance = tenants.hold(scratch.instance)
        if not instance.should_run:
            raise Rejected(f"{instance.domain.name} does not run any more.", remedy="Resume it, and restore again.")
        placement = Placement.objects.select_for_update().select_related("node").get(instance=instance)
        if placement.node_id != scratch.node_id:
            _move(placement, scratch, instance.engine, lease)
        placement.adopt_id, placement.adopt_key, placement.kept = restore.key, scratch.key, restore.key
        placement.save()
        Instance.objects.filter(pk=instance.pk).update(
            engine=scratch.engine, generation=F("generation") + 1, verify_generation=F("verify_generation") + 1
        )
        now = timezone.now()
        Restore.objects.filter(pk=restore.pk).update(switched_at=now)
        _tell(restore, instance)
        watch.touch("Node", placement.node.name)
    restore.switched_at = now
    faults.point("after-switch")


def _move(placement: Placement, scratch: Scratch, engine: str, lease: Lease) -> None:
    """The instance is where the scratch is, from now on; what it leaves behind is kept there, stopped."""
    Scratch.objects.create(
        key=placement.instance.key,
        instance=placement.instance,
        node=placement.node,
        engine=engine,
        address=placement.address,
        base_port=placement.base_port,
        memory_mib=0,
        owner_kind=lease.kind,
        owner_id=lease.object_id,
        purpose=Scratch.FORMER,
        wanted_state=STOPPED,
    )
    placement.node = scratch.node
    placement.address, placement.base_port = scratch.address, scratch.base_port
    placement.wanted_digest = placement.applied_digest = placement.loaded_digest = placement.error = ""
    placement.failures, placement.retry_at = 0, None
    placement.explanation = f"A backup was restored onto {scratch.node.name}."


def _tell(restore: Restore, instance: Instance) -> None:
    said = f"restored from the backup {restore.backup.key}" if restore.backup is not None else "restored"
    tenants.note(
        instance,
        "Restored",
        action=SWITCHED,
        summary=f"{said}, as {restore.requested_by or 'somebody'} asked",
        principal=SYSTEM,
        data={"restore": restore.key},
    )


def settled(instance: Instance) -> Wait | None:
    """None once the node has applied the switch and the engine runs with the data that was taken over."""
    subject = Subject(instance)
    placement = subject.placement
    if placement is None:
        raise Unavailable(f"{instance.domain.name} has no node.")
    if placement.applied_digest != subject.bundle(RUNNING).digest():
        said = placement.error or f"{placement.node.name} applies it."
        return Wait("Switching", said, 5.0, failed=bool(placement.error))
    try:
        subject.control.health()
    except Unavailable as error:
        return Wait("Starting", error.message, 2.0)
    return None


def tell_failed(restore: Restore, message: str) -> None:
    """For the audit and the history. In the caller's transaction."""
    audit.record(
        principal=SYSTEM,
        action="backup.restore_failed",
        kind="Instance",
        object_id=restore.instance_key,
        organisation=restore.repository.organisation_slug,
        summary=f"{restore.repository.domain}: a restore failed: {message}"[:400],
        data={"restore": restore.key},
    )
