"""One lab of so many hosts with ten tenants each: how long they take, again after a change, and what memory they keep.

Standard library only; run as ``python3.11 -m bench.labs N`` from the clone, as root. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launcher import lab_network
from launcher.layout import find
from launcher.rest import Api

CLONE = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"ROOST_VAR": "var-lab-bench", "ROOST_NET": "86"}
ENGINES = ("prosody", "ejabberd")
TENANTS_EACH = 10
LIMIT_S = 900.0


def roost(*words: str) -> None:
    done = subprocess.run(
        [str(CLONE / "roost"), *words],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"roost {' '.join(words)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def measure(hosts: int) -> dict[str, Any]:
    started = time.monotonic()
    roost("lab", "up", "--nodes", str(hosts), "--no-demo")
    up_s = time.monotonic() - started
    layout = find(CLONE, ENVIRONMENT)
    lab_network.enter(layout)
    api = Api(layout.web_url, json.loads((layout.state / "secrets").read_text())["token"])
    keys = []
    started = time.monotonic()
    for number in range(hosts * TENANTS_EACH):
        slug, engine = f"b{number:03}", ENGINES[number % 2]
        api.post("organisations/", {"slug": slug, "name": slug})
        body = {"domain": f"{slug}.roost.example", "engine": engine, "plan": "small"}
        keys.append((api.post(f"organisations/{slug}/instances/", body)["key"], engine))
    asked_s = time.monotonic() - started
    _until_ready(api, len(keys))
    ready_s = time.monotonic() - started
    placed = _placed(api)
    time.sleep(10)
    memory = _memory(dict(keys))
    started = time.monotonic()
    for key, _ in keys:
        api.ask("PATCH", f"instances/{key}/", {"display_name": f"{key} changed"})
    _until_ready(api, len(keys))
    return {
        "hosts": hosts,
        "tenants": len(keys),
        "up_s": up_s,
        "asked_s": asked_s,
        "ready_s": ready_s,
        "changed_s": time.monotonic() - started,
        "placed": placed,
        "memory_mib": {engine: statistics.median(found) for engine, found in memory.items() if found},
    }


def _until_ready(api: Api, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        rows = api.get("instances/?limit=1000")["results"]
        if sum(row["ready"] for row in rows) == count:
            return
        if time.monotonic() > deadline:
            sys.exit(f"Not Ready after {LIMIT_S:.0f} s: {[row['domain'] for row in rows if not row['ready']]}")
        time.sleep(0.2)


def _placed(api: Api) -> dict[str, int]:
    return {row["name"]: int(row["instances"]) for row in api.get("nodes/")["results"]}


def _memory(keys: dict[str, str]) -> dict[str, list[float]]:
    """Engine -> proportional set size (MiB) of each tenant's processes on the hosts."""
    used: dict[str, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            key = next((key for key in keys if f"/instances/{key}/".encode() in words), None)
            if key is None:
                continue
            for line in (entry / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    used[key] = used.get(key, 0.0) + int(line.split()[1]) / 1024
        except OSError:
            continue
    found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for key, mib in used.items():
        found[keys[key]].append(mib)
    return found


if __name__ == "__main__":
    roost("lab", "down")
    try:
        print(json.dumps(measure(int(sys.argv[1]))))
    finally:
        roost("lab", "down")
