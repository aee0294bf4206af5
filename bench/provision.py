#!/usr/bin/env python3
"""How long from an API call to Ready, for one tenant and for twenty at once, against plain ansible-playbook runs.

Needs a stack that runs (`./roost up`); makes tenants of its own in it and removes them. The baseline applies the same
files, users and processes by ordinary tasks, one playbook run per tenant, as one would without Roost; it does neither
DNS nor certificates nor a client's walk, all of which are in Roost's times.

    sudo bench/provision.py [--tenants 20] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
VAR = CLONE / os.environ.get("ROOST_VAR", "var")
ENGINES = ("prosody", "ejabberd")


def enter_stack() -> None:
    """Run again under the stack's own Python and settings."""
    if os.environ.get("ROOST_BENCH"):
        return
    environment = VAR / "environment"
    if not environment.exists():
        sys.exit("There is no running stack: run `./roost up` first.")
    values = dict(line.split("=", 1) for line in environment.read_text().splitlines() if "=" in line)
    python = str(VAR / "venv" / "bin" / "python")
    env = {**os.environ, **values, "ROOST_BENCH": "1", "PYTHONPATH": str(CLONE)}
    os.execve(python, [python, __file__, *sys.argv[1:]], env)


class Api:
    """The REST API with a token of its own, revoked at the end."""

    def __init__(self) -> None:
        import requests

        from tenants import services
        from tenants.principal import ALL_SCOPES, SYSTEM

        self._row, secret = services.create_token(
            name="bench", organisation=None, scopes=sorted(ALL_SCOPES), principal=SYSTEM
        )
        self.base = os.environ["ROOST_BASE_URL"] + "/api/v1"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {secret.reveal()}"

    def call(self, method: str, path: str, **data: Any) -> Any:
        answer = self.session.request(method, self.base + path, json=data or None, timeout=60)
        if not answer.ok:
            sys.exit(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def close(self) -> None:
        from tenants import services
        from tenants.principal import SYSTEM

        services.revoke_token(token=self._row, principal=SYSTEM)


def create(api: Api, organisation: str, number: int, engine: str) -> str:
    domain = f"{organisation}-{number}.{os.environ['ROOST_PROVIDER_ZONE']}"
    body = {"domain": domain, "engine": engine, "plan": "bench"}
    made: dict[str, Any] = api.call("POST", f"/organisations/{organisation}/instances/", **body)
    return str(made["key"])


def wait_ready(api: Api, keys: list[str], limit_s: float = 600) -> dict[str, float]:
    """Key -> the moment (time.monotonic) at which it was seen Ready."""
    done: dict[str, float] = {}
    deadline = time.monotonic() + limit_s
    while len(done) < len(keys):
        if time.monotonic() > deadline:
            sys.exit(f"Not Ready after {limit_s:.0f} s: {sorted(set(keys) - set(done))}")
        for item in api.call("GET", "/instances/?limit=1000")["results"]:
            if item["key"] in keys and item["key"] not in done and item["ready"]:
                done[item["key"]] = time.monotonic()
        time.sleep(0.1)
    return done


def timeline(key: str) -> dict[str, float]:
    """Seconds of one tenant's way: in all, at the CA, in the node's run, in the walk, and what is left over."""
    from controlplane.certificates.models import Order
    from controlplane.provisioning.models import Walk
    from controlplane.reconcile.models import Event
    from tenants.models import Instance

    instance = Instance.objects.get(key=key)
    events = Event.objects.filter(kind="Instance", object_id=key)
    ready = events.filter(type="Ready=True").order_by("id").first()
    running = events.filter(type="ServerRunning=True").order_by("id").first()
    order = Order.objects.filter(certificate__instance=instance, state="issued").order_by("id").first()
    assert ready is not None
    assert running is not None
    assert order is not None
    assert order.finished_at is not None
    runs = Event.objects.filter(
        kind="Node", type="Converged", at__gte=order.finished_at, at__lte=running.at + datetime.timedelta(seconds=1)
    )
    node_s = max((float(run.message.split(" in ")[1].split(" s")[0]) for run in runs), default=0.0)
    all_s = (ready.at - instance.created_at).total_seconds()
    acme_s = (order.finished_at - order.created_at).total_seconds()
    walk_s = Walk.objects.get(instance=instance).duration_s
    return {"all": all_s, "acme": acme_s, "node": node_s, "walk": walk_s, "own": all_s - acme_s - node_s}


def memory_mib(key: str) -> float:
    """Proportional set size of all processes of the tenant's user."""
    import pwd

    uid = pwd.getpwnam(f"r-{key}").pw_uid
    total = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if directory.stat().st_uid != uid:
                continue
            for line in (directory / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


def twin_of(key: str, number: int) -> dict[str, Any]:
    """A real tenant's bundle as JSON, under another name, directory and address, so that both can run."""
    from controlplane.fleet.models import Placement
    from controlplane.provisioning.subject import Subject
    from tenants.models import Instance

    subject = Subject(Instance.objects.whole().get(key=key))
    placement = Placement.objects.select_related("node").get(instance__key=key)
    bundle = subject.bundle("running").as_json()
    twin = f"b{number:02}{key[3:]}"
    root = f"{placement.node.root}/{twin}"
    address = f"127.{placement.address.split('.')[1]}.250.{number + 1}"
    text = json.dumps(bundle).replace(bundle["root"], root).replace(f"r-{key}", f"r-{twin}")
    moved: dict[str, Any] = json.loads(text)
    for file in moved["files"]:
        content = base64.b64decode(file["content_b64"])
        if not file["path"].startswith("certs/"):
            content = content.replace(bundle["root"].encode(), root.encode())
            content = content.replace(placement.address.encode(), address.encode())
        file["content_b64"] = base64.b64encode(content).decode()
    moved["key"] = twin
    return moved


def baseline(keys: list[str]) -> list[float]:
    """Wall time of one plain playbook run per tenant, each with the files of a real one; removed afterwards."""
    from controlplane import wiring
    from controlplane.fleet.models import Node
    from controlplane.fleet.services import target_of
    from controlplane.reconcile.models import WorkItem
    from controlplane.values.bundle import ABSENT, Bundle, Program

    node = Node.objects.get()
    target = target_of(node)
    times, twins = [], []
    for number, key in enumerate(keys):
        bundle = twin_of(key, number)
        twins.append(bundle)
        variables = {
            **bundle,
            "runtime_dir": target.runtime_dir,
            "state_dir": target.state_dir,
            "supervisor_socket": target.supervisor_socket,
            "supervisorctl": str(Path(sys.executable).parent / "supervisorctl"),
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(variables, file)
            file.flush()
            started = time.monotonic()
            run_playbook(file.name)
            times.append(time.monotonic() - started)
        print(f"  playbook run {number + 1}: {times[-1]:.2f} s", flush=True)
    gone = [
        Bundle(b["key"], b["user"], b["root"], b["control_group"], Program(("/bin/false",)), state=ABSENT)
        for b in twins
    ]
    fence = WorkItem.objects.get(kind="Node", object_id=node.name).fence
    wiring.node_driver().converge(target, gone, fence=fence, timeout_s=120)
    return times


def run_playbook(variables: str) -> None:
    here = CLONE / "bench" / "ansible_baseline"
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*argv, str(here / "tenant.yml"), "-e", f"@{variables}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(here / "ansible.cfg")},
        timeout=300,
    )
    if done.returncode:
        sys.exit(f"The baseline failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")


def remove(api: Api, keys: list[str], organisation: str) -> None:
    for key in keys:
        api.call("POST", f"/instances/{key}/terminate/", grace_s=0)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        left = {item["key"] for item in api.call("GET", "/instances/?limit=1000")["results"]}
        if not left & set(keys):
            break
        time.sleep(0.5)
    api.call("DELETE", f"/organisations/{organisation}/")


def report(rows: list[tuple[str, str]], details: list[str]) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    lines = [f"## {today}", "", f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}.", ""]
    lines += [
        "| measured | result |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        *details,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tenants", type=int, default=20, help="how many at once, half of each engine (default: 20)")
    parser.add_argument("--write", metavar="FILE", help="append the table to this file")
    parser.add_argument("--no-baseline", action="store_true", help="leave the playbook runs out")
    options = parser.parse_args()
    enter_stack()
    import django

    django.setup()
    from tenants.models import Plan

    Plan.objects.get_or_create(
        slug="bench", defaults={"name": "Bench", "max_instances": 1000, "memory_mib": 256, "open": True}
    )
    api = Api()
    organisation = f"bench{int(time.time()) % 1_000_000}"
    api.call("POST", "/organisations/", slug=organisation, name="Benchmark")
    keys: list[str] = []
    rows: list[tuple[str, str]] = []
    single: dict[str, float] = {}
    for number, engine in enumerate(ENGINES):
        started = time.monotonic()
        key = create(api, organisation, number, engine)
        keys.append(key)
        single[engine] = wait_ready(api, [key])[key] - started
        parts = timeline(key)
        rows.append(
            (
                f"one {engine} tenant, API call to Ready",
                f"{single[engine]:.2f} s (CA {parts['acme']:.2f} s, ansible and engine start {parts['node']:.2f} s, "
                f"the rest {parts['own']:.2f} s of which the client's walk {parts['walk']:.2f} s)",
            )
        )
        print(rows[-1], flush=True)
    started = time.monotonic()
    many = [create(api, organisation, 100 + n, ENGINES[n % 2]) for n in range(options.tenants)]
    asked_s = time.monotonic() - started
    keys += many
    seen = wait_ready(api, many)
    many_s = max(seen.values()) - started
    median_s = statistics.median(seen.values()) - started
    rows.append(
        (
            f"{options.tenants} tenants at once, first call to the last Ready",
            f"{many_s:.2f} s (median {median_s:.2f} s)",
        )
    )
    rows.append((f"the {options.tenants} API calls themselves", f"{asked_s:.2f} s"))
    print(rows[-2], flush=True)
    time.sleep(5)
    for engine, own in zip(ENGINES, (many[0::2], many[1::2]), strict=True):
        used = statistics.median(memory_mib(key) for key in own)
        rows.append((f"memory of an idle {engine} tenant (proportional set size)", f"{used:.0f} MiB"))
    details: list[str] = []
    if not options.no_baseline:
        times = baseline(many)
        total = sum(times)
        for index, engine in enumerate(ENGINES):
            rows.append((f"one plain playbook run, {engine}", f"{statistics.median(times[index::2]):.2f} s"))
        rows.append((f"{options.tenants} plain playbook runs, one after the other", f"{total:.2f} s"))
        rows.append(("Roost against the playbook runs", f"{total / many_s:.1f} times faster"))
        details.append(
            "The playbook runs do the node's part alone; Roost's times hold DNS, certificate, TURN, edge and a "
            "client's walk too."
        )
    remove(api, keys, organisation)
    api.close()
    text = report(rows, details)
    print(text)
    if options.write:
        path = Path(options.write)
        head = path.read_text() if path.exists() else "# Benchmarks\n\nMade by `bench/provision.py`; newest last.\n"
        path.write_text(f"{head.rstrip()}\n\n{text}")


if __name__ == "__main__":
    main()
