"""The clock with a moved "now": what is due, what was missed although nothing ran, and what the conditions say."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.backups import clock, policy, repositories, requests
from controlplane.backups.models import Backup, Policy, Repository
from controlplane.reconcile import conditions
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import Event, WorkItem
from tenants.models import AuditEvent, Instance
from tenants.principal import SYSTEM
from tests.db.backups.conftest import NOON, lease_of, runs

pytestmark = [pytest.mark.db, pytest.mark.django_db]
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)


def done(repository: Repository, moment: datetime.datetime, kind: str = Backup.FULL, **more: object) -> Backup:
    fields = {"state": Backup.DONE, "trigger": Backup.SCHEDULE, "moment": moment, "finished_at": moment}
    return Backup.objects.create(repository=repository, kind=kind, snapshot="0" * 64, **{**fields, **more})


def at(instance: Instance, lease, now: datetime.datetime) -> dict[str, tuple[str, str]]:
    """One look at this moment; condition -> status and reason."""
    clock.look(instance, lease, now)
    return {c.type: (c.status, c.reason) for c in conditions.of("Backups", instance.key).values()}


@pytest.fixture
def nightly(saved_instance) -> Instance:
    policy.set_policy(
        instance=saved_instance,
        principal=SYSTEM,
        values={"full_cron": "0 2 * * *", "members_cron": "0 * * * *", "jitter_s": 0, "drill_days": 0},
    )
    return saved_instance


def test_the_first_backup_is_made_at_once_and_once(nightly, lease) -> None:
    seen = at(nightly, lease, NOON)
    assert seen["BackedUp"] == ("False", "Never")
    (made,) = Backup.objects.all()
    assert (made.kind, made.trigger, made.state, made.due_for) == ("full", "schedule", "waiting", None)
    assert WorkItem.objects.filter(kind="Backup", object_id=made.key, queue="backup").exists()
    at(nightly, lease, NOON + HOUR)
    assert Backup.objects.count() == 1


def test_nothing_is_begun_while_the_server_does_not_run(nightly, lease) -> None:
    runs(nightly, False)
    at(nightly, lease, NOON)
    assert not Backup.objects.exists()
    runs(nightly, True)
    at(nightly, lease, NOON)
    assert Backup.objects.count() == 1


def test_a_slot_is_made_once_and_covered_by_what_began_after_it(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON - 34 * HOUR)  # the night before last
    assert at(nightly, lease, NOON.replace(hour=2, minute=0, second=1))["BackedUp"] == ("True", "Fresh")
    waiting = Backup.objects.get(state=Backup.WAITING, kind=Backup.FULL)
    assert waiting.due_for == NOON.replace(hour=2)
    Backup.objects.filter(pk=waiting.pk).update(state=Backup.DONE, moment=NOON.replace(hour=2, minute=5))
    at(nightly, lease, NOON.replace(hour=3))
    assert not Backup.objects.filter(kind=Backup.FULL, state=Backup.WAITING).exists()
    at(nightly, lease, NOON + 14 * HOUR + datetime.timedelta(seconds=1))
    assert Backup.objects.get(kind=Backup.FULL, state=Backup.WAITING).due_for == (NOON + DAY).replace(hour=2)


def test_a_missed_run_is_noticed_although_nothing_ran(nightly, lease) -> None:
    """Nobody looked for three days: the first look says so, and makes up for it once."""
    repository = repositories.ensure(nightly)
    done(repository, NOON - 3 * DAY)
    seen = at(nightly, lease, NOON)
    assert seen["BackedUp"] == ("False", "Late")
    assert [b.due_for for b in Backup.objects.filter(state=Backup.WAITING, kind=Backup.FULL)] == [NOON.replace(hour=2)]
    missed = Event.objects.get(type="BackupMissed", reason="full")
    assert "2026-06-10 02:00" in missed.message
    assert Event.objects.filter(type="BackedUp=False", reason="Late").exists()
    at(nightly, lease, NOON + HOUR)
    assert Event.objects.filter(type="BackupMissed", reason="full").count() == 1


def test_late_begins_after_the_grace_and_ends_with_success(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON - 34 * HOUR)
    assert at(nightly, lease, NOON.replace(hour=3, minute=59))["BackedUp"] == ("True", "Fresh")
    assert at(nightly, lease, NOON.replace(hour=4, minute=1))["BackedUp"] == ("False", "Late")
    done(repository, NOON.replace(hour=4, minute=2))
    assert at(nightly, lease, NOON.replace(hour=4, minute=3))["BackedUp"] == ("True", "Fresh")


def test_members_are_saved_hourly_and_a_full_one_covers_them(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON + datetime.timedelta(minutes=1))
    seen = at(nightly, lease, NOON + datetime.timedelta(minutes=50))
    assert seen["MembersSaved"] == ("True", "Fresh")
    assert not Backup.objects.filter(kind=Backup.MEMBERS).exists()
    at(nightly, lease, NOON + HOUR + datetime.timedelta(minutes=6))
    assert Backup.objects.get(kind=Backup.MEMBERS).due_for == NOON + HOUR
    assert at(nightly, lease, NOON + 2 * HOUR)["MembersSaved"] == ("False", "Late")


def test_paused_says_so_and_begins_nothing(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON - 3 * DAY)
    policy.pause(instance=nightly, principal=SYSTEM, reason="moving house")
    seen = at(nightly, lease, NOON)
    assert seen["BackedUp"] == ("Unknown", "Paused")
    assert "moving house" in conditions.of("Backups", nightly.key)["BackedUp"].message
    assert not Backup.objects.filter(state=Backup.WAITING).exists()
    policy.resume(instance=nightly, principal=SYSTEM)
    assert at(nightly, lease, NOON)["BackedUp"] == ("False", "Late")
    assert Backup.objects.filter(state=Backup.WAITING, kind=Backup.FULL).count() == 1


def test_no_schedule_is_said(nightly, lease) -> None:
    policy.set_policy(instance=nightly, principal=SYSTEM, values={"full_cron": "", "members_cron": ""})
    seen = at(nightly, lease, NOON)
    assert (seen["BackedUp"], seen["MembersSaved"]) == (("Unknown", "Off"), ("Unknown", "Off"))
    assert not Backup.objects.exists()


def test_failing_is_told_and_the_next_slot_takes_over(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON - 34 * HOUR)
    at(nightly, lease, NOON.replace(hour=2, minute=1))
    failing = Backup.objects.get(kind=Backup.FULL, state=Backup.WAITING)
    Backup.objects.filter(pk=failing.pk).update(attempts=3, error="The place is not reached.", remedy="Look at it.")
    seen = at(nightly, lease, NOON.replace(hour=2, minute=30))
    assert seen["BackedUp"] == ("False", "Failing")
    row = conditions.of("Backups", nightly.key)["BackedUp"]
    assert ("not reached" in row.message, row.remedy) == (True, "Look at it.")
    at(nightly, lease, NOON + 14 * HOUR + datetime.timedelta(minutes=1))
    failing.refresh_from_db()
    assert failing.state == Backup.FAILED
    assert Backup.objects.get(kind=Backup.FULL, state=Backup.WAITING).due_for == (NOON + DAY).replace(hour=2)


def test_one_that_is_being_made_is_waited_for(nightly, lease) -> None:
    repository = repositories.ensure(nightly)
    done(repository, NOON - 3 * DAY)
    Backup.objects.create(repository=repository, kind="full", trigger="manual", state=Backup.RUNNING)
    at(nightly, lease, NOON)
    assert not Backup.objects.filter(state=Backup.WAITING, kind=Backup.FULL).exists()


def test_a_lost_lease_writes_nothing(nightly, lease) -> None:
    WorkItem.objects.filter(pk=lease.item_id).update(fence=lease.fence + 1)
    with pytest.raises(LeaseLost):
        clock.look(nightly, lease, NOON)
    assert not Backup.objects.exists()
    assert not conditions.of("Backups", nightly.key)


def test_without_a_place_it_says_what_to_do(saved_instance, here, lease) -> None:
    here.delete()
    assert at(saved_instance, lease, NOON)["BackedUp"] == ("False", "NoPlace")


def test_the_plan_the_own_value_and_the_default(saved_instance) -> None:
    assert policy.rules_of(saved_instance).full_cron == policy.Rules().full_cron
    policy.set_plan_policy(plan=saved_instance.plan, principal=SYSTEM, values={"full_cron": "0 4 * * *"})
    assert policy.rules_of(saved_instance).full_cron == "0 4 * * *"
    policy.set_policy(instance=saved_instance, principal=SYSTEM, values={"full_cron": "0 5 * * *"})
    assert policy.rules_of(saved_instance).full_cron == "0 5 * * *"
    policy.set_policy(instance=saved_instance, principal=SYSTEM, values={"full_cron": None})
    assert policy.rules_of(saved_instance).full_cron == "0 4 * * *"
    assert Policy.objects.count() == 2


def test_starts_are_spread_and_each_has_its_own(saved_instance) -> None:
    rules = policy.Rules(jitter_s=3600)
    widths = {rules.jitter(f"key{n:05}", "full") for n in range(200)}
    assert len(widths) > 150
    assert max(widths) < datetime.timedelta(hours=1)
    assert rules.jitter("key00001", "full") == rules.jitter("key00001", "full")


def test_an_instance_that_is_gone_keeps_its_repository_until_it_expires(saved_instance, repository, lease) -> None:
    policy.set_policy(instance=saved_instance, principal=SYSTEM, values={"expire_days": 12})
    clock.look(saved_instance, lease, NOON)
    requests.request_backup(instance=saved_instance, principal=SYSTEM)
    saved_instance.delete()
    before = timezone.now()
    assert clock.reconcile(lease_of("Backups", saved_instance.key) if lease is None else lease) is None
    kept = Repository.objects.get(pk=repository.pk)
    assert kept.instance is None
    assert kept.terminated_at >= before
    assert kept.expires_at - kept.terminated_at == datetime.timedelta(days=12)
    assert not kept.backups.filter(state__in=Backup.OPEN).exists()
    assert AuditEvent.objects.filter(action="backup_repository.keep", organisation="acme").exists()
    assert not WorkItem.objects.filter(kind="Backups", object_id=saved_instance.key).exists()


def test_housekeeping_finds_instances_without_a_clock(saved_instance) -> None:
    WorkItem.objects.filter(kind="Backups").delete()
    assert clock.adopt() == 1
    assert WorkItem.objects.filter(kind="Backups", object_id=saved_instance.key).exists()
    assert clock.adopt() == 0
