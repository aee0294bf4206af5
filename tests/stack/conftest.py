"""The live stack, and two tenants that most tests share: one of each engine, made at once by the API."""

from __future__ import annotations

import pytest

from tests.stack.live import ENGINES, Live, Tenant
from tests.stack.own_zone import zone

__all__ = ["zone"]  # a fixture


@pytest.fixture(scope="session")
def live() -> Live:
    return Live.from_environment()


@pytest.fixture(scope="session")
def tenants(live: Live) -> dict[str, Tenant]:
    """Engine -> a Ready tenant. Tests that suspend, break or end something make their own."""
    found = {engine: live.want(f"t-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    return found


@pytest.fixture(params=ENGINES)
def tenant(request: pytest.FixtureRequest, tenants: dict[str, Tenant]) -> Tenant:
    """Each of the two in turn."""
    return tenants[request.param]
