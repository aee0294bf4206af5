"""An instance with a place for its backups: a directory, and real restic where a test saves something."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.backups import places, repositories
from controlplane.backups.models import Place, Repository
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import Condition, WorkItem
from tenants import services
from tenants.models import Instance
from tenants.principal import SYSTEM

#: A quiet time of the year: no clock changes near.
NOON = datetime.datetime(2026, 6, 10, 12, 0, tzinfo=datetime.UTC)


@pytest.fixture
def here(db, tmp_path) -> Place:
    (tmp_path / "kept").mkdir()
    return places.create_place(name="here", url=str(tmp_path / "kept"), principal=SYSTEM)


@pytest.fixture
def saved_instance(here) -> Instance:
    """Made long ago, and its server runs, as far as its own pass wrote."""
    plan = services.create_plan(slug="saved", name="Saved", principal=SYSTEM)
    organisation = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    made = services.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    Instance.objects.filter(pk=made.pk).update(created_at=NOON - datetime.timedelta(days=400))
    runs(made, True)
    return Instance.objects.whole().get(pk=made.pk)


def runs(instance: Instance, whether: bool) -> None:
    Condition.objects.update_or_create(
        kind="Instance",
        object_id=instance.key,
        type="ServerRunning",
        defaults={"status": "True" if whether else "False", "last_transition": timezone.now()},
    )


@pytest.fixture
def repository(saved_instance) -> Repository:
    return repositories.ensure(saved_instance)


def lease_of(kind: str, object_id: str) -> Lease:
    """The lease of one resource, however others wait, and whoever of this test had it before."""
    watch.touch(kind, object_id)
    WorkItem.objects.filter(kind=kind, object_id=object_id).update(leased_until=None)
    queue = watch.kind(kind).queue
    return next(
        x for x in leases.claim([queue], holder="test", limit=100) if (x.kind, x.object_id) == (kind, object_id)
    )


@pytest.fixture
def lease(saved_instance) -> Lease:
    return lease_of("Backups", saved_instance.key)
