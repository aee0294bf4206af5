"""The upkeep of a repository by real restic: retention, pins, checks, the tenant's key, and the end of it all."""

from __future__ import annotations

import datetime
import random
import shutil
from pathlib import Path

import pytest
from django.utils import timezone

from controlplane import wiring
from controlplane.backups import bundles, clock, ending, keeping, oracle, places, policy, repositories, requests, saving
from controlplane.backups.models import Backup, OraclePart, Repository
from controlplane.drivers.store.base import Unavailable
from controlplane.portable.facts import Fact
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import Rejected
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.db.backups.conftest import NOON, lease_of

pytestmark = [pytest.mark.db, pytest.mark.django_db]
DAY = datetime.timedelta(days=1)


def saved(repository: Repository, tmp_path: Path, moment: datetime.datetime, kind: str = Backup.FULL) -> Backup:
    """A row and its snapshot, as ``saving`` leaves them, with something that only this one has."""
    row = Backup.objects.create(repository=repository, kind=kind, trigger=Backup.SCHEDULE, state=Backup.DONE)
    source = tmp_path / row.key
    source.mkdir()
    (source / "roost.json").write_text("{}")
    (source / "noise").write_bytes(random.Random(row.key).randbytes(200_000))
    run = places.run_of(repository.place, timeout_s=60)
    repositories.make(repository, run=run)
    done = wiring.store_driver().save_directory(
        repositories.opened(repository),
        source,
        host=repository.instance_key,
        tags=saving.tags(row),
        taken_at=moment,
        run=run,
    )
    Backup.objects.filter(pk=row.pk).update(
        snapshot=done.snapshot, moment=moment, finished_at=moment, bytes=done.bytes, files=done.files
    )
    with oracle.tally(repository, tmp_path / f"{row.key}.sqlite") as tally:
        tally.add([Fact("account", row.key, "", "enabled")])
    oracle.store(row, tmp_path / f"{row.key}.sqlite")
    row.refresh_from_db()
    return row


def states(repository: Repository) -> list[str]:
    return list(repository.backups.order_by("moment").values_list("state", flat=True))


def snapshots(repository: Repository) -> set[str]:
    found = wiring.store_driver().snapshots(repositories.opened(repository))
    return {snapshot.id for snapshot in found}


def test_retention_pins_and_oracles(saved_instance, repository, tmp_path) -> None:
    policy.set_policy(
        instance=saved_instance,
        principal=SYSTEM,
        values={"keep": {"last": 1, "daily": 2}, "keep_members": {"last": 1}, "check_days": 0},
    )
    rows = [saved(repository, tmp_path, NOON + n * DAY) for n in range(5)]
    members = saved(repository, tmp_path, NOON, Backup.MEMBERS)
    requests.pin_backup(backup=rows[0], principal=SYSTEM)
    assert keeping.reconcile(lease_of("Repository", repository.key)) is not None
    assert states(repository) == ["done", "done", "expired", "expired", "done", "done"]
    assert snapshots(repository) == {row.snapshot for row in (rows[0], rows[3], rows[4], members)}
    assert set(OraclePart.objects.values_list("backup__key", flat=True)) == {
        row.key for row in (rows[0], rows[3], rows[4], members)
    }
    with oracle.opened(rows[4]) as tally:
        assert tally.counts() == {"account": 1}
    with pytest.raises(Rejected), oracle.opened(rows[1]):
        pass
    # Again, and after a run that was killed before it wrote: nothing more goes.
    Backup.objects.filter(pk=rows[1].pk).update(state=Backup.DONE)
    keeping.reconcile(lease_of("Repository", repository.key))
    assert states(repository) == ["done", "done", "expired", "expired", "done", "done"]


