"""docs/tour.sh is true: it runs from the first call to the last trace, and stops where something is not so."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.stack.live import ENGINES, Live, Tenant

pytestmark = pytest.mark.stack


def tour(live: Live, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", "ROOST_VAR": live.var}
    return subprocess.run(
        [str(live.clone / "docs" / "tour.sh")],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_the_tour_of_an_organisations_life(live: Live, tenants: dict[str, Tenant], engine: str) -> None:
    done = tour(live, ENGINE=engine)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "✗" not in done.stdout
    assert done.stdout.count("✓") >= 30
    assert "no file is left" in done.stdout
    assert live.api.token not in done.stdout + done.stderr
    for line in done.stdout.splitlines():
        assert '"password":"' not in line.replace('"password":"…"', "")


def test_the_tour_stops_where_something_is_not_so(live: Live, tenants: dict[str, Tenant]) -> None:
    done = tour(live, SLUG=tenants["prosody"].slug)
    assert done.returncode == 1
    assert "the answer should have been 201" in done.stderr
