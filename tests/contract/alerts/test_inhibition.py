"""Who is woken and what is held back, as a real Alertmanager does it with the configuration that is shipped."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.contract.alerts.test_rules import MONITORING, rules, run

pytestmark = pytest.mark.servers

ADDRESS = "127.70.9.3:9093"
CONFIGURATION = MONITORING / "alertmanager.yml"


def test_amtool_takes_it() -> None:
    done = run("amtool", "check-config", str(CONFIGURATION))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.compose.yml"])
def test_promtool_takes_prometheus_configuration(name: str) -> None:
    done = run("promtool", "check", "config", "--syntax-only", str(MONITORING / name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_names_alerts_that_are_there() -> None:
    import re

    known = set(rules())
    for rule in yaml.safe_load(CONFIGURATION.read_text())["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            name, _, value = re.fullmatch(r'(\w+) *(!?=~?) *"(.*)"', matcher).groups()
            if name == "alertname":
                for one in value.split("|"):
                    assert any(re.fullmatch(one, alert) for alert in known), matcher


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("alertmanager")
    argv = ["/usr/bin/prometheus-alertmanager", f"--config.file={CONFIGURATION}", f"--storage.path={place}"]
    argv += [f"--web.listen-address={ADDRESS}", "--cluster.listen-address="]
    log = (place / "log").open("wb")
    process = subprocess.Popen(argv, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                ask("status")
                break
            except OSError:
                assert process.poll() is None, (place / "log").read_text()
                assert time.monotonic() < deadline, (place / "log").read_text()
                time.sleep(0.1)
        yield ADDRESS
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def ask(path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{ADDRESS}/api/v2/{path}", data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def alert(name: str, **labels: str) -> dict[str, str]:
    """With the labels that its rule gives it."""
    return {"alertname": name, **rules()[name]["labels"], **labels}


#: What fires at once -> the positions of those that somebody hears of.
STORIES: dict[str, tuple[list[tuple[str, dict[str, str]]], set[int]]] = {
    "a dead node and twenty tenants": (
        [
            ("NodeDead", {"node": "dead"}),
            ("NodeNotConverged", {"node": "dead", "condition": "Converged"}),
            *(("TenantEngineDead", {"node": "dead", "instance": f"t{n}", "cause": "EngineDown"}) for n in range(20)),
            ("TenantEngineDead", {"node": "other", "instance": "x", "cause": "EngineDown"}),
        ],
        {0, 22},
    ),
    "a dead engine": (
        [
            ("TenantEngineDead", {"node": "n2", "instance": "a", "cause": "EngineDown"}),
            ("TenantNotReady", {"node": "n2", "instance": "a"}),
            ("TenantFederationBroken", {"node": "n2", "instance": "a"}),
            ("TenantNotReady", {"node": "n2", "instance": "b"}),
        ],
        {0, 3},
    ),
    "TURN": ([("TurnDead", {"cause": "TurnUnreachable"}), ("LevelBurnsFast", {"level": "calls"})], {0}),
    "burning": (
        [
            ("LevelBurnsFast", {"level": "login"}),
            ("LevelBurnsSlowly", {"level": "login"}),
            ("LevelBudgetLeaks", {"level": "delivery"}),
        ],
        {0, 2},
    ),
    "name servers": (
        [
            ("DnsServerDown", {}),
            ("TenantNotReady", {"node": "n3", "instance": "c"}),
            ("LevelBurnsFast", {"level": "login"}),
            ("TenantDataLost", {"node": "n3", "instance": "c", "cause": "RoomsLost"}),
        ],
        {0, 3},
    ),
    "the database": (
        [("DatabaseDown", {}), ("QueueStuck", {"queue": "heal"}), ("NodeDiskFilling", {"node": "n4"})],
        {0, 2},
    ),
    "nothing larger": (
        [
            ("TenantServiceFails", {"node": "n5", "instance": "d", "cause": "RoomsFail"}),
            ("NodeDiskFilling", {"node": "n5"}),
        ],
        {0, 1},
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_who_hears_of_it(alertmanager: str, story: str) -> None:
    firing, heard = STORIES[story]
    labels = [alert(name, **more) for name, more in firing]
    now = datetime.datetime.now(datetime.UTC)
    try:
        ask("alerts", [{"labels": one, "startsAt": now.isoformat()} for one in labels])
        deadline = time.monotonic() + 30
        while (seen := states(labels)) != {n: n in heard for n in range(len(labels))}:
            assert time.monotonic() < deadline, seen
            time.sleep(0.3)
    finally:
        ended = (now + datetime.timedelta(milliseconds=1)).isoformat()
        ask("alerts", [{"labels": one, "startsAt": now.isoformat(), "endsAt": ended} for one in labels])


def states(labels: list[dict[str, str]]) -> dict[int, bool]:
    """Position -> whether somebody is told of it."""
    found = {}
    for one in ask("alerts"):
        if one["labels"] in labels:
            found[labels.index(one["labels"])] = one["status"]["state"] == "active"
    return found