def test_a_flipped_byte_is_found_by_the_check_and_told(saved_instance, repository, tmp_path) -> None:
    policy.set_policy(
        instance=saved_instance, principal=SYSTEM, values={"check_days": 1, "check_percent": 100, "prune_days": 300}
    )
    saved(repository, tmp_path, NOON)
    Repository.objects.filter(pk=repository.pk).update(made_at=timezone.now() - 2 * DAY)
    keeping.reconcile(lease_of("Repository", repository.key))
    repository.refresh_from_db()
    assert repository.checked_at is not None
    assert repository.check_errors == []
    pack = max(Path(repository.url).glob("data/*/*"), key=lambda file: file.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    Repository.objects.filter(pk=repository.pk).update(checked_at=timezone.now() - 2 * DAY)
    keeping.reconcile(lease_of("Repository", repository.key))
    repository.refresh_from_db()
    assert repository.check_errors
    assert Event.objects.filter(type="BackupsDamaged", object_id=saved_instance.key).count() == 1
    clock.look(saved_instance, lease_of("Backups", saved_instance.key), NOON)
    told = Event.objects.filter(type="RepositorySound=False", object_id=saved_instance.key)
    assert told.exists()


def test_the_end_takes_everything_and_the_rows_last(saved_instance, repository, tmp_path) -> None:
    saved(repository, tmp_path, NOON)
    place = Path(repository.url)
    Repository.objects.filter(pk=repository.pk).update(
        instance=None, terminated_at=timezone.now() - DAY, expires_at=timezone.now() + DAY
    )
    left = keeping.reconcile(lease_of("Repository", repository.key))
    assert 0 < left.after_s <= 86_400
    assert place.exists()
    Repository.objects.update(expires_at=timezone.now())
    assert keeping.reconcile(lease_of("Repository", repository.key)) is None
    assert not place.exists()
    assert not Repository.objects.exists()
    assert not Backup.objects.exists()
    assert not OraclePart.objects.exists()
    assert not WorkItem.objects.filter(kind="Repository").exists()
    event = AuditEvent.objects.get(action="backup_repository.expire")
    assert (event.organisation, event.data["backups"]) == ("acme", 1)


def test_a_disk_that_is_not_there_is_not_taken_for_gone(saved_instance, repository, tmp_path) -> None:
    saved(repository, tmp_path, NOON)
    (tmp_path / "kept").rename(tmp_path / "unmounted")
    Repository.objects.update(expires_at=timezone.now(), terminated_at=timezone.now(), instance=None)
    assert keeping.reconcile(lease_of("Repository", repository.key)).failed
    assert Repository.objects.get().maintenance_error
    (tmp_path / "unmounted").rename(tmp_path / "kept")
    assert keeping.reconcile(lease_of("Repository", repository.key)) is None
    assert not Repository.objects.exists()


def test_a_lost_lease_expires_nothing(saved_instance, repository) -> None:
    Repository.objects.update(expires_at=timezone.now(), terminated_at=timezone.now(), instance=None)
    lease = lease_of("Repository", repository.key)
    WorkItem.objects.filter(pk=lease.item_id).update(fence=lease.fence + 1)
    with pytest.raises(LeaseLost):
        keeping.reconcile(lease)
    assert Repository.objects.exists()


def test_the_tenants_key_opens_it_until_another_does(repository, tmp_path) -> None:
    row = saved(repository, tmp_path, NOON)
    repository.refresh_from_db()
    first = repositories.hand_out_key(repository=repository, principal=SYSTEM)
    mine = places.opened(repository.place, repository.url, first.key)
    assert [s.id for s in wiring.store_driver().snapshots(mine)] == [row.snapshot]
    assert first.key.reveal() not in repr(Repository.objects.values()) + repr(AuditEvent.objects.values())
    second = repositories.hand_out_key(repository=repository, principal=SYSTEM)
    with pytest.raises(Rejected):
        wiring.store_driver().snapshots(mine)
    assert repositories.take_back_key(repository=repository, principal=SYSTEM)
    with pytest.raises(Rejected):
        wiring.store_driver().snapshots(places.opened(repository.place, repository.url, second.key))
    assert snapshots(repository) == {row.snapshot}


def test_a_bundle_that_is_damaged_does_not_end_well(repository, tmp_path) -> None:
    row = saved(repository, tmp_path, NOON)
    whole = b"".join(bundles.opened(backup=row, principal=SYSTEM))
    assert whole[:2] == b"\x1f\x8b"
    for pack in Path(repository.url).glob("data/*/*"):
        pack.unlink()
    with pytest.raises((Rejected, Unavailable)):
        b"".join(bundles.opened(backup=row, principal=SYSTEM))
    shutil.rmtree(repository.url)
    with pytest.raises(Rejected):
        bundles.opened(backup=row, principal=SYSTEM)


def test_an_attempt_that_fails_is_told_and_tried_again(saved_instance, repository) -> None:
    """No server is there to be asked: a scheduled one waits longer each time, an asked-for one is given up."""
    made = Backup.objects.create(repository=repository, kind="full", trigger="schedule", due_for=NOON)
    after = saving.reconcile(lease_of("Backup", made.key))
    made.refresh_from_db()
    assert (after.failed, made.state, made.attempts) == (True, Backup.WAITING, 1)
    assert "does not run yet" in made.error
    assert WorkItem.objects.filter(kind="Backups", object_id=saved_instance.key).exists()
    wanted = requests.request_backup(instance=saved_instance, principal=SYSTEM)
    Backup.objects.filter(pk=wanted.pk).update(attempts=ending.MAX_ATTEMPTS - 1)
    assert saving.reconcile(lease_of("Backup", wanted.key)) is None
    wanted.refresh_from_db()
    assert wanted.state == Backup.FAILED
    assert not WorkItem.objects.filter(kind="Backup", object_id=wanted.key).exists()


def test_called_off_before_it_began(saved_instance, repository) -> None:
    wanted = requests.request_backup(instance=saved_instance, principal=SYSTEM)
    requests.cancel_backup(backup=wanted, principal=SYSTEM)
    assert saving.reconcile(lease_of("Backup", wanted.key)) is None
    wanted.refresh_from_db()
    assert wanted.state == Backup.CANCELLED
    assert Event.objects.filter(type="BackupCancelled").exists()
