"""The ACME driver against a real Pebble that refuses half of all nonces, with a real name server behind it."""

from __future__ import annotations

import base64

import pytest

from controlplane.drivers.ca.acme import CESSATION, DNS_01, HTTP_01, Acme, Order, new_account_key
from controlplane.drivers.ca.errors import AccountUnknown, NotFound
from controlplane.drivers.ca.roots import fetch_roots
from controlplane.values.certificates import distrust, new_key, new_request, parse_chain
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.records import txt
from controlplane.values.secret import Secret
from tests.contract.ca.conftest import octet
from tests.servers.ca_world import ZONE, CaWorld, ChallengeWeb, until

pytestmark = pytest.mark.servers


def request(*names):
    key = new_key()
    return key, new_request(key, [DomainName(n) for n in names])


def stored(order: Order) -> Order:
    """The order as the next process finds it."""
    return Order.from_json(order.to_json())


def settle(acme: Acme, order: Order) -> Order:
    """Ask until the CA has decided."""
    seen = [order]

    def decided():
        seen.append(acme.refresh(stored(seen[-1])))
        return seen[-1].status not in {"pending", "processing"}

    until(decided)
    return seen[-1]


def publish(world, acme, order):
    asked = acme.challenges(order, DNS_01)
    for challenge in asked:
        world.put(ZONE, challenge.dns_name, "TXT", txt(challenge.dns_value))
    return asked


def obtain(world, acme, *names):
    key, csr = request(*names)
    order = stored(acme.new_order(csr))
    for challenge in publish(world, acme, order):
        acme.answer(challenge)
    order = settle(acme, order)
    assert order.status == "ready"
    order = settle(acme, acme.finalize(stored(order)))
    return key, acme.chain(stored(order))


def test_four_names_by_dns(world, acme):
    names = ["a1.roost.example", "rooms.a1.roost.example", "upload.a1.roost.example", "proxy.a1.roost.example"]
    key, pem = obtain(world, acme, *names)
    chain = parse_chain(pem)
    assert set(chain.names.dns) == set(names)
    assert chain.fits_key(key)
    roots = fetch_roots(world.pebble.roots_url, ca_file=world.pebble.ca_file)
    assert distrust(chain, roots, chain.not_before) == ""
    assert "-----BEGIN CERTIFICATE-----" in pem
    assert len(chain.certificates) >= 2


def test_http(world, acme):
    world.put(ZONE, "h1.roost.example", "A", world.web_address)
    key, csr = request("h1.roost.example")
    order = acme.new_order(csr)
    (challenge,) = acme.challenges(order, HTTP_01)
    with ChallengeWeb(world.web_address, {challenge.token: challenge.key_authorization}.get):
        acme.answer(challenge)
        order = settle(acme, order)
    order = settle(acme, acme.finalize(order))
    assert parse_chain(acme.chain(order)).fits_key(key)


def test_the_same_key_is_the_same_account(world):
    key = new_account_key()
    first = Acme(world.pebble.directory_url, key, ca_file=world.pebble.ca_file)
    second = Acme(world.pebble.directory_url, key, ca_file=world.pebble.ca_file)
    uri = first.register()
    assert uri
    assert second.register() == uri
    assert second.register() == uri


def test_what_is_not_published_is_told_by_the_ca(world, acme):
    _, csr = request("bare.roost.example")
    order = acme.new_order(csr)
    for challenge in acme.challenges(order, DNS_01):
        acme.answer(challenge)
    order = settle(acme, order)
    assert order.status == "invalid"
    assert "bare.roost.example" in order.problem


def test_answering_and_finalizing_twice_changes_nothing(world, acme):
    key, csr = request("twice.roost.example")
    order = acme.new_order(csr)
    (challenge,) = publish(world, acme, order)
    assert acme.finalize(order).status in {"pending", "ready"}  # too early: no error
    acme.answer(challenge)
    acme.answer(challenge)
    order = settle(acme, order)
    acme.answer(challenge)
    acme.finalize(order)
    order = settle(acme, order)
    again = acme.finalize(order)
    assert again.status == "valid"
    assert parse_chain(acme.chain(again)).fits_key(key)


