from __future__ import annotations

import os
import re

import pytest

from controlplane.drivers.ca.acme import Acme, new_account_key
from tests.servers.ca_world import CaWorld


def octet(base: int) -> int:
    """A third octet of its own for each of xdist's workers."""
    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
    return base + int(worker)


@pytest.fixture(scope="session")
def world():
    with CaWorld(f"127.64.{octet(0)}") as made:
        yield made


@pytest.fixture
def acme(world):
    """A registered account of its own."""
    made = Acme(world.pebble.directory_url, new_account_key(), ca_file=world.pebble.ca_file)
    made.register(contact="hostmaster@roost.example")
    return made
