"""SIGKILL at each step, servers that stop and CAs that forget: it ends with one certificate and nothing left over."""

from __future__ import annotations

import signal

import pytest

from controlplane.certificates import authority, services
from controlplane.certificates.models import AcmeAccount, Certificate
from controlplane.drivers.ca.acme import Acme
from controlplane.drivers.ca.errors import NotFound
from controlplane.reconcile.lease import LeaseLost
from controlplane.values.certificates import parse_chain
from tests.servers.ca_world import ZONE

pytestmark = [pytest.mark.db, pytest.mark.servers]

NAMES = ["fault.roost.example", "rooms.fault.roost.example"]
POINTS = [
    "acme-order-noted",
    "acme-registered",
    "acme-ordered",
    "acme-challenge-noted",
    "acme-challenge-published",
    "acme-answered",
    "acme-finalized",
    "acme-collected",
    "acme-issued",
    "acme-challenge-removed",
]


@pytest.fixture
def instance(room):
    return room.instance(NAMES[0])


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at(point, room, instance, tmp_path):
    before = room.orders_at_the_ca()
    room.want(instance, *NAMES)
    assert room.killed_worker(point, tmp_path) == -signal.SIGKILL
    room.wake("Certificate", instance.key)  # the lease of the dead worker ends
    row = room.issue(instance)
    chain_pem, key = services.material(instance)
    chain = parse_chain(chain_pem)
    assert chain.fits_key(key)
    assert set(chain.names.dns) == set(NAMES)
    assert [order.state for order in row.orders.all()] == ["issued"]
    assert room.orders_at_the_ca() == before + 1
    assert AcmeAccount.objects.count() == 1
    assert all(room.world.txt(f"_acme-challenge.{name}") == set() for name in NAMES)


def test_a_worker_killed_while_it_removes(room, instance, tmp_path):
    room.want(instance, *NAMES)
    serial = room.issue(instance).serial
    lease = room.lease(instance)
    services.retire(instance, lease)
    assert room.killed_worker("acme-revoked", tmp_path) == -signal.SIGKILL
    room.wake("Certificate", instance.key)
    room.work(lambda: not Certificate.objects.exists())
    assert services.retire(instance, lease) is True
    assert room.world.pebble.certificate_status(serial)["Status"] == "Revoked"


def test_a_ca_with_another_root_issues_all_again(room, instance):
    authority.ensure()
    room.want(instance, *NAMES)
    first = room.issue(instance).serial
    old_roots = services.trust_roots()
    key_before = AcmeAccount.objects.get().key_sealed
    room.world.pebble.restart()
    room.wake("Authority", authority.ID)
    room.work(lambda: room.certificate(instance).serial != first)
    room.issue(instance)
    assert services.trust_roots() != old_roots
    assert AcmeAccount.objects.get().key_sealed == key_before


def test_a_ca_that_forgets_an_open_order(room, instance, monkeypatch):
    def cut_off(self, order, deep=False):
        raise LeaseLost("the worker is cut off here")

    with monkeypatch.context() as patch:
        patch.setattr(Acme, "refresh", cut_off)
        room.want(instance, *NAMES)
        room.one_pass()
    assert room.certificate(instance).orders.get().url
    room.world.pebble.restart()
    room.wake("Certificate", instance.key)
    row = room.issue(instance)
    assert sorted(order.state for order in row.orders.all()) == ["abandoned", "issued"]
    assert all(room.world.txt(f"_acme-challenge.{name}") == set() for name in NAMES)


def test_a_ca_that_is_away_for_a_while(room, instance):
    room.world.pebble.stop()
    room.want(instance, *NAMES)
    room.one_pass()
    assert room.reason(instance) == "Unavailable"
    room.world.pebble.start()
    assert room.issue(instance).serial


def test_a_name_server_that_is_away_for_a_while(room, instance):
    room.world.knot.stop()
    room.want(instance, *NAMES)
    room.one_pass()
    assert room.reason(instance) == "Unavailable"
    room.world.knot.start()
    assert room.issue(instance).serial


def test_a_record_lost_before_the_ca_looked(room, instance, monkeypatch):
    """Somebody empties the zone between publication and answer: the challenge is published again."""

    def cut_off(self, challenge):
        raise LeaseLost("the worker is cut off here")

    with monkeypatch.context() as patch:
        patch.setattr(Acme, "answer", cut_off)
        room.want(instance, *NAMES)
        room.one_pass()
    for name in NAMES:
        room.world.drop(ZONE, f"_acme-challenge.{name}", "TXT")
    room.wake("Certificate", instance.key)
    assert room.issue(instance).orders.count() == 1


def test_a_ca_that_loses_every_order_is_asked_ever_later(room, instance, monkeypatch):
    def lost(self, order, deep=False):
        raise NotFound("The CA knows no such order.")

    with monkeypatch.context() as patch:
        patch.setattr(Acme, "refresh", lost)
        room.want(instance, *NAMES)
        room.work(lambda: room.certificate(instance).orders.count() >= 3 and room.certificate(instance).retry_at)
        room.wake("Certificate", instance.key)  # a touch does not shorten the pause
        room.one_pass()
        assert room.certificate(instance).orders.count() == 3
    assert room.issue(instance).serial
