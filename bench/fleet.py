#!/usr/bin/env python3
"""What a fleet costs: converging hosts of a lab with ten tenants each, and the reconciler with thousands of instances.

    sudo bench/fleet.py throughput [--instances 2000] [--write docs/benchmarks.md]
    sudo bench/fleet.py hosts [--write docs/benchmarks.md]

``throughput`` needs a stack that runs (`./roost up`) for its PostgreSQL; it makes a database of its own there and drops
it. ``hosts`` brings labs of 1, 3 and 6 hosts up, one after the other, and takes them down again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent
VAR = CLONE / os.environ.get("ROOST_VAR", "var")
DATABASE = "roost_bench"


def enter_stack() -> None:
    """Run again under the stack's own Python, with settings of the tests and a database of this program's own."""
    if os.environ.get("ROOST_BENCH"):
        return
    url = os.environ.get("ROOST_BENCH_POSTGRES") or f"postgresql://postgres@/postgres?host={VAR}/pg/run"
    python = os.environ.get("ROOST_BENCH_PYTHON") or str(VAR / "venv" / "bin" / "python")
    if not Path(python).exists():
        sys.exit("There is no running stack: run `./roost up` first.")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "LANG": "C.UTF-8",
        "ROOST_BENCH": "1",
        "ROOST_BENCH_SERVER": url,
        "ROOST_DATABASE_URL": url.replace("/postgres?", f"/{DATABASE}?"),
        "DJANGO_SETTINGS_MODULE": "controlplane.settings.test",
        "PYTHONPATH": str(CLONE),
        "ROOST_LOG_LEVEL": "ERROR",
    }
    os.execve(python, [python, __file__, *sys.argv[1:]], environment)


def server(statement: str) -> None:
    """One statement of this program's own, as the cluster's owner."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(os.environ["ROOST_BENCH_SERVER"], autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(DATABASE)))


def throughput(sizes: list[int], workers: list[int]) -> list[tuple[str, str]]:
    """Rows of the table: for each number of instances the way to Ready, and the pass that finds all well."""
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    from bench import simulated

    rows = []
    for size in sizes:
        server("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        server("CREATE DATABASE {}")
        try:
            call_command("migrate", verbosity=0)
            simulated.agree()
            made_s = simulated.make(size)
            rows.append((f"{size} instances made by the service", f"{size / made_s:.0f} a second"))
            rows.append((f"{size} instances from nothing to Ready", str(simulated.until_ready(max(workers)))))
            print(rows[-1], flush=True)
            for number in workers:
                rate = simulated.phase(number)
                rows.append((f"{size} instances that are well, {number} worker processes", str(rate)))
                print(rows[-1], flush=True)
        finally:
            connection.close()
            server("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    return rows


def hosts(sizes: list[int]) -> list[tuple[str, str]]:
    """Rows of the table: labs of so many hosts, one after the other."""
    rows = []
    for size in sizes:
        argv = ["/usr/bin/python3.11", "-m", "bench.labs", str(size)]
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "PYTHONPATH": str(CLONE)}
        done = subprocess.run(argv, cwd=CLONE, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"The lab of {size} hosts failed.")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        name, count = f"{size} host{'s' if size > 1 else ''}", found["tenants"]
        each = ", ".join(f"{host} {number}" for host, number in sorted(found["placed"].items()))
        used = ", ".join(f"{engine} {mib:.0f} MiB" for engine, mib in sorted(found["memory_mib"].items()))
        rows += [
            (f"{name}: from nothing to enrolled and prepared", f"{found['up_s']:.0f} s"),
            (
                f"{name}: {count} tenants at once, first call to the last Ready",
                f"{found['ready_s']:.1f} s ({found['ready_s'] / count:.2f} s a tenant; placed {each})",
            ),
            (
                f"{name}: a change of all {count} tenants, until the last is Ready again",
                f"{found['changed_s']:.1f} s ({found['changed_s'] / count:.2f} s a tenant)",
            ),
            (f"{name}: memory of an idle tenant (proportional set size)", used),
        ]
        for row in rows[-4:]:
            print(row, flush=True)
    return rows


def report(title: str, rows: list[tuple[str, str]]) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    lines = [f"## {today}: {title}", "", f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}.", ""]
    return "\n".join([*lines, "| measured | result |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "hosts"])
    parser.add_argument("--instances", type=int, default=2000, help="how many at most (default: 2000)")
    parser.add_argument("--explain", action="store_true", help="print what a decision sends, phase by phase")
    parser.add_argument("--write", metavar="FILE", help="append the table to this file")
    options = parser.parse_args()
    if options.what == "hosts":
        text = report("labs of hosts over SSH", hosts([1, 3, 6]))
    else:
        enter_stack()
        from bench import simulated

        simulated.explain = options.explain
        text = report("the reconciler alone", throughput([options.instances // 10, options.instances], [1, 2]))
    print(text)
    if options.write:
        path = Path(options.write)
        path.write_text(f"{path.read_text().rstrip()}\n\n{text}")


if __name__ == "__main__":
    main()
