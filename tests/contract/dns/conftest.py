"""One PowerDNS and one Knot for the session. Not pytest's tmp_path: unix socket paths stay below 108 bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.dns.powerdns import PowerDns
from controlplane.values.secret import Secret
from tests.contract.dns.suite import ZONE
from tests.servers.dns import API_KEY, KnotServer, PowerDnsServer

POWERDNS, KNOT, NOBODY = "127.63.0.1", "127.63.0.2", "127.63.0.99"


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="dns"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def powerdns(scratch: Path) -> Iterator[PowerDnsServer]:
    with PowerDnsServer(scratch / "pdns", POWERDNS) as server:
        assert PowerDns(server.url, Secret(API_KEY)).create_zone(ZONE, ["ns1.roost.example"]) is True
        yield server


@pytest.fixture(scope="module")
def knot(scratch: Path) -> Iterator[KnotServer]:
    with KnotServer(scratch / "knot", KNOT, zones=(ZONE.ascii,)) as server:
        yield server
