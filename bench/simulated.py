"""Instances by the thousand whose outside steps answer at once: what the reconciler itself costs.

Queue, passes, conditions, history and all queries are the product's own, on a PostgreSQL database of its own that is
made and dropped. Engines, edges, TURN server, DNS server, CA, node runs and the client's walk agree at once.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

#: So many simulated nodes carry the instances.
NODES = 10
#: Whether each worker prints which statements its passes sent, and how many of each a pass.
explain = False


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one phase: decisions (passes over an instance), seconds, database queries, and the workers' CPU seconds."""

    passes: int
    seconds: float
    queries: int
    cpu_s: float

    def __str__(self) -> str:
        each = max(1, self.passes)
        return (
            f"{self.passes / max(self.seconds, 1e-9):.0f} decisions/s, {self.queries / each:.1f} queries and "
            f"{1000 * self.cpu_s / each:.1f} ms of CPU each"
        )


class Engine:
    """A control channel that is well."""

    def health(self) -> Any:
        from controlplane.drivers.engine.base import Health

        return Health("simulated", 100.0, 3)

    def create_account(self, *_: object) -> bool:
        return True

    def reload(self) -> None:
        pass


class Turn:
    """A TURN server that has every secret."""

    def has_secret(self, *_: object) -> bool:
        return True

    def add_secret(self, *_: object) -> bool:
        return False


class Edge:
    """A routing table in memory."""

    def __init__(self) -> None:
        self.hosts: dict[str, Any] = {}
        self.ports: dict[int, str] = {}

    def lookup(self, hosts: Sequence[Any], port: int) -> tuple[Mapping[str, Any], str | None]:
        return {h.ascii: self.hosts[h.ascii] for h in hosts if h.ascii in self.hosts}, self.ports.get(port)

    leads = lookup

    def publish(self, hosts: Sequence[Any], backend: Any, port: int) -> bool:
        return self.set_routes(hosts, backend) and self.set_tcp_port(port, backend.address)

    def set_routes(self, hosts: Sequence[Any], backend: Any) -> bool:
        self.hosts.update({h.ascii: backend for h in hosts})
        return True

    def set_tcp_port(self, port: int, address: str) -> bool:
        self.ports[port] = address
        return True

    def remember(self) -> None:
        """Know what an earlier phase's workers were told."""
        from controlplane.drivers.edge.base import Backend
        from controlplane.fleet.models import EdgeRoute

        for row in EdgeRoute.objects.exclude(routed_at=None):
            self.hosts.update({host: Backend(row.address, row.base_port) for host in row.hosts})
            self.ports[row.proxy65_port] = row.address


def agree() -> Edge:
    """Put the objects above where the product asks for its drivers; in each process anew."""
    from django.conf import settings

    from controlplane import wiring
    from controlplane.probes.report import StepResult, WalkReport
    from controlplane.provisioning.steps import verified
    from controlplane.provisioning.subject import Subject
    from controlplane.reconcile import watch

    settings.ROOST = {
        **settings.ROOST,
        "TURN_HOST": "turn.roost.example",
        "TURN_REALM": "turn.roost.example",
        "PROXY65_PORTS": (10000, 65000),
        "TRUST_SYSTEM": True,
        "WAKE": "none",
        "FAULT_DIR": "",
    }
    edge = Edge()
    wiring.edge_driver = lambda *_, **__: edge  # type: ignore[assignment]
    wiring.turn_driver = Turn  # type: ignore[assignment]
    control = functools.cached_property(lambda _: Engine())
    control.__set_name__(Subject, "control")
    Subject.control = control  # type: ignore[assignment]
    steps = tuple(StepResult(name, True, False, "fine", 0.1) for name in ("login", "s2s"))
    verified.walk = lambda _: WalkReport(steps, 1.0)  # type: ignore[attr-defined]
    for kind in ("Zone", "Node", "Certificate"):
        watch.register(kind, "bench.simulated.others_do_it")
    return edge


def others_do_it(_: object) -> Any:
    """The passes of zones, nodes and certificates; ``do_their_part`` writes what they would."""
    from controlplane.reconcile.watch import Next

    return Next(36000)


def make(count: int) -> float:
    """``count`` instances of one organisation, half of each engine, by the service that the API calls; seconds."""
    from controlplane.fleet.models import Node
    from tenants import services
    from tenants.principal import SYSTEM

    for number in range(NODES):
        Node.objects.create(
            name=f"n{number}",
            connection="local",
            address="localhost",
            instance_network=f"10.{number}.0.0/16",
            memory_mib=10**8,
            public_addresses=["192.0.2.1"],
        )
    plan = services.create_plan(slug="basic", name="Basic", max_instances=100_000, principal=SYSTEM)
    acme = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    started = time.monotonic()
    for number in range(count):
        services.create_instance(
            organisation=acme,
            domain=f"t{number}.roost.example",
            engine=("prosody", "ejabberd")[number % 2],
            plan=plan,
            principal=SYSTEM,
        )
    return time.monotonic() - started


