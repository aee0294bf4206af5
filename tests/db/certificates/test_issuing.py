"""Certificates from wish to chain: real PostgreSQL, Pebble (half of its nonces refused) and name server."""

from __future__ import annotations

import datetime
import uuid

import pytest
from django.db import connection
from django.utils import timezone

from controlplane.certificates import authority, challenges, services
from controlplane.certificates.models import AcmeAccount, Certificate, Order
from controlplane.drivers.ca.acme import Acme, Renewal
from controlplane.drivers.ca.errors import RateLimited
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import LeaseLost
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.certificates import distrust, parse_chain
from controlplane.values.names import DomainName
from controlplane.values.records import txt
from tests.servers.ca_world import CUSTOMER, ZONE, ChallengeWeb

pytestmark = [pytest.mark.db, pytest.mark.servers]

NAMES = ["acme.roost.example", "rooms.acme.roost.example", "upload.acme.roost.example", "proxy.acme.roost.example"]


@pytest.fixture
def instance(room):
    return room.instance("acme.roost.example")


def test_a_certificate_for_all_names(room, instance):
    room.want(instance, *NAMES)
    row = room.issue(instance)
    chain_pem, key = services.material(instance)
    chain = parse_chain(chain_pem)
    assert set(chain.names.dns) == set(NAMES)
    assert chain.fits_key(key)
    assert distrust(chain, services.trust_roots(), timezone.now()) == ""
    assert row.serial == chain.serial
    assert row.not_before < row.renew_at < row.not_after
    assert [order.state for order in row.orders.all()] == ["issued"]
    assert all(room.world.txt(f"_acme-challenge.{name}") == set() for name in NAMES)
    state = services.status(instance)
    assert (state["issued"], state["names"], state["condition"]["reason"]) == (True, NAMES, "AsWanted")
    assert Event.objects.filter(kind="Certificate", object_id=instance.key, type="Issued=True").count() == 1


def test_wanting_the_same_again_does_nothing(room, instance):
    room.want(instance, *NAMES[:2])
    row = room.issue(instance)
    before = room.orders_at_the_ca()
    due = WorkItem.objects.get(kind="Certificate").due_at
    room.want(instance, *NAMES[:2])
    assert WorkItem.objects.get(kind="Certificate").due_at == due
    room.wake("Certificate", instance.key)
    assert room.one_pass()
    assert room.certificate(instance).serial == row.serial
    assert room.orders_at_the_ca() == before


def test_secrets_are_sealed(room, instance):
    room.want(instance, NAMES[0])
    room.issue(instance)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(t.x, ' ') FROM (SELECT certificates_acmeaccount::text x FROM certificates_acmeaccount "
            "UNION ALL SELECT certificates_certificate::text FROM certificates_certificate "
            "UNION ALL SELECT certificates_order::text FROM certificates_order) t"
        )
        assert "PRIVATE KEY" not in cursor.fetchone()[0]


def test_other_names_bring_another_certificate(room, instance):
    room.want(instance, NAMES[0])
    first = room.issue(instance).serial
    room.want(instance, *NAMES[:2])
    assert services.material(instance) is not None  # the old one serves on
    second = room.issue(instance)
    assert second.serial != first
    assert set(parse_chain(second.chain_pem).names.dns) == set(NAMES[:2])


def test_rotation_brings_another_key(room, instance):
    room.want(instance, NAMES[0])
    room.issue(instance)
    _, old = services.material(instance)
    instance.rotate_certificate += 1
    instance.save()
    room.want(instance, NAMES[0])
    row = room.issue(instance)
    assert (row.rotation, row.rotation_wanted) == (1, 1)
    assert services.material(instance)[1] != old


def test_renewal_leaves_the_condition_true_and_wakes_the_instance(room, instance):
    room.want(instance, NAMES[0])
    first = room.issue(instance).serial
    Certificate.objects.update(renew_at=timezone.now() - datetime.timedelta(seconds=1))
    WorkItem.objects.filter(kind="Instance").update(due_at=timezone.now() + datetime.timedelta(days=1))
    since = room.condition(instance).last_transition
    room.wake("Certificate", instance.key)
    room.work(lambda: room.certificate(instance).serial != first)
    room.issue(instance)
    assert room.condition(instance).status == "True"
    assert room.condition(instance).last_transition == since
    assert WorkItem.objects.get(kind="Instance", object_id=instance.key).due_at <= timezone.now()


def test_the_pass_comes_back_when_renewal_is_due(room, instance):
    room.want(instance, NAMES[0])
    room.issue(instance)
    soon = timezone.now() + datetime.timedelta(seconds=60)
    Certificate.objects.update(renew_at=soon)
    room.wake("Certificate", instance.key)
    room.one_pass()
    due = WorkItem.objects.get(kind="Certificate", object_id=instance.key).due_at
    assert timezone.now() < due <= soon + datetime.timedelta(seconds=2)


