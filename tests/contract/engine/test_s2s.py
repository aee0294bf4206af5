"""Links between real engines of every pairing: what they tell of a stream, and closing one that is a black hole."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from controlplane.drivers.engine import ejabberd, prosody
from controlplane.drivers.engine.base import S2sConnection
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from tests.contract.engine.suite import until
from tests.servers.engine import Instance, World, running_world

pytestmark = pytest.mark.servers

PAIRINGS = {
    "prosody-prosody": ("127.173", prosody.driver, prosody.driver),
    "prosody-ejabberd": ("127.174", prosody.driver, ejabberd.driver),
    "ejabberd-ejabberd": ("127.175", ejabberd.driver, ejabberd.driver),
}


@pytest.fixture(scope="module", params=PAIRINGS)
def world(request) -> Iterator[World]:
    network, one, other = PAIRINGS[request.param]
    with running_world(one, network=network, peer_driver=other) as made:
        yield made


def streams(own: Instance, peer: DomainName) -> dict[str, S2sConnection]:
    found = own.control.s2s_connections()
    return {c.direction: c for c in found if (c.local, c.remote) == (own.domain, peer.ascii)}


def test_a_stream_tells_its_age_and_pings_are_no_use_of_it(world: World) -> None:
    acme, globex = world.acme, world.globex
    acme.control.ping(globex.spec.domain)
    time.sleep(0.3)
    assert acme.control.ping(globex.spec.domain) < 0.3
    for own, peer in ((acme, globex), (globex, acme)):
        found = streams(own, peer.spec.domain)
        assert set(found) == {"in", "out"}
        for stream in found.values():
            assert stream.age_s is not None
            assert stream.idle_s is not None
            assert 0.2 < stream.age_s < 60
            assert stream.idle_s >= 0.2


def test_a_component_pings_for_itself(world: World) -> None:
    acme, globex = world.acme, world.globex
    rooms = acme.spec.components.muc
    assert acme.control.ping(globex.spec.domain, local=rooms) > 0
    assert (rooms.ascii, globex.domain) in {(c.local, c.remote) for c in acme.control.s2s_connections()}
    with pytest.raises(Rejected):
        acme.control.ping(globex.spec.domain, local=DomainName("stranger.example"))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_black_hole_is_closed_alone_and_dialled_anew(world: World, swapped: bool) -> None:
    """Both directions' streams vanish; what else there is between these servers lives on."""
    acme, globex = (world.globex, world.acme) if swapped else (world.acme, world.globex)
    rooms, other_rooms = acme.spec.components.muc, globex.spec.components.muc
    acme.control.close_s2s(rooms, other_rooms)
    globex.control.close_s2s(other_rooms, rooms)
    acme.control.ping(globex.spec.domain)
    assert acme.swallow_links() + globex.swallow_links() >= 2
    acme.control.ping(other_rooms, local=rooms)  # a link of its own, opened after that
    time.sleep(0.1)
    with pytest.raises(Unavailable):
        acme.control.ping(globex.spec.domain, timeout_s=0.7)
    for own, peer in ((acme, globex), (globex, acme)):
        assert own.control.close_s2s(own.spec.domain, peer.spec.domain) >= 1
    closed = time.monotonic()
    assert acme.control.ping(globex.spec.domain) > 0
    assert globex.control.ping(acme.spec.domain) > 0
    others = [c for c in acme.control.s2s_connections() if (c.local, c.remote) == (rooms.ascii, other_rooms.ascii)]
    assert {c.direction for c in others} == {"in", "out"}
    assert all(c.age_s is not None and c.age_s > time.monotonic() - closed for c in others)


def test_a_link_that_ended_with_an_error_says_why(world: World) -> None:
    """The peer goes away without a word; its next stream remembers the error of the last one, or has none."""
    acme, globex = world.acme, world.globex
    acme.control.ping(globex.spec.domain)
    assert globex.process is not None
    globex.process.kill()
    globex.process.wait(10)
    with pytest.raises(Unavailable):
        acme.control.ping(globex.spec.domain, timeout_s=3)
    globex.start()
    assert until(lambda: _answers(acme, globex))
    assert all(isinstance(c.error, str) for c in acme.control.s2s_connections())


def _answers(own: Instance, peer: Instance) -> bool:
    try:
        return own.control.ping(peer.spec.domain, timeout_s=2) > 0
    except Unavailable:
        own.control.close_s2s(own.spec.domain, peer.spec.domain)
        return False
