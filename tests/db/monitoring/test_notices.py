"""Notices reach their receivers once there is one, in order, and are given up after a day; who may be told what."""

from __future__ import annotations

import datetime
import json

import pytest
from django.core import mail
from django.utils import timezone

from controlplane import vault
from controlplane.drivers.notice import webhook
from controlplane.monitoring import incidents, notices, subscriptions
from controlplane.monitoring.models import Incident, Notice, Subscription
from controlplane.reconcile import lease as leases
from controlplane.reconcile import loop
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import InvalidInput
from tenants import services as tenants
from tenants.errors import QuotaExceeded, Taken, WrongState
from tenants.models import AuditEvent, Instance
from tenants.principal import SYSTEM
from tests.servers.receiver import receiver

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@pytest.fixture
def acme() -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def mailing(settings):
    settings.ROOST = {**settings.ROOST, "MAIL": True}


def begin(instance: Instance) -> Incident:
    return incidents.open_incident(
        kind="check",
        subject=f"instance:{instance.key}:tls",
        cause="CertificateExpired",
        title="The certificate has expired",
        message="It ended a minute ago.",
        instance=instance,
    )[0]


def run() -> int:
    """Passes over what is due now, of notices alone."""
    WorkItem.objects.exclude(kind="Notice").delete()
    return sum(1 for _ in iter(lambda: loop.run_one(["probe"]), False))


def due_now() -> None:
    """As if the waits were over."""
    Subscription.objects.update(retry_at=None)
    WorkItem.objects.update(due_at=timezone.now() - datetime.timedelta(seconds=1))


def test_a_webhook_is_told_of_beginning_and_end(acme):
    with receiver() as box:
        row, secret = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        incident = begin(acme)
        run()
        incidents.end_incident(incident.subject, "It is well again.")
        run()
    told = [json.loads(body) for body in box.bodies]
    assert [one["event"] for one in told] == ["incident.opened", "incident.ended"]
    assert {one["incident"] for one in told} == {incident.key}
    assert told[0]["domain"] == "acme.roost.example"
    assert [one["id"] for one in told] == list(Notice.objects.order_by("pk").values_list("pk", flat=True))
    at = int(box.seen[0]["roost-signature"].split(",")[0].removeprefix("t="))
    assert box.seen[0]["roost-signature"] == webhook.signature(secret, box.bodies[0], at)
    row.refresh_from_db()
    assert row.last_ok_at is not None
    assert secret.reveal() not in row.secret_sealed
    assert not WorkItem.objects.filter(kind="Notice").exists()


def test_it_is_tried_again_and_in_order(acme):
    with receiver() as box:
        row, _ = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        box.status = 503
        incident = begin(acme)
        run()
        incidents.end_incident(incident.subject, "It is well again.")
        run()
        row.refresh_from_db()
        assert len(box.bodies) == 1  # the end waits behind the beginning, which waits
        assert row.failures == 1
        assert row.failing_since is not None
        assert "503" in row.last_error
        assert row.retry_at > timezone.now()
        due_now()
        run()
        assert len(box.bodies) == 2
        box.status = 200
        due_now()
        run()
    events = [json.loads(body)["event"] for body in box.bodies]
    assert events == ["incident.opened"] * 3 + ["incident.ended"]
    row.refresh_from_db()
    assert (row.failures, row.failing_since, row.last_error, row.retry_at) == (0, None, "", None)
    assert list(Notice.objects.order_by("pk").values_list("attempts", flat=True)) == [3, 1]


def test_after_a_day_it_is_given_up_and_said(acme):
    with receiver() as box:
        box.status = 500
        row, _ = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        begin(acme)
        run()
        Notice.objects.update(created_at=timezone.now() - datetime.timedelta(days=1))
        due_now()
        run()
    notice = Notice.objects.get()
    assert notice.given_up_at is not None
    assert notice.attempts == 2
    said = Event.objects.get(kind="Subscription", object_id=str(row.pk))
    assert said.type == "NoticeGivenUp"
    assert "500" in said.message
    assert not WorkItem.objects.filter(kind="Notice").exists()


def test_a_receiver_that_is_gone_is_not_asked_again(acme):
    with receiver() as box:
        box.status = 410
        row, _ = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        begin(acme)
        run()
    row.refresh_from_db()
    assert not row.active
    assert Notice.objects.get().given_up_at is not None


def test_a_pass_that_lost_its_lease_writes_nothing(acme):
    with receiver() as box:
        subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        begin(acme)
        lease = leases.claim(["probe"], holder="old")[0]
        WorkItem.objects.filter(kind="Notice").update(fence=lease.fence + 1)
        with pytest.raises(leases.LeaseLost):
            notices.reconcile(lease)
    assert Notice.objects.get().sent_at is None


def test_waits_grow_and_are_bounded():
    waits = [notices.backoff_s(n) for n in range(12)]
    assert 7 <= waits[0] <= 10
    assert waits[3] > waits[0]
    assert all(wait <= notices.LONGEST_WAIT_S for wait in waits)
    assert notices.backoff_s(10**6) <= notices.LONGEST_WAIT_S


