"""A customer's own zone, which the tests keep at the stack's name server as the customer would."""

from __future__ import annotations

import contextlib
import urllib.error
from collections.abc import Iterator

import pytest

from tests.stack.live import Live

ZONE = "customer.example"


@pytest.fixture
def zone(live: Live) -> Iterator[str]:
    """The customer's own zone, on a name server that Roost's drivers never write this zone of."""
    remove(live)
    live.powerdns("POST", "zones", {"name": f"{ZONE}.", "kind": "Native", "nameservers": ["ns.roost.example."]})
    yield ZONE
    remove(live)


def remove(live: Live) -> None:
    with contextlib.suppress(urllib.error.HTTPError):
        live.powerdns("DELETE", f"zones/{ZONE}.")


def publish(live: Live, records: list[dict[str, object]]) -> None:
    """Write record sets as the API words them into the customer's zone."""
    sets = [
        {
            "name": f"{record['name']}.",
            "type": record["type"],
            "ttl": 5,
            "changetype": "REPLACE",
            "records": [{"content": rdata, "disabled": False} for rdata in record["rdatas"]],  # type: ignore[attr-defined]
        }
        for record in records
    ]
    live.powerdns("PATCH", f"zones/{ZONE}.", {"rrsets": sets})
