"""The loop: leases of the dead are ended at once, those of the living never; a pass that raises backs off."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from controlplane.reconcile import lease as leases
from controlplane.reconcile import loop, watch
from controlplane.reconcile.models import WorkItem
from controlplane.reconcile.watch import Next

pytestmark = [pytest.mark.db, pytest.mark.django_db(transaction=True)]


def claim_as(holder: str) -> leases.Lease:
    leases.touch("Toy", holder, "q")
    (lease,) = leases.claim(["q"], holder=holder)
    return lease


def test_only_the_dead_are_buried() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    dead = claim_as(f"{here}:{gone.pid}:1")
    claim_as(f"{here}:{os.getpid()}:1")
    claim_as(f"elsewhere:{gone.pid}:1")
    assert loop.bury_the_dead() == 1
    (again,) = leases.claim(["q"], holder="test", limit=10)
    assert again.object_id == dead.object_id
    assert again.fence > dead.fence


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def reconcile(lease: leases.Lease) -> Next | None:
        seen.append(lease.object_id)
        if lease.object_id == "breaks":
            raise RuntimeError("oops")
        if lease.object_id == "gone":
            leases.forget(lease.kind, lease.object_id)
            return None
        return Next(3600.0)

    monkeypatch.setitem(watch._kinds, "Toy", watch.Kind("Toy", "q", reconcile))
    return seen


def test_drains_everything_that_is_due(toy: list[str]) -> None:
    for name in ("a", "b", "breaks", "gone"):
        leases.touch("Toy", name, "q")
    loop.drain(["q"], linger_s=0)
    assert sorted(toy) == ["a", "b", "breaks", "gone"]
    rows = {row.object_id: row for row in WorkItem.objects.all()}
    assert set(rows) == {"a", "b", "breaks"}
    assert rows["breaks"].attempts == 1
    assert rows["a"].attempts == 0
    assert all(row.leased_until is None for row in rows.values())


def test_an_unknown_kind_is_put_off(toy: list[str]) -> None:
    leases.touch("Nobody", "x", "q")
    assert loop.drain(["q"], linger_s=0) == 1
    assert WorkItem.objects.get().attempts == 1
    assert toy == []
