"""What coturn's real user database holds of an instance: while it runs, is suspended, and its secret is rotated."""

from __future__ import annotations

import datetime
import sqlite3

import pytest
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.turn.database import create_database
from controlplane.provisioning import status
from controlplane.provisioning.order import RUNNING, STOPPED
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import lease as leases
from controlplane.reconcile.step import Finding, Pass
from controlplane.turn import services as turn
from controlplane.turn.models import TurnCredential
from tenants import services as tenants
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def database(settings, tmp_path):
    path = tmp_path / "turn.sqlite"
    create_database(path)
    conf = {"TURN_HOST": "turn.roost.example", "TURN_DATABASE": str(path), "TURN_REALM": "turn.roost.example"}
    settings.ROOST = {**settings.ROOST, **conf}
    wiring.turn_driver.cache_clear()
    yield path
    wiring.turn_driver.cache_clear()


@pytest.fixture
def acme(db, database):
    return tenants.create_instance(
        organisation=tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM),
        domain="acme.roost.example",
        engine="prosody",
        plan=tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM),
        principal=SYSTEM,
    )


def known(database) -> set[str]:
    with sqlite3.connect(database) as connection:
        return {value for (value,) in connection.execute("SELECT value FROM turn_secret")}


def present(instance: Instance) -> str:
    found = turn.reveal_secret(instance)
    assert found is not None
    return found.reveal()


def step(instance: Instance) -> Finding:
    """The condition TurnReady after a pass over its step alone."""
    leases.touch("Instance", instance.key, "reconcile")
    claimed = leases.claim(["reconcile"], holder="test", limit=100)
    (lease,) = [lease for lease in claimed if (lease.kind, lease.object_id) == ("Instance", instance.key)]
    fresh = Instance.objects.whole().get(pk=instance.pk)
    (only,) = [s for s in (RUNNING if fresh.should_run else STOPPED) if s.condition == "TurnReady"]
    run = Pass([only], Subject(fresh), lease)
    run._note("TurnReady", run._try(only))
    for each in claimed:
        leases.release(each, after_s=3600, attempts=0)
    return run.result.findings[-1]


def test_a_suspended_instances_secret_is_withheld_and_comes_back(acme, database):
    assert step(acme).status == "True"
    secret = present(acme)
    assert known(database) == {secret}
    tenants.suspend_instance(instance=acme, principal=SYSTEM, reason="unpaid")
    for _ in range(2):
        found = step(acme)
        assert (found.status, found.reason) == ("False", "Suspended")
        assert "unpaid" in found.message
        assert known(database) == set()
    assert present(acme) == secret
    tenants.unsuspend_instance(instance=acme, principal=SYSTEM)
    assert step(acme).status == "True"
    assert known(database) == {secret}


def test_one_that_is_terminated_is_withheld_until_it_is_restored(acme, database):
    step(acme)
    tenants.terminate_instance(instance=acme, principal=SYSTEM, grace_s=3600)
    assert step(acme).reason == "Terminating"
    assert known(database) == set()
    tenants.restore_instance(instance=acme, principal=SYSTEM)
    assert step(acme).status == "True"
    assert known(database) == {present(acme)}


def test_suspended_during_a_rotation_both_secrets_go_and_the_present_one_comes_back(acme, database):
    step(acme)
    tenants.rotate(instance=acme, what="turn", principal=SYSTEM)
    step(acme)
    assert len(known(database)) == 2
    tenants.suspend_instance(instance=acme, principal=SYSTEM)
    step(acme)
    assert known(database) == set()
    tenants.unsuspend_instance(instance=acme, principal=SYSTEM)
    step(acme)
    assert known(database) == {present(acme)}


def test_a_second_rotation_says_until_when_it_waits(acme, database):
    step(acme)
    tenants.rotate(instance=acme, what="turn", principal=SYSTEM)
    assert "rotation" not in step(acme).message
    first = present(acme)
    tenants.rotate(instance=acme, what="turn", principal=SYSTEM)
    retire_at = TurnCredential.objects.get(instance=acme).retire_at
    found = step(acme)
    assert found.status == "True"
    assert f"at {retire_at:%Y-%m-%d %H:%M} UTC" in found.message
    assert present(acme) == first
    TurnCredential.objects.update(retire_at=timezone.now() - datetime.timedelta(seconds=1))
    step(acme)
    assert "rotation" not in step(acme).message
    assert present(acme) != first


def test_credentials_for_a_test_call_are_made_only_for_one_that_runs(acme, database):
    step(acme)
    assert status.turn_credentials(acme)["password"]
    acme = tenants.suspend_instance(instance=acme, principal=SYSTEM)
    with pytest.raises(WrongState):
        status.turn_credentials(acme)
