"""Real Prometheus and Alertmanager on the live stack: a killed engine is an alert that names tenant and runbook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import keys, monitoring, stack
from launcher.progress import Progress
from tests.faults.noticed_faults import killed
from tests.faults.noticed_story import kept
from tests.stack.live import Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def watched(live: Live) -> Iterator[Live]:
    secrets = keys.load(live.layout)
    monitoring.want(live.layout, True)
    try:
        monitoring.bring_up(live.layout, secrets, Progress())
        yield live
    finally:
        monitoring.want(live.layout, False)
        monitoring.bring_up(live.layout, secrets, Progress())
        assert not {"prometheus", "alertmanager"} & stack.states(live.layout).keys()


def firing(live: Live, name: str, **labels: str) -> list[dict[str, Any]]:
    found = [one for one in monitoring.alerts(live.layout) if one["labels"]["alertname"] == name]
    return [one for one in found if labels.items() <= one["labels"].items()]


def test_a_killed_engine_is_an_alert_and_clears(watched: Live, tenant: Tenant) -> None:
    fault = killed(watched, tenant)
    until(lambda: ready(watched, tenant) == [1.0], "Prometheus knows the tenant as Ready", timeout_s=120)
    with kept(fault.keep):
        fault.begin()
        (alert,) = until(
            lambda: firing(watched, "TenantEngineDead", instance=tenant.key), "the alert fires", timeout_s=150
        )
    assert alert["labels"]["domain"] == tenant.domain
    assert alert["labels"]["cause"] == "EngineDown"
    assert alert["labels"]["severity"] == "page"
    assert "runbooks" not in alert["labels"]
    assert tenant.domain in alert["annotations"]["summary"]
    assert Path(alert["annotations"]["runbook_url"]).is_file()
    until(lambda: not firing(watched, "TenantEngineDead", instance=tenant.key), "it clears", timeout_s=200)
    until(lambda: ready(watched, tenant) == [1.0], "it is Ready again", timeout_s=120)


def test_every_process_is_counted(watched: Live) -> None:
    wanted = {"web", "worker-reconcile", "worker-heal", "worker-node", "worker-backup", "prober", "watcher", "clock"}
    until(lambda: wanted <= {one["metric"]["process"] for one in ask(watched, "roost_processes")}, "all processes")
    assert ask(watched, "roost_scrape_part_failed == 1") == []


def ready(live: Live, tenant: Tenant) -> list[float]:
    return [float(one["value"][1]) for one in ask(live, f'roost_instance_ready{{instance="{tenant.key}"}}')]


def ask(live: Live, query: str) -> list[dict[str, Any]]:
    import json
    import urllib.parse
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    where = f"http://{monitoring.addresses(live.layout)[0]}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with opener.open(where, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found