def do_their_part() -> None:
    """What the zone's, the certificates' and the nodes' passes would write, for all instances."""
    from django.conf import settings
    from django.db.models import F
    from django.utils import timezone

    from controlplane import vault
    from controlplane.certificates.models import AcmeAccount, Certificate
    from controlplane.fleet.models import Placement
    from controlplane.reconcile.models import Condition
    from controlplane.values.secret import Secret
    from controlplane.zones.models import DnsRecord
    from tests.servers.little_ca import LittleCa

    ca = LittleCa()
    AcmeAccount.objects.get_or_create(
        directory_url=settings.ROOST["ACME_DIRECTORY"], defaults={"key_sealed": "-", "roots_pem": ca.root_pem}
    )
    now = timezone.now()
    DnsRecord.objects.filter(published=False).update(published=True, created_by_us=True, checked_at=now)
    Placement.objects.exclude(wanted_digest="").update(
        applied_digest=F("wanted_digest"), loaded_digest=F("wanted_digest"), applied_at=now
    )
    for row in Certificate.objects.filter(chain_pem="").select_related("instance"):
        chain, key = ca.issue(row.names)
        row.chain_pem, row.key_sealed = chain, vault.seal(f"certificate:{row.instance.key}", Secret(key))
        row.serial = "01"
        row.save(update_fields=["chain_pem", "key_sealed", "serial"])
        Condition.objects.update_or_create(
            kind="Certificate", object_id=row.instance.key, type="Issued", defaults={"status": "True"}
        )


def phase(workers: int) -> Rate:
    """All instances are due now: let so many worker processes decide once for each of them.

    No more than that: those that wait for others fall due again while the last ones are still to be seen for the
    first time, and a phase would never end.
    """
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM reconcile_workitem WHERE kind <> 'Instance'")
        cursor.execute("UPDATE reconcile_workitem SET due_at = clock_timestamp(), nudged = false")
        cursor.execute("SELECT count(*) FROM reconcile_workitem")
        (due,) = cursor.fetchone()
    connection.close()
    context = multiprocessing.get_context("fork")
    left = context.Value("q", due)
    pairs = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=_work, args=(child, left)) for _, child in pairs]
    for process in processes:
        process.start()
    for parent, _ in pairs:
        parent.recv()  # it is ready
    started = time.monotonic()
    for parent, _ in pairs:
        parent.send("go")
    results = [parent.recv() for parent, _ in pairs]
    seconds = time.monotonic() - started
    for process in processes:
        process.join()
    return Rate(sum(r[0] for r in results), seconds, sum(r[1] for r in results), sum(r[2] for r in results))


def _work(pipe: Connection, left: Any) -> None:
    """One worker: claims and decides as Celery's do while any of ``left`` are; it counts each pass's queries."""
    from django.db import connection

    from controlplane.reconcile import loop

    agree().remember()
    count = {"queries": 0, "passes": 0, "counted": 0}

    def counting(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        count["queries"] += 1
        if explain:
            sent[_worded(sql)] += 1
        return execute(sql, params, many, context)

    sent: Counter[str] = Counter()
    run = loop._run

    def counted(lease: Any) -> Any:
        before = count["queries"]
        ended = run(lease)
        if lease.kind == "Instance":
            count["passes"] += 1
            count["counted"] += 1 + count["queries"] - before  # one for the claim
        return ended

    loop._run = counted
    connection.ensure_connection()
    pipe.send("ready")
    pipe.recv()
    cpu = _cpu_s()
    with connection.execute_wrapper(counting):
        while _one_of(left) and loop.run_one(["reconcile"]):
            pass
    pipe.send((count["passes"], count["counted"], _cpu_s() - cpu))
    for sql, number in sent.most_common():
        print(f"{number / max(1, count['passes']):7.2f}  {sql}", file=sys.stderr)
    print(file=sys.stderr, end="\n" if sent else "", flush=True)


def _worded(sql: str) -> str:
    """The statement without its columns and values, so that like ones are counted together."""
    text = re.sub(r"SELECT .*? FROM", "SELECT … FROM", " ".join(sql.split()))
    text = re.sub(r'"s\d+_x\d+"', "…", re.sub(r"\(?%s\)?(, \(?%s\)?)*", "%s", text))
    return f"{text[:150]}…" if len(text) > 150 else text


def _one_of(left: Any) -> bool:
    with left.get_lock():
        left.value -= 1
        return bool(left.value >= 0)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def until_ready(workers: int, limit: int = 12) -> Rate:
    """From the first pass to the one that finds all Ready; the sum of all phases."""
    total = Rate(0, 0.0, 0, 0.0)
    for _ in range(limit):
        rate = phase(workers)
        total = Rate(*(a + b for a, b in zip(dataclasses.astuple(total), dataclasses.astuple(rate), strict=True)))
        if all_ready():
            return total
        do_their_part()
    raise SystemExit("The simulated instances do not become Ready: " + why_not())


def all_ready() -> bool:
    from controlplane.reconcile.models import Condition
    from tenants.models import Instance

    ready = Condition.objects.filter(kind="Instance", type="Ready", status="True").count()
    return bool(ready == Instance.objects.count())


def why_not() -> str:
    from controlplane.reconcile.models import Condition

    row = Condition.objects.filter(kind="Instance").exclude(status="True").exclude(type="Ready").first()
    return f"{row}: {row.message}" if row else "no condition says why"
