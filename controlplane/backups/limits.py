"""How many backups run at the same time: at a place, and of one node. Who finds no room waits for a turn."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from controlplane.backups.models import Backup, Place
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease

WAIT_S = 5.0


def enter(backup: Backup, subject: Subject, lease: Lease) -> float:
    """Take a turn: the row says "running" then, and 0 is returned. Else how many seconds to wait.

    A row whose worker died counts until another takes it over, which is when its lease has run out.
    """
    node = subject.placement.node.name if subject.placement is not None else ""
    with transaction.atomic():
        leases.hold(lease)
        place = Place.objects.select_for_update().get(pk=backup.repository.place_id)
        running = Backup.objects.filter(state=Backup.RUNNING).exclude(pk=backup.pk)
        here = running.filter(repository__place=place).count()
        there = running.filter(node=node).count() if node else 0
        if here >= place.at_once or there >= place.at_once_per_node:
            Backup.objects.filter(pk=backup.pk).update(state=Backup.WAITING, progress={"phase": "queued"})
            return WAIT_S
        # One of the same repository at a time: two exports of one engine would only be slower.
        if running.filter(repository=backup.repository_id).exists():
            Backup.objects.filter(pk=backup.pk).update(state=Backup.WAITING, progress={"phase": "queued"})
            return WAIT_S
        Backup.objects.filter(pk=backup.pk).update(
            state=Backup.RUNNING, node=node, started_at=timezone.now(), progress={"phase": "begun"}
        )
    return 0.0
