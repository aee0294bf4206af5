"""An engine with fifty rooms is killed: all is as before, before anyone joins; what is lost is said and restored."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controlplane.drivers.engine.base import Roll, RoomSettings
from controlplane.values.names import Jid, Localpart
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]

ROOMS = 50
AFFILIATED = {"owner": "owner", "admin": "admin", "member": "member", "other": "member", "banned": "outcast"}


def rooms_of(live: Live, tenant: Tenant) -> Roll:
    roll = live.control(tenant).roll()
    assert roll.rooms is not None
    return roll


@pytest.fixture(scope="module")
def furnished(live: Live, tenants: dict[str, Tenant]) -> dict[str, Tenant]:
    """Engine -> a tenant of its own, so that what is done to it here is no other test's concern."""
    found = {engine: live.want(f"rolled-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    return found


def furnish(live: Live, tenant: Tenant) -> None:
    control = live.control(tenant)
    for number in range(ROOMS):
        name = Localpart(f"kept-{number}")
        settings = RoomSettings(title=f"Room {number}", access="members" if number % 2 else "open", listed=True)
        control.create_room(name, settings, Jid.parse(tenant.jid("owner")))
        for local, affiliation in AFFILIATED.items():
            control.set_affiliation(name, Jid.parse(tenant.jid(local)), affiliation)


def kill(live: Live, tenant: Tenant) -> None:
    """SIGKILL, and wait until another process answers."""
    before = live.engine_pid(tenant)
    os.kill(before, signal.SIGKILL)
    until(lambda: live.engine_pid(tenant) not in (0, before), "it is started again")
    until(lambda: live.control(tenant).health().version, "it answers")


def taken(live: Live, tenant: Tenant, rooms: int) -> None:
    until(lambda: live.api.get(f"{tenant.path}roll/")["rooms"] == rooms, "the roll has all rooms")


def incidents(live: Live, tenant: Tenant) -> list[tuple[str, bool]]:
    """Cause and whether it is open, of those about its data."""
    return [
        (str(cause), bool(is_open))
        for cause, is_open in live.rows(
            "SELECT cause, ended_at IS NULL FROM monitoring_incident WHERE subject = %s ORDER BY id",
            f"instance:{tenant.key}:data",
        )
    ]


def proofs(live: Live, tenant: Tenant) -> int:
    ((count,),) = live.rows(
        "SELECT count(*) FROM reconcile_event WHERE object_id = %s AND type = 'DataProven'", tenant.key
    )
    return int(count)


@pytest.mark.parametrize("engine", ENGINES)
def test_fifty_rooms_survive_sigkill(live: Live, furnished: dict[str, Tenant], engine: str) -> None:
    tenant = furnished[engine]
    furnish(live, tenant)
    taken(live, tenant, ROOMS)
    before, proven = rooms_of(live, tenant), proofs(live, tenant)
    kill(live, tenant)
    after = rooms_of(live, tenant)
    assert after.rooms is not None
    assert len(after.rooms) == ROOMS
    assert all(
        room.affiliations == {tenant.jid(local): kind for local, kind in AFFILIATED.items()}
        for room in after.rooms.values()
    )
    assert (after.rooms, after.members) == (before.rooms, before.members)
    until(lambda: proofs(live, tenant) > proven, "Roost has compared it")
    assert incidents(live, tenant) == []
    live.ready(tenant)


def store_of(live: Live, tenant: Tenant) -> Path:
    return live.layout.node / "instances" / tenant.key / "data"


def test_what_is_lost_is_an_incident_until_it_is_restored(live: Live, furnished: dict[str, Tenant]) -> None:
    """Ten rooms' files go while the engine is down; Roost names them, makes them again, and ends the incident."""
    tenant = furnished["prosody"]
    taken(live, tenant, ROOMS)
    before = rooms_of(live, tenant)
    doomed = [f"kept-{number}" for number in range(10)]
    directory = next(store_of(live, tenant).glob("conference*/config"))
    for name in doomed:
        (directory / f"{name.replace('-', '%2d')}.dat").unlink()
    kill(live, tenant)
    until(lambda: incidents(live, tenant) == [("RoomsLost", True)], "the loss is an incident")
    told = live.api.get(f"{tenant.path}roll/")
    assert told["complete"] is False
    assert sorted(told["missing"]["rooms"]) == doomed
    assert all(room["gone"] for room in told["missing"]["rooms"].values())
    answer = live.api.post(f"{tenant.path}roll/restore/")
    assert (sorted(answer["restored"]), answer["left"]) == (doomed, [])
    until(lambda: incidents(live, tenant) == [("RoomsLost", False)], "it ends by itself")
    assert rooms_of(live, tenant).rooms == before.rooms


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_meant_is_accepted(live: Live, furnished: dict[str, Tenant], engine: str) -> None:
    """The engine's own channel takes a room away unseen, just before a crash: that looks like a loss."""
    tenant = furnished[engine]
    taken(live, tenant, ROOMS)
    known = len(incidents(live, tenant))
    live.control(tenant).delete_room(Localpart("kept-49"))
    kill(live, tenant)

    def said() -> bool:
        """Unless a look came in between, which then took it for people's doing."""
        rows = incidents(live, tenant)
        return len(rows) > known or live.api.get(f"{tenant.path}roll/")["rooms"] == ROOMS - 1

    until(said, "it is noticed")
    for _ in range(2):
        assert live.api.post(f"{tenant.path}roll/accept/")["complete"] is True
    assert not any(is_open for _, is_open in incidents(live, tenant))


def test_afterwards_nothing_is_left(live: Live, furnished: dict[str, Tenant]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live.terminate, furnished.values()))
    keys = [tenant.key for tenant in furnished.values()]
    items = "SELECT 1 FROM reconcile_workitem WHERE kind = 'Roll' AND object_id = ANY(%s)"
    until(lambda: live.rows(items, keys) == [], "their rolls are forgotten with the next pass", timeout_s=60)
