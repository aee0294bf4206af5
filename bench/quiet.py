#!/usr/bin/env python3
"""Many tenants and some half an hour in which nothing happens: no incident may open, and the prober has to look.

Needs a stack that runs (`./roost up`); makes tenants of its own in it, waits until all are Ready and a walk through
each went well, and counts from then on. It ends with 1 if there was any incident, of these tenants or of anybody.

    sudo bench/quiet.py [--tenants 20] [--minutes 30] [--keep] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

from bench.fleet import report  # noqa: E402
from launcher.layout import ZONE, Layout, find  # noqa: E402
from launcher.processes import run  # noqa: E402
from launcher.rest import Api  # noqa: E402

ENGINES = ("prosody", "ejabberd")
SLUG, PLAN = "calm", "small"
READY_S = 1200.0


def rows(layout: Layout, sql: str) -> list[list[str]]:
    """From the stack's database, as text."""
    argv = ["psql", "-h", str(layout.postgres_socket_dir), "-d", "roost", "-AtF", "\t", "-c", sql]
    return [line.split("\t") for line in run(argv, timeout_s=60, user="roost").out.splitlines() if line]


def want(api: Api, tenants: int) -> list[dict[str, Any]]:
    """One of an organisation of its own each, as most are."""
    found = []
    for number in range(tenants):
        slug = f"{SLUG}-{number}"
        if api.find(f"organisations/{slug}/") is None:
            api.post("organisations/", {"slug": slug, "name": f"Quiet {number}"})
        there = api.get(f"organisations/{slug}/instances/")["results"]
        body = {"domain": f"{slug}.{ZONE}", "engine": ENGINES[number % 2], "plan": PLAN}
        found += there or [api.post(f"organisations/{slug}/instances/", body)]
    return found


def wait(what: str, question: Any) -> None:
    deadline = time.monotonic() + READY_S
    while not question():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {READY_S:.0f} s.")
        time.sleep(2)


def cpu_s(layout: Layout, name: str) -> float:
    """What a program of the stack has used so far, with its children."""
    from launcher import stack

    pid = next(part.pid for part in stack.supervisor(layout).parts() if part.name == name)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--write", type=Path, metavar="FILE", help="append the table to this file")
    parser.add_argument("--keep", action="store_true", help="leave the tenants for another run")
    given = parser.parse_args()
    layout = find(CLONE, dict(os.environ))
    api = Api(layout.web_url, json.loads((layout.state / "secrets").read_text())["token"])
    keys = [row["key"] for row in want(api, given.tenants)]
    wait("All are Ready", lambda: all(api.get(f"instances/{key}/")["ready"] for key in keys))
    walked = "SELECT count(DISTINCT instance_id) FROM monitoring_checkstate WHERE check_name = 'turn' AND state = 'up'"
    wait("All were walked through", lambda: int(rows(layout, walked)[0][0]) >= len(keys))
    still = "SELECT count(*) FROM monitoring_incident WHERE ended_at IS NULL"
    wait("Nothing is wrong", lambda: rows(layout, still) == [["0"]])

    ((began,),) = rows(layout, "SELECT clock_timestamp()")
    print(f"{len(keys)} tenants are Ready; quiet from {datetime.datetime.now():%H:%M:%S} on.", flush=True)
    before = {name: cpu_s(layout, name) for name in ("prober", "watcher")}
    time.sleep(given.minutes * 60)
    used = {name: cpu_s(layout, name) - was for name, was in before.items()}
    found = rows(
        layout,
        "SELECT subject, cause, started_at, ended_at FROM monitoring_incident"
        f" WHERE noticed_at > '{began}' ORDER BY id",
    )
    samples = rows(
        layout,
        "SELECT check_name = 'quick', count(*), count(*) FILTER (WHERE NOT ok) FROM monitoring_sample"
        f" WHERE at > '{began}' GROUP BY 1 ORDER BY 1",
    )
    text = report(
        "a quiet half hour" if given.minutes == 30 else "quiet", _rows(len(keys), given, found, samples, used)
    )
    print(text)
    if given.write:
        with given.write.open("a") as file:
            file.write(f"\n{text}")
    if not given.keep:
        for key in keys:
            api.post(f"instances/{key}/terminate/", {"grace_s": 0})
    return 1 if found else 0


def _rows(
    tenants: int, given: argparse.Namespace, found: list[list[str]], samples: list[list[str]], used: dict[str, float]
) -> list[tuple[str, str]]:
    names = {"t": "cheap rounds", "f": "steps of walks"}
    return [
        (f"incidents with {tenants} tenants, both engines, in {given.minutes:g} minutes", str(len(found))),
        *((f"{names[kind]}, failed ones", f"{count}, {bad}") for kind, count, bad in samples),
        *((f"CPU of the {name}", f"{seconds / given.minutes / 60:.2%} of a core") for name, seconds in used.items()),
        *(("incident", " ".join(row)) for row in found),
    ]


if __name__ == "__main__":
    sys.exit(main())
