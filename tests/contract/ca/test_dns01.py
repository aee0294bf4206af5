"""Looking for challenges where the CA looks: at a real authoritative server."""

from __future__ import annotations

import pytest

from controlplane.drivers.ca import dns01
from controlplane.values.errors import Unavailable
from tests.servers.ca_world import CUSTOMER, ZONE

pytestmark = pytest.mark.servers


def test_txt_is_seen_as_a_set(world):
    server = (world.knot.address, 53)
    name = "_acme-challenge.seen.roost.example"
    assert dns01.txt_at(server, name) == frozenset()
    world.put(ZONE, name, "TXT", '"one"', '"two" "parts"')
    assert dns01.txt_at(server, name) == {"one", "twoparts"}
    assert dns01.missing([server], name, frozenset({"one"})) == ()
    assert dns01.missing([server], name, frozenset({"one", "three"})) == (server,)


def test_a_server_that_is_away(world):
    with pytest.raises(Unavailable):
        dns01.txt_at((world.knot.address, 5399), "a.roost.example")


def test_a_server_that_does_not_know_the_zone(world):
    with pytest.raises(Unavailable, match="REFUSED"):
        dns01.txt_at((world.knot.address, 53), "a.elsewhere.example")


def test_cnames_are_followed(world):
    world.put(CUSTOMER, "_acme-challenge.chat.customer.example", "CNAME", "k1.acme.customer.example.")
    world.put(CUSTOMER, "k1.acme.customer.example", "CNAME", "k1.acme.roost.example.")
    led = dns01.follow("_acme-challenge.chat.customer.example", world.knot.address)
    assert led == ("k1.acme.customer.example", "k1.acme.roost.example")
    assert dns01.follow("_acme-challenge.other.customer.example", world.knot.address) == ()


def test_a_loop_of_cnames_ends(world):
    world.put(CUSTOMER, "x.customer.example", "CNAME", "y.customer.example.")
    world.put(CUSTOMER, "y.customer.example", "CNAME", "x.customer.example.")
    assert "nowhere.example" not in dns01.follow("x.customer.example", world.knot.address)


def test_name_servers_are_found(world):
    assert dns01.authoritative_for(ZONE, world.knot.address) == ((world.knot.address, 53),)
    with pytest.raises(Unavailable):
        dns01.authoritative_for("nothing.roost.example", world.knot.address)
