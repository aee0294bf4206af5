"""ejabberd through the engines' contract, and what is ejabberd's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controlplane.drivers.engine.ejabberd import driver
from tests.contract.engine.features import FeatureContract
from tests.contract.engine.suite import ControlContract
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_world(driver, network="127.62") as made:
        yield made


class TestControl(ControlContract):
    """The control channel."""


class TestFeatures(FeatureContract):
    """What clients get."""