class TestRenewalInformation:
    """The CA's advice comes from the driver, whose own tests read it; Debian's Pebble gives none."""

    @pytest.fixture
    def advise(self, room, instance, monkeypatch):
        def call(start_h: float, end_h: float) -> None:
            hour, now = datetime.timedelta(hours=1), timezone.now()
            advice = Renewal(now + start_h * hour, now + end_h * hour, 21600)
            monkeypatch.setattr(Acme, "renewal_info", lambda self, chain_pem: advice)
            Certificate.objects.update(renewal_checked_at=None)
            room.wake("Certificate", instance.key)
            room.one_pass()

        room.want(instance, NAMES[0])
        room.issue(instance)
        return call

    def test_a_time_in_the_window_is_taken_and_kept(self, room, instance, advise):
        advise(100, 200)
        chosen = room.certificate(instance).renew_at
        assert 99 < (chosen - timezone.now()).total_seconds() / 3600 < 200
        advise(99, 201)
        assert room.certificate(instance).renew_at == chosen

    def test_a_window_that_is_over_renews_soon(self, room, instance, advise):
        row = room.certificate(instance)
        Certificate.objects.update(issued_at=timezone.now() - datetime.timedelta(days=1))
        advise(-20, -10)
        room.work(lambda: room.certificate(instance).serial != row.serial)
        assert room.issue(instance).renew_at > timezone.now()

    def test_advice_to_renew_without_end_is_not_taken(self, room, instance, advise):
        advise(-20, -10)
        assert room.certificate(instance).renew_at > timezone.now() + datetime.timedelta(hours=5)


def test_http_challenges_are_answered_by_the_web_process(room, settings):
    settings.ROOST = {**settings.ROOST, "ACME_CHALLENGE": "http-01"}
    instance = room.instance("http.roost.example")
    room.world.put(ZONE, "http.roost.example", "A", room.world.web_address)

    def lookup(token):
        try:
            return services.http01_answer(token)
        finally:
            connection.close()  # the thread's own

    with ChallengeWeb(room.world.web_address, lookup):
        room.want(instance, "http.roost.example")
        row = room.issue(instance)
    assert parse_chain(row.chain_pem).names.dns == ("http.roost.example",)
    assert not Order.objects.exclude(http_answers={}).exists()
    assert services.http01_answer("a" * 43) is None
    assert services.http01_answer("../../etc/passwd") is None


class TestCustomerDomain:
    """All challenges of a customer's names go to one record in the provider's zone, by CNAME."""

    @pytest.fixture
    def instance(self, room):
        # Names of each test's own: a resolver may remember an answer for the rest of the second.
        label = f"c{uuid.uuid4().hex[:8]}"
        domain = f"{label}.customer.example"
        self.names = (domain, f"rooms.{domain}", f"upload.{domain}")
        self.target = f"{label}.acme.roost.example"
        return room.instance(domain)

    def want(self, room, instance):
        return room.want(instance, *self.names, targets=dict.fromkeys(self.names, (ZONE, self.target)))

    def test_missing_delegation_is_said_and_then_taken(self, room, instance):
        before = room.orders_at_the_ca()
        self.want(room, instance)
        room.one_pass()
        condition = room.condition(instance)
        assert (condition.status, condition.reason, condition.stalled) == ("False", "DelegationMissing", True)
        for name in self.names:
            assert f"_acme-challenge.{name}. CNAME {self.target}." in condition.remedy
        assert room.orders_at_the_ca() == before
        for name in self.names:
            room.world.put(CUSTOMER, f"_acme-challenge.{name}", "CNAME", f"{self.target}.")
        room.wake("Certificate", instance.key)
        row = room.issue(instance)
        assert set(parse_chain(row.chain_pem).names.dns) == set(self.names)
        assert room.world.txt(self.target) == set()

    def test_what_others_put_there_stays(self, room, instance):
        for name in self.names:
            room.world.put(CUSTOMER, f"_acme-challenge.{name}", "CNAME", f"{self.target}.")
        room.world.put(ZONE, self.target, "TXT", txt("somebody else's"))
        self.want(room, instance)
        room.issue(instance)
        assert room.world.txt(self.target) == {"somebody else's"}

    def test_a_delegation_to_elsewhere_is_named(self, room, instance):
        for name in self.names:
            room.world.put(CUSTOMER, f"_acme-challenge.{name}", "CNAME", "elsewhere.roost.example.")
        self.want(room, instance)
        room.one_pass()
        assert "elsewhere.roost.example" in room.condition(instance).message


def test_a_name_without_a_place_for_its_challenge(room, instance):
    room.want(instance, "chat.elsewhere.example")
    room.one_pass()
    condition = room.condition(instance)
    assert (condition.reason, condition.stalled) == ("Rejected", True)
    assert "chat.elsewhere.example" in condition.message


def test_failed_validation_is_told_and_paused(room, instance, monkeypatch):
    monkeypatch.setattr(challenges, "undelegated", lambda certificate: None)
    name = "astray.roost.example"
    before = room.orders_at_the_ca()
    room.want(instance, name, targets={name: (CUSTOMER, "astray.customer.example")})
    room.work(lambda: room.reason(instance) == "ValidationFailed")
    condition = room.condition(instance)
    assert name in condition.message
    assert condition.status == "False"
    assert room.certificate(instance).retry_at > timezone.now()
    assert room.world.txt("astray.customer.example") == set()
    room.wake("Certificate", instance.key)
    room.one_pass()
    assert room.orders_at_the_ca() == before + 1  # a nudge does not break the pause
    assert room.reason(instance) == "ValidationFailed"
    room.want(instance, NAMES[0])  # but another wish does
    assert room.issue(instance).serial


