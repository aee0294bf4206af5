"""``status``: what runs and what is wrong, with the remedy; and ``logs``. They look and change nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launcher import checks, keys, stack
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.rest import Api
from launcher.services.controlplane import health_socket, node_supervisor
from launcher.supervisor import Part

FRESH_LINES = 10
#: They have no web server, and say at a socket whether they do what they are for.
WITH_HEALTH = ("worker", "heal-worker", "node-worker", "backup-worker", "prober", "watcher", "beat")


@dataclass(frozen=True, slots=True)
class Line:
    """``remedy`` is empty where nothing is wrong."""

    name: str
    state: str
    note: str = ""
    remedy: str = ""


def status(layout: Layout) -> int:
    """Print it; 0: all is well, 1: something is wrong, 3: nothing runs."""
    if not layout.state.is_dir():
        print("There is no stack here: run `./roost up`.")
        return 3
    control = stack.supervisor(layout)
    if not control.running():
        print("Nothing runs: run `./roost up`.")
        return 3
    lines = [*_programs(layout, control.parts()), *_engines(layout), *_instances(layout)]
    for line in lines:
        mark = "✗" if line.remedy else "✓"
        print(f"  {mark}  {line.name:<28} {line.state:<10} {line.note}".rstrip())
    wrong = [line for line in lines if line.remedy]
    if wrong:
        print("\nWhat is wrong:")
        for line in wrong:
            print(f"  {line.name}: {line.remedy}")
        return 1
    print("\nAll is well.")
    return 0


def _programs(layout: Layout, parts: Sequence[Part]) -> list[Line]:
    checks_of = _checks(layout)
    return [_program(part, checks_of) for part in sorted(parts, key=lambda part: part.name)]


def _program(part: Part, checks_of: dict[str, Any]) -> Line:
    up = f"process {part.pid}, for {_span(part.since_s)}" if part.pid else part.said
    if part.state != "RUNNING":
        return Line(
            part.name, part.state.lower(), up, f"it does not run: see `./roost logs {part.name}`, then `./roost up`."
        )
    check = checks_of.get(part.name)
    try:
        works = check is None or check()
    except (OSError, Problem):
        works = False
    if works:
        return Line(part.name, "running", up)
    return Line(part.name, "silent", up, f"it runs but does not answer: see `./roost logs {part.name}`.")


def _checks(layout: Layout) -> dict[str, Any]:
    from launcher.services.postgres import answers

    return {
        "postgres": lambda: answers(layout),
        "redis": lambda: checks.redis(layout.redis_socket),
        "pdns": lambda: checks.tcp(layout.authoritative_address, 53),
        "unbound": lambda: checks.dns(layout.resolver_address, "localhost"),
        "pebble": lambda: checks.http_ok(f"https://{layout.pebble_address}:14000/dir", ca_file=layout.pebble_ca),
        "coturn": lambda: checks.tcp(layout.turn_address, 3478),
        "edge": lambda: checks.unix_socket(layout.edge / "admin.sock"),
        "node": lambda: checks.unix_socket(layout.node / "supervisor.sock"),
        "web": lambda: checks.http_ok(f"{layout.web_url}/readyz"),
        **{name: partial(checks.healthy, health_socket(layout, name)) for name in WITH_HEALTH},
        "prometheus": lambda: checks.http_ok(f"http://{layout.address(5)}:9090/-/ready"),
        "alertmanager": lambda: checks.http_ok(f"http://{layout.address(5)}:9093/-/ready"),
    }


def _engines(layout: Layout) -> list[Line]:
    node = node_supervisor(layout)
    if not node.running():
        return []
    found = []
    for part in node.parts():
        note = f"process {part.pid}, for {_span(part.since_s)}" if part.pid else part.said
        # STOPPED is what a suspended tenant's engine should be.
        bad = part.state not in ("RUNNING", "STARTING", "STOPPED")
        remedy = "the engine does not run: see its log below var/node/instances." if bad else ""
        found.append(Line(f"engine {part.name}", part.state.lower(), note, remedy))
    return found


def _instances(layout: Layout) -> list[Line]:
    try:
        kept = keys.load(layout)
        if not kept.token:
            return [Line("control plane", "not set up", "", "run `./roost up`.")]
        api = Api(layout.web_url, kept.token)
        return [_instance(api, row) for row in api.get("instances/")["results"]]
    except Problem as problem:
        return [Line("instances", "unknown", "", str(problem))]


def _instance(api: Api, row: Any) -> Line:
    name = str(row["domain"])
    if row["desired"] != "running":
        return Line(name, str(row["desired"]))
    if row["ready"]:
        return Line(name, "ready", str(row["engine"]))
    seen = api.get(f"instances/{row['key']}/")
    missing = [c for c in seen["conditions"] if c["status"] != "True" and c["type"] not in ("Ready", "Reconciling")]
    said = "; ".join(f"{c['type']} ({c['reason']}): {c['message']}" for c in missing[:3])
    return Line(name, "not ready", str(row["engine"]), said or str(seen["summary"]))


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def logs(layout: Layout, part: str | None, *, follow: bool) -> int:
    """The last lines of each log, or of one, and what comes after them if ``follow``."""
    found = sorted(layout.log.glob("*.log")) if layout.log.is_dir() else []
    if not found:
        raise Problem("There are no logs yet: run `./roost up`.")
    if part is not None:
        found = [path for path in found if path.stem == part]
        if not found:
            known = ", ".join(sorted(path.stem for path in layout.log.glob("*.log")))
            raise Problem(f"There is no part {part!r}: there are {known}.")
    for path in found:
        if len(found) > 1:
            print(f"==> {path.stem} <==")
        print("\n".join(_tail(path, 200 if part else FRESH_LINES)), flush=True)
    if follow:
        _follow(found)
    return 0


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 400 * lines))
        return stream.read().decode(errors="replace").splitlines()[-lines:]


def _follow(paths: Sequence[Path]) -> None:
    """Print what is added to any of the files, across their rotation, until interrupted."""
    at = {path: (path.stat().st_ino, path.stat().st_size) for path in paths}
    while True:
        for path in paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            inode, place = at[path]
            if found.st_ino != inode or found.st_size < place:
                place = 0
            if found.st_size > place:
                with path.open("rb") as stream:
                    stream.seek(place)
                    text = stream.read().decode(errors="replace")
                prefix = f"{path.stem}: " if len(paths) > 1 else ""
                print("\n".join(prefix + line for line in text.splitlines()), flush=True)
            at[path] = (found.st_ino, found.st_size)
        time.sleep(0.3)
