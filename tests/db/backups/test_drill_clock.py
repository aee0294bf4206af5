"""When drills are due, and what the condition says: asked at any moment, without a drill that ran."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.backups import drilling, drills, places, repositories
from controlplane.backups.models import Backup, Drill, Repository
from controlplane.backups.policy import Rules
from controlplane.reconcile.lease import Lease, LeaseLost
from controlplane.reconcile.models import WorkItem
from tenants.errors import WrongState
from tenants.models import Instance
from tests.db.backups import proofs

pytestmark = [pytest.mark.db, pytest.mark.django_db]

DAY = datetime.timedelta(days=1)
RULES = Rules(drill_days=30)


@pytest.fixture
def instance(tmp_path) -> Instance:
    places.create_place(name="here", url=str(tmp_path / "places"), principal=proofs.OPERATOR)
    return proofs.instance_of("acme.example")


@pytest.fixture
def repository(instance: Instance) -> Repository:
    return repositories.ensure(instance)


@pytest.fixture
def lease(instance: Instance) -> Lease:
    from controlplane.reconcile import lease as leases
    from controlplane.reconcile import watch

    watch.touch("Backups", instance.key)
    return next(one for one in leases.claim(["reconcile"], holder="test", limit=50) if one.kind == "Backups")


def saved(repository: Repository, *, ago: datetime.timedelta = DAY) -> Backup:
    at = timezone.now() - ago
    return Backup.objects.create(
        repository=repository,
        kind=Backup.FULL,
        trigger=Backup.SCHEDULE,
        state=Backup.DONE,
        snapshot="0" * 64,
        moment=at,
        finished_at=at,
    )


def over(repository: Repository, state: str, *, ago: datetime.timedelta, **more: object) -> Drill:
    return Drill.objects.create(
        repository=repository, state=state, finished_at=timezone.now() - ago, started_at=timezone.now() - ago, **more
    )


def due(instance: Instance, repository: Repository, lease: Lease, rules: Rules = RULES) -> bool:
    drills.tend(instance, repository, rules, lease, timezone.now())
    found = Drill.objects.filter(repository=repository, state=Drill.WAITING).exists()
    Drill.objects.filter(repository=repository, state=Drill.WAITING).delete()
    return found


def test_without_a_backup_none_is_due(instance: Instance, repository: Repository, lease: Lease) -> None:
    assert not due(instance, repository, lease)
    with pytest.raises(WrongState):
        drills.request_drill(instance=instance, principal=proofs.OPERATOR)


def test_the_first_follows_the_first_backup(instance: Instance, repository: Repository, lease: Lease) -> None:
    saved(repository, ago=2 * DAY)
    assert due(instance, repository, lease)
    assert not due(instance, repository, lease, Rules(drill_days=0))
    assert not due(instance, repository, lease, Rules(drill_days=30, paused_at=timezone.now()))


def test_the_next_comes_when_the_policy_says_so(instance: Instance, repository: Repository, lease: Lease) -> None:
    saved(repository)
    last = over(repository, Drill.PASSED, ago=28 * DAY)
    assert not due(instance, repository, lease)
    Drill.objects.filter(pk=last.pk).update(finished_at=timezone.now() - 32 * DAY)
    assert due(instance, repository, lease)


def test_after_one_that_failed_the_next_comes_soon(instance: Instance, repository: Repository, lease: Lease) -> None:
    saved(repository)
    last = over(repository, Drill.FAILED, ago=DAY / 2)
    assert not due(instance, repository, lease)
    Drill.objects.filter(pk=last.pk).update(finished_at=timezone.now() - 1.1 * DAY)
    assert due(instance, repository, lease)


def test_one_at_a_time(instance: Instance, repository: Repository, lease: Lease) -> None:
    saved(repository, ago=2 * DAY)
    first = drills.request_drill(instance=instance, principal=proofs.OPERATOR)
    assert drills.request_drill(instance=instance, principal=proofs.OPERATOR) == first
    drills.tend(instance, repository, RULES, lease, timezone.now())
    assert Drill.objects.count() == 1
    assert WorkItem.objects.filter(kind="Drill", object_id=first.key, queue="backup").exists()


def test_a_lost_lease_asks_for_nothing(instance: Instance, repository: Repository, lease: Lease) -> None:
    saved(repository, ago=2 * DAY)
    WorkItem.objects.filter(pk=lease.item_id).update(fence=lease.fence + 1)
    with pytest.raises(LeaseLost):
        drills.tend(instance, repository, RULES, lease, timezone.now())
    assert not Drill.objects.exists()


@pytest.mark.parametrize(
    ("proven_days", "last", "status", "reason"),
    [
        (None, None, "Unknown", "Never"),
        (3, Drill.PASSED, "True", "Proven"),
        (40, Drill.PASSED, "False", "Due"),
        (3, Drill.FAILED, "False", "Failed"),
        (None, Drill.FAILED, "False", "Failed"),
        (3, Drill.BROKEN, "False", "Broken"),
    ],
)
def test_the_condition(
    repository: Repository, proven_days: int | None, last: str | None, status: str, reason: str
) -> None:
    now = timezone.now()
    if proven_days is not None:
        repository.proven_at, repository.rpo_s, repository.rto_s = now - proven_days * DAY, 7200.0, 42.0
    words = {"differences": ["contact carol@globex.example of ann: missing"]}
    row = None if last is None else over(repository, last, ago=DAY, result=words, error="No node has room.")
    found = drills.assess(repository, RULES, row, now)
    assert (found.status, found.reason) == (status, reason)
    if reason == "Failed":
        assert "contact carol@globex.example of ann: missing" in found.message
        assert found.stalled
    if reason == "Proven":
        assert "120 min old" in found.message
        assert "after 42 s" in found.message


def test_called_off_it_is_over_and_nothing_is_left(instance: Instance, repository: Repository) -> None:
    saved(repository, ago=2 * DAY)
    drill = drills.request_drill(instance=instance, principal=proofs.OPERATOR)
    drills.cancel_drill(drill=drill, principal=proofs.OPERATOR)
    lease = proofs.leased("Drill", drill.key)
    drilling.reconcile(lease)
    drill.refresh_from_db()
    assert drill.state == Drill.CANCELLED
    assert drilling.reconcile(lease) is None
    with pytest.raises(WrongState):
        drills.cancel_drill(drill=drill, principal=proofs.OPERATOR)


def test_without_a_node_it_could_not_be_carried_out_and_proves_nothing(
    instance: Instance, repository: Repository
) -> None:
    saved(repository, ago=2 * DAY)
    drill = drills.request_drill(instance=instance, principal=proofs.OPERATOR)
    drilling.reconcile(proofs.leased("Drill", drill.key))
    drill.refresh_from_db()
    repository.refresh_from_db()
    assert drill.state == Drill.BROKEN
    assert "There is no node" in drill.error
    assert repository.proven_at is None
    found = drills.assess(repository, RULES, drill, timezone.now())
    assert (found.status, found.reason) == ("False", "Broken")