def test_challenges_say_whether_they_were_answered(world, acme):
    _, csr = request("told.roost.example")
    order = acme.new_order(csr)
    (challenge,) = publish(world, acme, order)
    assert challenge.status == "pending"
    acme.answer(challenge)
    order = settle(acme, order)
    assert acme.challenges(acme.refresh(order, deep=True), DNS_01) == ()


def test_an_order_that_was_not_written_down_is_found(world, acme):
    names = ["lost.roost.example", "rooms.lost.roost.example"]
    _, csr = request(*names)
    made = [acme.new_order(request(f"other{n}.roost.example")[1]) for n in range(5)]
    lost = acme.new_order(csr)
    found = acme.find_order(csr, names, known={order.url for order in made})
    assert found is not None
    assert found.url == lost.url
    assert len(acme.challenges(found, DNS_01)) == 2
    assert acme.find_order(csr, names, known={lost.url}) is None
    assert acme.find_order(csr, names[:1], known=()) is None


def test_revoked_once_and_for_all(world, acme):
    _, pem = obtain(world, acme, "gone.roost.example")
    acme.revoke(pem, reason=CESSATION)
    acme.revoke(pem, reason=CESSATION)
    assert world.pebble.certificate_status(parse_chain(pem).serial)["Status"] == "Revoked"


def test_no_renewal_information_where_the_ca_has_none(world, acme):
    _, pem = obtain(world, acme, "plain.roost.example")
    assert acme.renewal_info(pem) is None


def test_https_of_the_ca_is_verified(world):
    stranger = Acme(world.pebble.directory_url, new_account_key())
    with pytest.raises(Rejected) as refused:
        stranger.register()
    assert "ROOST_ACME_CA_FILE" in refused.value.remedy


def test_nobody_there(world):
    away = Acme(f"https://{world.pebble.address}:14999/dir", new_account_key(), ca_file=world.pebble.ca_file)
    with pytest.raises(Unavailable) as error:
        away.register()
    assert world.pebble.address in error.value.message


def test_something_else_there(world):
    other = Acme(world.pebble.roots_url, new_account_key(), ca_file=world.pebble.ca_file)
    with pytest.raises(Unavailable, match="does not answer as an ACME server"):
        other.register()


def test_a_ca_that_forgot_everything():
    with CaWorld(f"127.64.{octet(200)}", nonce_reject=0) as world:
        key = new_account_key()
        acme = Acme(world.pebble.directory_url, key, ca_file=world.pebble.ca_file)
        uri = acme.register()
        _, csr = request("a.roost.example")
        order = acme.new_order(csr)
        roots = fetch_roots(world.pebble.roots_url, ca_file=world.pebble.ca_file)
        world.pebble.restart()
        with pytest.raises(AccountUnknown):
            acme.refresh(order)
        fresh = Acme(world.pebble.directory_url, key, account_uri=uri, ca_file=world.pebble.ca_file)
        with pytest.raises(AccountUnknown):
            fresh.new_order(csr)
        fresh.register()
        with pytest.raises(NotFound):
            fresh.refresh(order)
        assert fetch_roots(world.pebble.roots_url, ca_file=world.pebble.ca_file) != roots
        assert fresh.new_order(csr).status == "pending"


def test_external_account_binding():
    hmac = base64.urlsafe_b64encode(b"thirty-two octets of an hmac key").decode().rstrip("=")
    wrong = base64.urlsafe_b64encode(b"another thirty-two octets of key").decode().rstrip("=")
    with CaWorld(f"127.64.{octet(220)}", eab={"kid-1": hmac}) as world:

        def account():
            return Acme(world.pebble.directory_url, new_account_key(), ca_file=world.pebble.ca_file)

        with pytest.raises(Rejected) as missing:
            account().register()
        assert "ROOST_ACME_EAB_KID" in missing.value.remedy
        with pytest.raises(Rejected):
            account().register(eab_kid="kid-1", eab_hmac=Secret(wrong))
        assert account().register(eab_kid="kid-1", eab_hmac=Secret(hmac)).startswith("https://")
