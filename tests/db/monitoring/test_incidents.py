"""An incident is opened once per subject, tells what happens, and ends once."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.monitoring import incidents
from controlplane.monitoring.models import Incident, Notice, Subscription
from controlplane.reconcile.models import Event, WorkItem
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def acme() -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


def begin(instance: Instance, cause: str = "CertificateExpired", **more: object) -> tuple[Incident, bool]:
    return incidents.open_incident(
        kind="check",
        subject=f"instance:{instance.key}:tls",
        cause=cause,
        title="tls fails",
        message="The certificate has expired.",
        instance=instance,
        **more,
    )


def test_one_subject_has_one_open_incident(acme):
    sign = timezone.now() - datetime.timedelta(seconds=30)
    first, made = begin(acme, started_at=sign)
    again, made_again = begin(acme)
    assert (made, made_again) == (True, False)
    assert first.pk == again.pk
    assert first.started_at == sign
    assert [entry.type for entry in first.entries.all()] == ["Noticed"]
    begin(acme, cause="WrongCertificate")
    first.refresh_from_db()
    assert first.cause == "WrongCertificate"
    assert [entry.type for entry in first.entries.all()] == ["Noticed", "CauseChanged"]


def test_it_is_over_when_its_instance_is_gone(acme):
    first, _ = begin(acme)
    acme.delete()
    first.refresh_from_db()
    assert first.ended_at is not None
    assert first.instance is None
    assert [entry.type for entry in first.entries.all()] == ["Noticed", "Ended"]


def test_it_ends_once_and_another_may_begin(acme):
    first, _ = begin(acme)
    incidents.tell(first, "Acted", "The engine was told to read its files again.", {"publish_s": 1.5})
    ended = incidents.end_incident(first.subject, "It serves the right one.", {"heal_s": 2.5})
    assert ended is not None
    assert ended.details["publish_s"] == 1.5
    assert ended.details["heal_s"] == 2.5
    assert ended.details["lasted_s"] >= 0
    assert incidents.end_incident(first.subject, "again") is None
    assert incidents.open_for(first.subject) is None
    second, made = begin(acme)
    assert made
    assert second.pk != first.pk
    types = list(Event.objects.filter(scope="acme", type__startswith="Incident").values_list("type", flat=True))
    assert types == ["IncidentOpened", "IncidentEnded", "IncidentOpened"]


def test_those_are_told_who_subscribed(acme):
    other = tenants.create_organisation(slug="globex", name="Globex", principal=SYSTEM)
    for organisation, kinds in ((acme.organisation, []), (other, []), (None, ["check"]), (None, ["address"])):
        Subscription.objects.create(organisation=organisation, kind="webhook", target="https://a.example/", kinds=kinds)
    incident, _ = begin(acme)
    told = Notice.objects.select_related("subscription__organisation")
    assert [row.subscription.organisation_id for row in told] == [acme.organisation_id, None]
    assert {row.payload["domain"] for row in told} == {"acme.roost.example"}
    assert WorkItem.objects.filter(kind="Notice").count() == 2
    incidents.end_incident(incident.subject, "gone")
    assert [row.event for row in Notice.objects.order_by("pk")] == ["incident.opened"] * 2 + ["incident.ended"] * 2