def test_rate_limits_are_kept(room, instance, monkeypatch):
    asked = []

    def refuse(self, csr_pem):
        asked.append(csr_pem)
        raise RateLimited("The CA answered: too many certificates for roost.example", retry_after_s=77.0)

    monkeypatch.setattr(Acme, "new_order", refuse)
    room.want(instance, NAMES[0])
    room.one_pass()
    assert room.reason(instance) == "RateLimited"
    left = (room.certificate(instance).retry_at - timezone.now()).total_seconds()
    assert 60 < left <= 77
    room.wake("Certificate", instance.key)
    room.one_pass()
    assert len(asked) == 1
    assert WorkItem.objects.get(kind="Certificate").due_at > timezone.now() + datetime.timedelta(seconds=50)
    monkeypatch.undo()


def test_a_root_that_nobody_trusts(room, instance, settings):
    settings.ROOST = {**settings.ROOST, "ACME_ROOTS_URL": "", "TRUST_SYSTEM": True}
    room.want(instance, NAMES[0])
    room.work(lambda: room.reason(instance) == "Untrusted")
    assert "ROOST_TRUST_EXTRA_FILE" in room.condition(instance).remedy
    assert services.material(instance) is None


def test_whoever_lost_the_lease_writes_nothing(room, instance):
    lease = room.lease(instance)
    room.lease(instance)
    with pytest.raises(LeaseLost):
        services.want(instance, names=[DomainName(NAMES[0])], challenge_targets={}, lease=lease, known=None)
    assert not Certificate.objects.exists()


class TestRetire:
    def test_revoked_and_gone(self, room, instance):
        room.want(instance, *NAMES[:2])
        serial = room.issue(instance).serial
        lease = room.lease(instance)
        assert services.retire(instance, lease) is False
        WorkItem.objects.filter(kind="Instance").update(due_at=timezone.now() + datetime.timedelta(days=1))
        room.one_pass()
        assert services.retire(instance, lease) is True
        assert room.world.pebble.certificate_status(serial)["Status"] == "Revoked"
        assert not Certificate.objects.exists()
        assert not Order.objects.exists()
        assert not WorkItem.objects.filter(kind="Certificate").exists()
        assert room.condition(instance) is None
        assert WorkItem.objects.get(kind="Instance", object_id=instance.key).due_at <= timezone.now()

    def test_in_the_middle_of_an_order(self, room, instance, monkeypatch):
        def vanish(self, order):
            raise leases.LeaseLost("the worker is cut off here")

        with monkeypatch.context() as patch:
            patch.setattr(Acme, "refresh", lambda self, order, deep=False: vanish(self, order))
            room.want(instance, NAMES[0])
            room.one_pass()
        assert room.world.txt(f"_acme-challenge.{NAMES[0]}")
        lease = room.lease(instance)
        services.retire(instance, lease)
        room.wake("Certificate", instance.key)
        room.work(lambda: services.retire(instance, lease))
        assert room.world.txt(f"_acme-challenge.{NAMES[0]}") == set()

    def test_a_ca_that_is_away_holds_nothing_up(self, room, instance):
        room.want(instance, NAMES[0])
        room.issue(instance)
        room.world.pebble.stop()
        lease = room.lease(instance)
        services.retire(instance, lease)
        room.work(lambda: not Certificate.objects.exists())
        assert services.retire(instance, lease) is True

    def test_wanted_again(self, room, instance):
        room.want(instance, NAMES[0])
        first = room.issue(instance).serial
        services.retire(instance, room.lease(instance))
        room.want(instance, NAMES[0])
        assert room.issue(instance).serial == first

    def test_nothing_was_there(self, room, instance):
        assert services.retire(instance, room.lease(instance)) is True


class TestAuthority:
    def test_ensure_makes_the_account_and_the_roots_known(self, room):
        authority.ensure()
        authority.ensure()
        assert AcmeAccount.objects.count() == 1
        assert room.one_pass()
        assert "BEGIN CERTIFICATE" in services.trust_roots()
        assert services.probe_roots() == services.trust_roots()

    def test_without_published_roots_the_system_is_trusted(self, room, settings, tmp_path):
        settings.ROOST = {**settings.ROOST, "ACME_ROOTS_URL": "", "TRUST_SYSTEM": True}
        authority.ensure()
        room.one_pass()
        assert services.trust_roots() is None
        extra = tmp_path / "extra.pem"
        extra.write_text((room.world.directory / "pebble" / "pebble-https-root.pem").read_text())
        settings.ROOST = {**settings.ROOST, "TRUST_EXTRA_FILE": str(extra)}
        assert extra.read_text() in services.trust_roots()
