"""An engine that does not answer is looked after by its node first, and restarted when it stays silent."""

from __future__ import annotations

import datetime
from types import SimpleNamespace

import pytest
from django.utils import timezone

from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node, Placement
from controlplane.provisioning.steps.server_running import ServerRunning
from controlplane.reconcile import history, lease, watch
from controlplane.reconcile.models import Event
from controlplane.values.errors import Unavailable
from tenants import services as tenants
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def subject():
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    instance = tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    node = Node.objects.create(name="n1", address="n1.example", instance_network="127.9.0.0/24")
    placement = Placement.objects.create(
        instance=instance,
        node=node,
        address="127.9.0.1",
        base_port=7000,
        proxy65_port=20000,
        applied_digest="d",
        applied_at=timezone.now() - datetime.timedelta(hours=1),
    )
    return SimpleNamespace(instance=instance, placement=placement, check_line=lambda: None)


def silent(subject, held):
    outcome = ServerRunning()._silent(subject, subject.placement, held, Unavailable("no answer"))
    subject.placement.refresh_from_db()
    return outcome


@pytest.mark.parametrize("who", ["ServerRunning=False", "IncidentOpened"])
def test_it_is_restarted_when_it_stays_silent(subject, who):
    key = subject.instance.key
    watch.touch("Instance", key)
    held = next(
        one
        for one in lease.claim(["reconcile"], holder="test", limit=5)
        if (one.kind, one.object_id) == ("Instance", key)
    )
    first = silent(subject, held)
    assert first.reason == "EngineSilent"
    assert subject.placement.applied_digest == ""
    history.record("Instance", key, who, reason="EngineSilent")
    again = silent(subject, held)
    assert "is restarted" in again.message
    assert subject.placement.applied_digest == fleet.HANGS
    # It was applied just now; but what strangers saw since is no start.
    Placement.objects.update(applied_at=timezone.now())
    subject.placement.refresh_from_db()
    assert silent(subject, held).reason == "Starting"
    history.record("Instance", key, "IncidentOpened", reason="EngineSilent")
    assert "is restarted" in silent(subject, held).message
    Placement.objects.update(applied_at=timezone.now() - datetime.timedelta(hours=1))
    subject.placement.refresh_from_db()
    # Long ago does not count.
    Event.objects.filter(reason="EngineSilent").update(at=timezone.now() - datetime.timedelta(hours=1))
    silent(subject, held)
    assert subject.placement.applied_digest == ""
