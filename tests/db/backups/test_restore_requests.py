"""What may be asked of restores, by whom, and what becomes of it before anything is done."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from controlplane.backups import places, repositories, restores, restoring
from controlplane.backups.models import Backup, Restore
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import InvalidInput
from tenants import services as tenants
from tenants.errors import Missing, WrongState
from tenants.models import AuditEvent, Instance
from tenants.principal import ALL_SCOPES, Principal
from tests.db.backups import proofs

pytestmark = [pytest.mark.db, pytest.mark.django_db]

MEMBER = Principal(name="anna", organisations={"acme": frozenset({"read", "backups"})})
PART = {"accounts": ["ann"]}


@pytest.fixture
def instance(tmp_path) -> Instance:
    places.create_place(name="here", url=str(tmp_path / "places"), principal=proofs.OPERATOR)
    return proofs.instance_of("acme.example")


@pytest.fixture
def backup(instance: Instance) -> Backup:
    return done(instance)


def done(instance: Instance, kind: str = Backup.FULL) -> Backup:
    return Backup.objects.create(
        repository=repositories.ensure(instance),
        kind=kind,
        trigger=Backup.SCHEDULE,
        state=Backup.DONE,
        snapshot="0" * 64,
        moment=timezone.now(),
        engine={"name": "prosody"},
    )


@pytest.fixture
def ask(instance: Instance, backup: Backup) -> Callable[..., Restore]:
    def call(**more: Any) -> Restore:
        given = {"instance": instance, "backup": backup, "mode": Restore.PART, "selection": PART, "principal": MEMBER}
        return restoring.request_restore(**{**given, **more})

    return call


def previewed(restore: Restore) -> Restore:
    Restore.objects.filter(pk=restore.pk).update(state=Restore.PREVIEWED, previewed_at=timezone.now())
    return Restore.objects.get(pk=restore.pk)


def test_asking_previews_and_changes_nothing(ask: Callable[..., Restore], instance: Instance) -> None:
    row = ask()
    assert (row.state, row.instance_key, row.requested_by) == (Restore.PREVIEWING, instance.key, "anna")
    assert WorkItem.objects.filter(kind="Restore", object_id=row.key, queue="backup").exists()
    assert AuditEvent.objects.filter(action="restore.request", organisation="acme", object_id=row.key).exists()
    assert Event.objects.filter(kind="Instance", object_id=instance.key, type="Restore", scope="acme").exists()


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("mode", {"mode": "magic"}),
        ("selection", {"selection": {}}),
        ("selection.engine", {"mode": "in_place", "selection": {"engine": "openfire"}}),
        ("selection.node", {"mode": "in_place", "selection": {"node": "n1"}}),
        ("selection.accounts", {"mode": "in_place", "selection": {"accounts": ["ann"]}}),
        ("selection.keep_going", {"mode": "in_place", "selection": {"keep_going": "yes"}}),
        ("backup", {"mode": "new_instance", "selection": {}}),
    ],
)
def test_what_does_not_fit_is_named(ask: Callable[..., Restore], field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(**given)
    assert caught.value.field == field
    assert not Restore.objects.exists()


def test_a_whole_instance_needs_a_full_backup(ask: Callable[..., Restore], instance: Instance) -> None:
    members = done(instance, Backup.MEMBERS)
    with pytest.raises(InvalidInput):
        ask(backup=members, mode="in_place", selection={})
    assert ask(backup=members, selection={"member_lists": ["lobby"]}).backup == members


def test_a_backup_that_is_not_there_is_no_source(ask: Callable[..., Restore], backup: Backup) -> None:
    Backup.objects.filter(pk=backup.pk).update(state=Backup.EXPIRED)
    backup.refresh_from_db()
    with pytest.raises(WrongState):
        ask(backup=backup)


def test_anothers_backup_comes_into_no_other_organisation(ask: Callable[..., Restore]) -> None:
    other = proofs.instance_of("globex.example", slug="globex")
    with pytest.raises(Missing):
        ask(backup=done(other), mode="new_instance", selection={})
    operator = Principal(name="olga", is_operator=True, scopes=ALL_SCOPES)
    assert ask(backup=done(other), mode="new_instance", selection={}, principal=operator).mode == "new_instance"


def test_a_suspended_instance_is_not_restored_into(ask: Callable[..., Restore], instance: Instance) -> None:
    tenants.suspend_instance(instance=instance, principal=proofs.OPERATOR, reason="unpaid")
    instance.refresh_from_db()
    with pytest.raises(WrongState):
        ask()


def test_confirming_wants_a_preview_and_happens_once(ask: Callable[..., Restore]) -> None:
    first, second = ask(), ask()
    with pytest.raises(WrongState):
        restoring.confirm_restore(restore=first, principal=MEMBER)
    row = restoring.confirm_restore(restore=previewed(first), principal=MEMBER)
    assert row.state == Restore.WAITING
    assert restoring.confirm_restore(restore=row, principal=MEMBER).confirmed_at == row.confirmed_at
    assert AuditEvent.objects.filter(action="restore.confirm").count() == 1
    with pytest.raises(WrongState, match="Another restore"):
        restoring.confirm_restore(restore=previewed(second), principal=MEMBER)


def test_there_is_an_end_to_asking(ask: Callable[..., Restore]) -> None:
    for _ in range(restoring.MAX_OPEN):
        ask()
    with pytest.raises(WrongState):
        ask()


def test_called_off_before_the_switch_and_not_after(ask: Callable[..., Restore]) -> None:
    row = restoring.cancel_restore(restore=ask(), principal=MEMBER)
    assert row.cancel_requested_at is not None
    lease = proofs.leased("Restore", row.key)
    assert restores.reconcile(lease) is not None
    row.refresh_from_db()
    assert row.state == Restore.CANCELLED
    assert restores.reconcile(lease) is None
    assert not WorkItem.objects.filter(kind="Restore", object_id=row.key).exists()
    other = ask()
    Restore.objects.filter(pk=other.pk).update(state=Restore.RUNNING, switched_at=timezone.now())
    with pytest.raises(WrongState, match="serves already"):
        restoring.cancel_restore(restore=other, principal=MEMBER)


def test_a_preview_that_nobody_confirms_ends(ask: Callable[..., Restore]) -> None:
    row = previewed(ask())
    lease = proofs.leased("Restore", row.key)
    found = restores.reconcile(lease)
    assert found is not None
    assert 86_000 < found.after_s < 86_500
    Restore.objects.filter(pk=row.pk).update(previewed_at=timezone.now() - datetime.timedelta(hours=25))
    restores.reconcile(lease)
    row.refresh_from_db()
    assert (row.state, row.error) == (Restore.CANCELLED, "It was not confirmed within a day.")


def test_without_a_server_the_preview_waits_and_says_why(ask: Callable[..., Restore]) -> None:
    row = ask()
    found = restores.reconcile(proofs.leased("Restore", row.key))
    row.refresh_from_db()
    assert found is not None
    assert found.failed
    assert (row.state, row.attempts) == (Restore.PREVIEWING, 1)
    assert "ServerRunning" in row.remedy or "does not run yet" in row.error
