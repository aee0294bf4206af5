"""The live stack, and two tenants that live through all faults: one of each engine, with members and a room."""

from __future__ import annotations

import pytest

from tests.faults.invariants import check
from tests.stack.live import ENGINES, Live, Tenant
from tests.stack.own_zone import zone

__all__ = ["zone"]  # a fixture


@pytest.fixture(scope="session")
def live() -> Live:
    return Live.from_environment()


@pytest.fixture(scope="session")
def tenants(live: Live) -> dict[str, Tenant]:
    """Engine -> a Ready tenant that no test ends."""
    found = {engine: live.want(f"t-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    for tenant in found.values():
        owner = live.account(tenant, "romeo")
        live.account(tenant, "juliet")
        live.api.ask("POST", f"{tenant.path}rooms/", {"name": "vault", "owner": owner, "title": "Vault"})
    return found


@pytest.fixture(autouse=True)
def nothing_is_broken_afterwards(live: Live, tenants: dict[str, Tenant]):  # type: ignore[no-untyped-def]
    """Whatever a test did, nobody mends anything: all is well again by itself, and what was there is there."""
    kept = {tenant.key: of_the_engine(live, tenant) for tenant in tenants.values()}
    yield
    for path in live.fault_dir.iterdir():
        path.unlink()
    check(live)
    for tenant in tenants.values():
        assert of_the_engine(live, tenant) == kept[tenant.key]


def of_the_engine(live: Live, tenant: Tenant) -> tuple[object, object]:
    """Names of the accounts (but the probe's, which drivers leave out) and of the rooms, from the engine itself."""
    control = live.control(tenant)
    accounts = sorted(account.local.text for account in control.list_accounts())
    rooms = sorted(room.local.text for room in control.list_rooms() if not room.local.text.startswith("roost-check-"))
    return accounts, rooms
