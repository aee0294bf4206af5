#!/usr/bin/env python3
"""What a scrape costs with thousands of tenants, beside Debian's node exporter in the same run.

Tenants, conditions, checks, certificates, records, links and incidents are rows of a real PostgreSQL; gunicorn serves
/metrics as in production, and both are scraped over HTTP, packed, as Prometheus does. CPU seconds are those of the
serving processes; PostgreSQL's own are told apart.

    sudo ROOST_DATABASE_URL=postgresql://…/x bench/metrics.py [--tenants 10000] [--write docs/benchmarks.md]

Needs PostgreSQL (a database of its own is made and dropped) and the package prometheus-node-exporter.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gzip
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
DATABASE = "roost_bench_metrics"
WEB, EXPORTER = "127.70.9.1:8000", "127.70.9.2:9100"
TOKEN = "a-token-for-the-bench"
GOAL_S = 2.0
CHECKS = (
    *("resolve", "ports", "tls", "host-meta", "names", "certificates", "web", "login", "disco", "archive"),
    *("upload", "muc", "turn", "s2s", "clock"),
)
CONDITIONS = (
    *("DomainProven", "NodeAssigned", "DnsPublished", "CertificateIssued", "TurnReady", "ServerRunning"),
    *("EdgeRouted", "Verified", "Ready"),
)


@dataclass(frozen=True)
class Scraped:
    """Of several scrapes of one address: seconds of wall clock (median), and CPU of the process; sizes; memory."""

    series: int
    seconds: float
    worst_s: float
    cpu_s: float
    size: int
    packed: int
    rss_mib: float


def cpu_of(pids: list[int]) -> float:
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / ticks


def rss_of(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]


def scrape(url: str, token: str = "") -> bytes:
    headers = {"Accept-Encoding": "gzip", **({"Authorization": f"Bearer {token}"} if token else {})}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=120) as answer:
        return answer.read()


def measure(url: str, pids: list[int], rounds: int, token: str = "") -> Scraped:
    scrape(url, token)  # the first one imports
    times, began = [], cpu_of(pids)
    for _ in range(rounds):
        started = time.perf_counter()
        body = scrape(url, token)
        times.append(time.perf_counter() - started)
    cpu_s = (cpu_of(pids) - began) / rounds
    text = gzip.decompress(body)
    series = sum(1 for line in text.splitlines() if line and not line.startswith(b"#"))
    return Scraped(
        series, statistics.median(times), max(times), cpu_s, len(text), len(body), max(rss_of(pid) for pid in pids)
    )


@contextlib.contextmanager
def running(argv: list[str], url: str, token: str = "", **more: object) -> Iterator[int]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                scrape(url, token)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def database(tenants: int) -> Iterator[str]:
    """URL of a database with so many tenants."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    given = os.environ["ROOST_DATABASE_URL"]
    with psycopg.connect(make_conninfo(given, dbname="postgres"), autocommit=True) as server:
        name = sql.Identifier(DATABASE)
        server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        parts = conninfo_to_dict(given)
        url = f"postgresql://{parts.get('user', 'postgres')}@/{DATABASE}?host={parts.get('host', '')}"
        try:
            os.environ["ROOST_DATABASE_URL"] = url
            seed(tenants)
            yield url
        finally:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def seed(tenants: int) -> None:
    """Rows as a fleet of ten nodes would have them; one tenant in a hundred is not well."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    from controlplane.certificates.models import Certificate
    from controlplane.fleet.models import Node, Placement
    from controlplane.monitoring.models import CheckState, Incident, ProbePlace, ProbePlan, S2sLink
    from controlplane.reconcile.models import Condition, WorkItem
    from controlplane.zones.models import DnsRecord, Zone
    from tenants.models import Domain, Instance, Organisation, Plan

    for number in range(10):
        Node.objects.create(
            name=f"n{number}",
            address="192.0.2.1",
            instance_network=f"10.{number}.0.0/16",
            facts={"memory_mib": 65536, "disk_total_mib": 10**6, "disk_free_mib": 10**5, "load": 1.0, "cpus": 8},
        )
    Plan.objects.create(slug="basic", name="Basic")
    Zone.objects.create(name="roost.example")
    ProbePlace.objects.create(name="here", seen_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
    ill, each = "i.id % 100 = 0", "tenants_instance i"
    insert(Organisation, f"generate_series(1, {tenants}) n", slug="'org' || n", name="'Organisation ' || n")
    insert(
        Domain,
        "tenants_organisation o",
        name="'tenant' || o.id || '.roost.example'",
        organisation_id="o.id",
        mode="'provider'",
        proven_at="now()",
    )
    insert(
        Instance,
        "tenants_domain d, tenants_plan p",
        key="'k' || lpad(d.id::text, 7, '0')",
        organisation_id="d.organisation_id",
        domain_id="d.id",
        plan_id="p.id",
        engine="CASE WHEN d.id % 2 = 0 THEN 'prosody' ELSE 'ejabberd' END",
    )
    insert(
        Placement,
        f"{each} JOIN fleet_node n ON n.name = 'n' || i.id % 10",
        instance_id="i.id",
        node_id="n.id",
        address="('10.' || i.id / 65536 || '.' || i.id / 256 % 256 || '.' || i.id % 256)::inet",
        base_port="7000",
        proxy65_port="20000 + i.id",
        wanted_digest="'a'",
        applied_digest="'a'",
    )
    lacking = f"{ill} AND c IN ('ServerRunning', 'Ready')"
    insert(
        Condition,
        f"{each}, unnest(ARRAY{list(CONDITIONS)!r}) c",
        kind="'Instance'",
        object_id="i.key",
        type="c",
        status=f"CASE WHEN {lacking} THEN 'False' ELSE 'True' END",
        reason=f"CASE WHEN {lacking} THEN 'EngineSilent' ELSE 'AsWanted' END",
    )
    insert(
        WorkItem,
        f"{each}, unnest(ARRAY['Instance', 'Certificate', 'Roll']) k",
        kind="k",
        object_id="i.key",
        queue="'reconcile'",
        due_at="now() + random() * interval '60 s'",
    )
    insert(
        Certificate,
        each,
        instance_id="i.id",
        not_before="now() - interval '30 d'",
        not_after="now() + interval '60 d'",
        renew_at="now() + interval '30 d'",
    )
    insert(
        DnsRecord,
        f"zones_zone z, {each}, generate_series(1, 12) r",
        zone_id="z.id",
        instance_id="i.id",
        publisher="'ours'",
        name="r || '.' || i.key",
        type="'SRV'",
        ttl_s="60",
        published=f"NOT ({ill})",
    )
    insert(ProbePlan, each, place="'here'", instance_id="i.id")
    insert(
        CheckState,
        f"{each}, unnest(ARRAY{list(CHECKS)!r}) c",
        place="'here'",
        instance_id="i.id",
        check_name="c",
        state=f"CASE WHEN {ill} AND c = 'ports' THEN 'down' ELSE 'up' END",
        duration_ms="random() * 100",
    )
    insert(
        S2sLink,
        f"{each}, generate_series(1, 5) r",
        instance_id="i.id",
        remote="'remote' || r || '.example'",
        state="CASE WHEN i.id % 200 = 0 THEN 'down' ELSE 'up' END",
    )
    for key, where, end in (("o", f"{each} WHERE {ill}", "NULL::timestamptz"), ("e", each, "now() - interval '1 min'")):
        insert(
            Incident,
            where,
            key=f"'{key}' || i.id",
            kind="'check'",
            subject=f"'{key}:' || i.key || ':ports'",
            instance_id="i.id",
            cause="'EngineSilent'",
            started_at="now() - interval '1 h' * random()",
            ended_at=end,
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    connection.close()


def insert(model: Any, source: str, **columns: str) -> None:
    """Rows of a model from a query: ``columns`` as SQL, all others as the model's defaults."""
    from django.db import connection

    names, expressions, values = [], [], []
    for field in model._meta.concrete_fields:
        if field.column in columns:
            expressions.append(columns[field.column].replace("%", "%%"))
        elif field.primary_key:
            continue
        else:
            expressions.append("%s")
            values.append(field.get_db_prep_save(field.get_default(), connection))
        names.append(f'"{field.column}"')
    statement = f"INSERT INTO {model._meta.db_table} ({', '.join(names)}) SELECT {', '.join(expressions)} FROM "
    with connection.cursor() as cursor:
        cursor.execute(statement + source.replace("%", "%%"), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", metavar="FILE", help="append the table to this file")
    given = parser.parse_args()
    exporter = shutil.which("prometheus-node-exporter") or sys.exit("Install Debian's prometheus-node-exporter.")
    os.environ["DJANGO_SETTINGS_MODULE"] = "controlplane.settings.test"
    sys.path.insert(0, str(CLONE))
    metrics = Path(tempfile.mkdtemp(prefix="bench-metrics-"))
    try:
        with database(given.tenants) as url:
            environment = {
                **os.environ,
                "ROOST_DATABASE_URL": url,
                "ROOST_METRICS_TOKEN": TOKEN,
                "ROOST_METRICS_DIR": str(metrics),
                "ROOST_ALLOWED_HOSTS": "127.70.9.1",
                "PYTHONPATH": str(CLONE),
            }
            argv = [sys.executable, "-m", "gunicorn", "controlplane.wsgi", "--bind", WEB, "--threads", "4"]
            with running([*argv, "--timeout", "120"], f"http://{WEB}/healthz", env=environment, cwd=CLONE) as pid:
                ours = measure(f"http://{WEB}/metrics", children(pid), given.rounds, TOKEN)
                text = gzip.decompress(scrape(f"http://{WEB}/metrics", TOKEN)).decode()
        parts = [line for line in text.splitlines() if line.startswith("roost_scrape_part_")]
        failed = [line for line in parts if line.startswith("roost_scrape_part_failed") and line.endswith(" 1")]
        if failed:
            sys.exit(f"A part failed: {failed}")
        url = f"http://{EXPORTER}/metrics"
        with running([exporter, f"--web.listen-address={EXPORTER}"], url) as pid:
            theirs = measure(url, [pid], given.rounds)
    finally:
        shutil.rmtree(metrics, ignore_errors=True)
    report(given.tenants, ours, theirs, parts, given.write)


def report(tenants: int, ours: Scraped, theirs: Scraped, parts: list[str], write: str | None) -> None:
    took = {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in parts if "part_seconds" in line}
    rows = [
        ("series", f"{ours.series:,}", f"{theirs.series:,}"),
        ("a scrape, median (worst)", *(f"{s.seconds:.2f} s ({s.worst_s:.2f} s)" for s in (ours, theirs))),
        ("CPU of the serving process, a scrape", *(f"{s.cpu_s:.2f} s" for s in (ours, theirs))),
        ("CPU for each series", *(f"{1e6 * s.cpu_s / s.series:.1f} µs" for s in (ours, theirs))),
        ("wall clock for each series", *(f"{1e6 * s.seconds / s.series:.1f} µs" for s in (ours, theirs))),
        ("size, and packed", *(f"{s.size / 1024:,.0f} KiB, {s.packed / 1024:,.0f} KiB" for s in (ours, theirs))),
        ("memory of the serving process", *(f"{s.rss_mib:.0f} MiB" for s in (ours, theirs))),
    ]
    load = os.getloadavg()[0]
    lines = [
        f"\n## {datetime.datetime.now(datetime.UTC).date()}: a scrape of all metrics",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, at a load of {load:.0f} beside other work. "
        f"`bench/metrics.py --tenants {tenants}`: gunicorn with one",
        "process and PostgreSQL on the same machine, scraped over HTTP, packed. The goal was less than "
        f"{GOAL_S:.0f} s; the median is {'below' if ours.seconds < GOAL_S else 'above'} it.",
        "",
        f"| | Roost, {tenants:,} tenants | node exporter of Debian |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Of the last scrape: "
        + ", ".join(f"{name} {taken:.2f} s" for name, taken in took.items() if taken > 0.005)
        + ".",
    ]
    print("\n".join(lines))
    if write:
        with Path(write).open("a") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