def test_an_organisations_url_leads_outside(acme):
    for target in ("http://hooks.example/", "https://127.0.0.1/", "https://169.254.169.254/", "https://[::1]/"):
        with pytest.raises(InvalidInput):
            subscriptions.subscribe(organisation=acme.organisation, kind="webhook", target=target, principal=SYSTEM)
    assert Subscription.objects.count() == 0


def test_there_are_bounds(acme, monkeypatch):
    monkeypatch.setattr(subscriptions, "MAX_OF_ONE", 1)
    mine = {"organisation": acme.organisation, "kind": "webhook", "principal": SYSTEM}
    subscriptions.subscribe(target="https://hooks.example/a", **mine)
    with pytest.raises(Taken):
        subscriptions.subscribe(target="https://hooks.example/a", **mine)
    with pytest.raises(QuotaExceeded):
        subscriptions.subscribe(target="https://hooks.example/b", **mine)
    with pytest.raises(InvalidInput):
        subscriptions.subscribe(target="https://hooks.example/c", kinds=["weather"], **mine)


def test_a_mail_address_has_to_agree_first(acme, mailing):
    row, secret = subscriptions.subscribe(
        organisation=acme.organisation, kind="email", target="ops@acme.example", principal=SYSTEM
    )
    assert secret is None
    incident = begin(acme)
    run()
    assert [sent.subject for sent in mail.outbox] == ["[Roost] Do you want to be told of incidents?"]
    token = mail.outbox[0].body.split("/status/confirm/")[1].split("/")[0]
    found = subscriptions.proposed(token)
    assert found == row
    assert subscriptions.proposed(token[:-2] + "xx") is None
    subscriptions.confirm(found)
    incidents.end_incident(incident.subject, "It is well again.")
    run()
    assert mail.outbox[1].subject == "[Ended] acme.roost.example: The certificate has expired"
    assert "It is well again." in mail.outbox[1].body
    assert mail.outbox[1].extra_headers["Auto-Submitted"] == "auto-generated"
    assert mail.outbox[1].to == ["ops@acme.example"]


def test_no_header_can_be_smuggled_into_a_mail(acme, mailing):
    subscriptions.subscribe(organisation=None, kind="email", target="ops@roost.example", principal=SYSTEM)
    incidents.open_incident(
        kind="check",
        subject="x",
        cause="Odd",
        title="bad\r\nBcc: all@example.org",
        message="m",
        instance=acme,
    )
    run()
    assert mail.outbox[0].subject == "[Incident] acme.roost.example: bad Bcc: all@example.org"
    assert mail.outbox[0].recipients() == ["ops@roost.example"]


def test_a_test_is_sent_at_once_and_tried_once(acme):
    with receiver() as box:
        row, _ = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        Subscription.objects.update(retry_at=timezone.now() + datetime.timedelta(hours=1), active=False)
        good = subscriptions.send_test(subscription=row, principal=SYSTEM)
        run()
        box.status = 404
        bad = subscriptions.send_test(subscription=row, principal=SYSTEM)
        run()
        for _ in range(subscriptions.TESTS_A_MINUTE - 2):
            subscriptions.send_test(subscription=row, principal=SYSTEM)
        with pytest.raises(WrongState):
            subscriptions.send_test(subscription=row, principal=SYSTEM)
    good.refresh_from_db()
    bad.refresh_from_db()
    assert good.sent_at is not None
    assert bad.given_up_at is not None
    assert "404" in bad.error


def test_a_secret_is_rotated(acme):
    with receiver() as box:
        row, old = subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        new = subscriptions.rotate_secret(subscription=row, principal=SYSTEM)
        begin(acme)
        run()
    assert new != old
    at = int(box.seen[0]["roost-signature"].split(",")[0].removeprefix("t="))
    assert box.seen[0]["roost-signature"] == webhook.signature(new, box.bodies[0], at)
    row.refresh_from_db()
    assert vault.unseal(f"subscription:{row.pk}", row.secret_sealed) == new
    assert [e.action for e in AuditEvent.objects.filter(kind="Subscription").order_by("pk")] == [
        "subscription.create",
        "subscription.rotate",
    ]


def test_only_a_few_are_on_their_way_at_once(acme, monkeypatch):
    monkeypatch.setattr(notices, "SLOTS", 0)
    with receiver() as box:
        subscriptions.subscribe(organisation=None, kind="webhook", target=box.url(), principal=SYSTEM)
        begin(acme)
        assert run() == 1
    assert box.bodies == []
    item = WorkItem.objects.get(kind="Notice")
    assert item.attempts == 0
    assert item.due_at > timezone.now()


def test_what_was_settled_long_ago_is_deleted(acme):
    row = Subscription.objects.create(kind="webhook", target="https://hooks.example/")
    old = timezone.now() - datetime.timedelta(days=notices.KEPT_DAYS + 1)
    for fields in ({"sent_at": old}, {"given_up_at": old}, {"sent_at": timezone.now()}, {}):
        Notice.objects.create(subscription=row, event="test", payload={}, created_at=old, **fields)
    assert notices.tidy() == 2
    assert Notice.objects.count() == 2
