"""Backups that are late, fail or are damaged open an incident, once; it ends when they are well again."""

from __future__ import annotations

import pytest
from django.utils import timezone

from controlplane.monitoring import saved
from controlplane.monitoring.models import Incident
from controlplane.reconcile import conditions, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.models import WorkItem
from controlplane.reconcile.step import Finding
from tenants import services
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def instance(db) -> Instance:
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    acme = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return services.create_instance(
        organisation=acme, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


def lease_of(kind: str, instance: Instance) -> Lease:
    watch.touch(kind, instance.key)
    claimed = leases.claim([watch.kind(kind).queue], holder="test", limit=100)  # type: ignore[union-attr]
    return next(one for one in claimed if (one.kind, one.object_id) == (kind, instance.key))


def say(instance: Instance, *findings: Finding) -> list[Incident]:
    """The clock writes this; what is open afterwards."""
    lease = lease_of("Backups", instance)
    conditions.write(lease, findings, generation=1, scope="acme")
    leases.release(lease, after_s=0, attempts=0)
    if WorkItem.objects.filter(kind=saved.KIND, object_id=instance.key).exists():
        assert saved.reconcile(lease_of(saved.KIND, instance)) is None
    return list(Incident.objects.filter(ended_at=None).order_by("subject"))


def test_late_is_one_incident_and_ends(instance: Instance) -> None:
    late = Finding("BackedUp", "False", "Late", "The backup of 02:00 is missing.", "See that a worker runs.")
    members = Finding("MembersSaved", "False", "Late", "The backup of members is missing.")
    (told,) = say(instance, late, members)
    assert (told.kind, told.cause, told.scope) == ("backup", "BackedUpLate", "acme")
    assert told.started_at <= timezone.now()
    (again,) = say(instance, Finding("BackedUp", "False", "Failing", "The place is not reached."), members)
    assert (again.pk, again.cause) == (told.pk, "BackedUpFailing")
    fresh = Finding("BackedUp", "True", "Fresh", "The last backup has all until now.")
    (other,) = say(instance, fresh, members)
    assert other.subject.endswith("MembersSaved")
    assert say(instance, fresh, Finding("MembersSaved", "True", "Fresh")) == []
    assert not WorkItem.objects.filter(kind=saved.KIND).exists()


def test_what_nobody_can_help_is_not_told(instance: Instance) -> None:
    assert say(instance, Finding("BackedUp", "False", "NoPlace", "There is no place.")) == []
    assert say(instance, Finding("BackedUp", "Unknown", "Paused", "Paused.")) == []
    assert say(instance, Finding("BackupProven", "False", "Never", "Not proven yet.")) == []


def test_damage_is_told_and_an_instance_that_is_gone_ends_it(instance: Instance) -> None:
    (told,) = say(instance, Finding("RepositorySound", "False", "Damaged", "A pack is lost."))
    assert told.cause == "RepositorySoundDamaged"
    key = instance.key
    lease = lease_of(saved.KIND, instance)
    instance.delete()
    assert saved.reconcile(lease) is None
    told.refresh_from_db()
    assert told.ended_at is not None
    assert not WorkItem.objects.filter(kind=saved.KIND, object_id=key).exists()
