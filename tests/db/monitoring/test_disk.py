"""A full disk behind a failing check is found on the node, becomes the incident's cause, and stops being it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from django.utils import timezone

from controlplane.drivers.node.far import room
from controlplane.monitoring import disk, states
from controlplane.monitoring.models import CheckState, Incident, ProbePlace
from controlplane.reconcile import lease as leases
from controlplane.reconcile.models import WorkItem
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def acme() -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    ProbePlace.objects.create(name="here", shard=0, seen_at=timezone.now())
    return tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


def say(instance: Instance, check: str, cause: str) -> None:
    CheckState.objects.update_or_create(
        place="here",
        instance=instance,
        check_name=check,
        defaults={"state": "down" if cause else "up", "since": timezone.now(), "cause": cause, "message": f"{check}."},
    )
    states.judge([instance.key])


def look(monkeypatch: pytest.MonkeyPatch, instance: Instance, full: str) -> object:
    monkeypatch.setattr(disk, "Subject", lambda row: SimpleNamespace(placement=row))
    monkeypatch.setattr(disk, "_full", lambda subject: full)
    WorkItem.objects.filter(kind=disk.KIND).update(due_at=timezone.now())
    (held,) = [one for one in leases.claim(["probe"], holder="test", limit=50) if one.kind == disk.KIND]
    said = disk.reconcile(held)
    if said:
        leases.release(held, after_s=60, attempts=0)
    return said


def cause_of(check: str) -> str:
    return str(Incident.objects.get(subject__endswith=f":{check}", ended_at=None).cause)


def test_it_becomes_the_cause_and_stops_being_it(acme, monkeypatch):
    say(acme, "archive", "ArchiveFails")
    assert look(monkeypatch, acme, "/srv/a/data has 0 KiB left of 8 MiB")
    assert cause_of("archive") == "DiskFull"
    entry = Incident.objects.get().entries.last()
    assert "0 KiB left" in entry.message
    states.judge([acme.key])  # the checks still say what they said
    assert cause_of("archive") == "DiskFull"
    say(acme, "archive", "CheckFails")  # now they say something else
    assert cause_of("archive") == "CheckFails"
    look(monkeypatch, acme, "/srv/a/data has 0 KiB left of 8 MiB")
    assert cause_of("archive") == "DiskFull"
    look(monkeypatch, acme, "")
    assert cause_of("archive") == "CheckFails"
    say(acme, "archive", "")
    assert Incident.objects.get().ended_at is not None
    assert look(monkeypatch, acme, "full") is None
    assert not WorkItem.objects.filter(kind=disk.KIND).exists()


@pytest.mark.parametrize(("check", "cause"), [("tls", "CertificateExpired"), ("resolve", "DnsMissing")])
def test_what_has_nothing_to_do_with_disks_asks_for_nothing(acme, check, cause):
    say(acme, check, cause)
    assert not WorkItem.objects.filter(kind=disk.KIND).exists()


def test_the_room_is_the_kernels(tmp_path):
    (said,) = room.main({"paths": [str(tmp_path), str(tmp_path / "absent")]})
    found = os.statvfs(tmp_path)
    assert said["path"] == str(tmp_path)
    assert said["total"] == found.f_blocks * found.f_frsize
    assert list(disk._words([{**said, "free": 0}]))
    assert list(disk._words([{**said, "free": 2 * disk.LEAST_BYTES, "inodes": 0}]))
    assert not list(disk._words([{**said, "free": 2 * disk.LEAST_BYTES, "inodes": -1}]))
