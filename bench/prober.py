#!/usr/bin/env python3
"""How many tenants one prober process looks at per minute and core, beside Prometheus' blackbox exporter.

Starts a small real world of its own on loopback addresses: Knot, one Prosody with a dozen domains, coturn. Figures are
CPU seconds of the process that looks, since the servers share the machine with it; the projection is from those.
The hour at the end is simulated: rounds that answer at once, with all of the prober's own work and its database.

    sudo ROOST_DATABASE_URL=postgresql://…/x bench/prober.py [--seconds 20] [--tenants 1000] [--rounds 120]

Needs PostgreSQL for the last part (a database of its own is made and dropped), as root for port 53.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings.test")

DOMAINS = (
    "good.example",
    "other.example",
    "nomam.example",
    "muteupload.example",
    "muterooms.example",
    "noroomarchive.example",
    "lockedrooms.example",
    "nocarbons.example",
    "nopep.example",
    "noturn.example",
    "noextdisco.example",
    "badturn.example",
)
BLACKBOX = ("127.67.0.9", 9115)
GOAL_PER_MINUTE = 10_000
CORES = 2


@dataclass(frozen=True)
class Rate:
    """``count`` looks in ``seconds`` of wall clock with ``cpu_s`` of the looking process."""

    what: str
    count: int
    seconds: float
    cpu_s: float
    failed: int

    @property
    def each_ms(self) -> float:
        return 1000 * self.cpu_s / max(1, self.count)

    def __str__(self) -> str:
        if self.failed == self.count:
            return f"| {self.what} | {self.count} | – | – | – | all |"
        per_core = 60_000 / max(self.each_ms, 1e-6)
        return (
            f"| {self.what} | {self.count} | {self.each_ms:.2f} ms | {per_core:,.0f} |"
            f" {60 * self.count / self.seconds:,.0f} | {self.failed} |"
        )


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextlib.contextmanager
def world() -> Iterator[Any]:
    from tests.contract.probes import world as w
    from tests.contract.probes.ca import Authority

    directory = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        good, rogue = Authority("good root"), Authority("rogue root")
        made = w.World(directory, good.pem)
        certs = directory / "prosody" / "certs"
        certs.mkdir(parents=True)
        (certs / "ca.pem").write_text(good.pem)
        for host in (host for host in w.HOSTS if host.engine == w.PROSODY):
            authority = rogue if host.issuer == "rogue" else good
            made.serials[host.domain] = authority.issue(
                certs, host.domain, host.certificate_names(), expired=host.issuer == "expired"
            )
        with contextlib.ExitStack() as stack:
            stack.enter_context(w.knot(directory / "knot"))
            stack.enter_context(w.prosody(directory / "prosody"))
            stack.enter_context(w.turn(directory / "turn"))
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def measure(
    what: str,
    look: Callable[[int], Awaitable[bool]],
    *,
    seconds: float,
    at_once: int,
    cpu: Callable[[], float] = time.process_time,
) -> Rate:
    """``look(number)`` again and again, so many at once; a few go before that are not counted."""
    for number in range(len(DOMAINS)):
        await look(number)
    numbers = iter(range(10**9))
    counts = {True: 0, False: 0}
    deadline = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < deadline:
            counts[await look(next(numbers))] += 1

    began, used = time.monotonic(), cpu()
    await asyncio.gather(*(one() for _ in range(at_once)))
    return Rate(what, sum(counts.values()), time.monotonic() - began, cpu() - used, counts[False])


async def ours(made: Any, seconds: float) -> list[Rate]:
    from controlplane.probes import trust
    from controlplane.probes.contact import contact
    from controlplane.probes.lookup import Endpoint
    from controlplane.probes.quick import Quick, QuickSubject
    from controlplane.probes.walk import WalkSubject, walk_along
    from controlplane.values.names import DomainName
    from controlplane.values.secret import Secret
    from controlplane.values.spec import Components
    from tests.contract.probes import world as w

    names = {domain: Components.below(DomainName(domain)) for domain in DOMAINS}
    quick = Quick((w.DNS, 53), made.roots_pem)
    subjects = [
        QuickSubject(d, tuple(n.ascii for n in names[d].all()), f"{made.serials[d]:x}", w.HTTPS_PORT) for d in DOMAINS
    ]

    async def cheap(number: int, *, thorough: bool = False) -> bool:
        subject = subjects[number % len(subjects)]
        seen = await quick.look(subject, number=number // len(subjects), thorough=thorough)
        return seen.ok

    async def thorough(number: int) -> bool:
        return await cheap(number, thorough=True)

    def one_port(service: str) -> Callable[[int], Awaitable[bool]]:
        context = trust.client_context(made.roots_pem, trust.XMPP_CLIENT if service == "xmpps-client" else None)

        async def look(number: int) -> bool:
            domain = DOMAINS[number % len(DOMAINS)]
            endpoint = Endpoint(service, f"xmpp.hosts.{domain}", w.PROSODY, w.SERVICES[service])
            return (await contact(endpoint, domain, context)).error is None

        return look

    async def full(number: int) -> bool:
        domain = ("good.example", "other.example")[number % 2]
        report = await walk_along(
            WalkSubject(
                domain=DomainName(domain),
                components=names[domain],
                account="roost-probe",
                password=Secret(w.PASSWORD),
                resolver=made.resolver,
                trust_roots=made.roots_pem,
                expected_serial=f"{made.serials[domain]:x}",
                https_port=w.HTTPS_PORT,
            )
        )
        return report.ok

    try:
        return [
            await measure("cheap round, thin (its usual form)", cheap, seconds=seconds, at_once=8),
            await measure("cheap round, thorough (after a doubt)", thorough, seconds=seconds / 2, at_once=4),
            await measure("full walk", full, seconds=seconds, at_once=2),
            await measure("one port: TCP + STARTTLS", one_port("xmpp-client"), seconds=seconds / 2, at_once=4),
            await measure("one port: TCP + direct TLS", one_port("xmpps-client"), seconds=seconds / 2, at_once=4),
        ]
    finally:
        quick.asker.close()


def blackbox_config(made: Any) -> str:
    """A module for each domain and way, since the name to check for is a module's."""
    modules: dict[str, Any] = {}
    for domain in DOMAINS:
        tls = {"ca_file": str(made.directory / "prosody" / "certs" / "ca.pem"), "server_name": domain}
        header = (
            f"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{domain}'"
            " version='1.0'>"
        )
        talk = [
            {"send": header},
            {"expect": "starttls"},
            {"send": "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"},
            {"expect": "proceed"},
            {"starttls": True},
        ]
        modules[f"starttls-{domain}"] = {
            "prober": "tcp",
            "timeout": "3s",
            "tcp": {"query_response": talk, "tls_config": tls},
        }
        modules[f"tls-{domain}"] = {"prober": "tcp", "timeout": "3s", "tcp": {"tls": True, "tls_config": tls}}
    return json.dumps({"modules": modules})  # JSON is YAML


async def blackbox(made: Any, program: str, seconds: float) -> list[Rate]:
    from tests.contract.probes import world as w

    config = made.directory / "blackbox.yml"
    config.write_text(blackbox_config(made))
    listen = f"{BLACKBOX[0]}:{BLACKBOX[1]}"
    process = subprocess.Popen(
        [program, f"--config.file={config}", f"--web.listen-address={listen}", "--log.level=error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "GOMAXPROCS": "1"},
    )
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    def probe(way: str, port: int) -> Callable[[int], Awaitable[bool]]:
        async def look(number: int) -> bool:
            domain = DOMAINS[number % len(DOMAINS)]
            reader, writer = await asyncio.open_connection(*BLACKBOX)
            path = f"/probe?target={w.PROSODY}:{port}&module={way}-{domain}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read(-1)
            writer.close()
            return re.search(rb"^probe_success 1", answer, re.MULTILINE) is not None

        return look

    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(*BLACKBOX)
                writer.close()
                break
            await asyncio.sleep(0.05)
        client = w.SERVICES
        return [
            await measure(
                f"blackbox exporter: {words}", probe(way, client[service]), seconds=seconds / 2, at_once=4, cpu=cpu
            )
            for way, service, words in (
                ("tls", "xmpps-client", "TCP + direct TLS"),
                ("starttls", "xmpp-client", "TCP + STARTTLS"),
            )
        ]
    finally:
        process.terminate()
        process.wait(10)


# -- the hour


def make_tenants(count: int) -> None:
    from controlplane.reconcile.models import Condition
    from tenants import services
    from tenants.models import Domain, Instance
    from tenants.principal import SYSTEM

    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    acme = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    domains = Domain.objects.bulk_create(
        Domain(name=f"t{n}.example", organisation=acme, mode="own") for n in range(count)
    )
    rows = Instance.objects.bulk_create(
        Instance(organisation=acme, domain=domain, plan=plan, engine="prosody") for domain in domains
    )
    Condition.objects.bulk_create(
        Condition(kind="Instance", object_id=row.key, type="Ready", status="True") for row in rows
    )


async def hour(tenants: int, rounds: int) -> tuple[Rate, Sequence[float]]:
    """So many rounds of so many tenants as fast as they go; resident memory in MiB at each tenth of them."""
    from controlplane.monitoring.prober import loop, subjects
    from controlplane.monitoring.prober.references import Reference, References
    from controlplane.monitoring.prober.schedule import Pace
    from controlplane.probes.quick import Quick, Result, Round

    class Simulated(Quick):
        async def look(self, *_: Any, **__: Any) -> Round:
            await asyncio.sleep(0)
            return Round([Result(check, True, 0.01) for check in ("resolve", "ports", "tls")], contacts=2)

    subjects.walk_subject = lambda _: None  # type: ignore[assignment]
    resolver = ("127.67.0.3", 53)
    prober = loop.Prober(
        "bench",
        0,
        1,
        quick=Simulated(resolver, None),
        references=References([Reference("tcp", "127.0.0.1", 1)][:0], resolver),
        pace=Pace(0.001, 10**6, 5.0),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(prober.run(stop))
    total, memory = tenants * rounds, []
    while prober.rounds < tenants:  # all of them are known
        await asyncio.sleep(0.1)
    began, used, first = time.monotonic(), time.process_time(), prober.rounds
    for tenth in range(11):
        while prober.rounds < first + total * tenth / 10 and not task.done():
            await asyncio.sleep(0.05)
        while len(prober._samples) > loop.MOST_WAITING // 5:
            await asyncio.sleep(0.05)
        gc.collect()
        memory.append(rss_mib())
    rate = Rate(
        "the prober's own work for each round, with its database thread",
        prober.rounds - first,
        time.monotonic() - began,
        time.process_time() - used,
        0,
    )
    stop.set()
    await task
    return rate, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--tenants", type=int, default=1000, help="of the simulated hour")
    parser.add_argument("--rounds", type=int, default=120, help="of the simulated hour: one in 30 s")
    options = parser.parse_args()
    import django

    django.setup()
    from django.db import connection

    rates: list[Rate] = []
    with world() as made:
        rates += asyncio.run(ours(made, options.seconds))
        program = shutil.which("prometheus-blackbox-exporter")
        if program:
            rates += asyncio.run(blackbox(made, program, options.seconds))
    name = connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        make_tenants(options.tenants)
        own, memory = asyncio.run(hour(options.tenants, options.rounds))
    finally:
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)
    rates.append(own)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, database {name.removeprefix('test_')!r}\n")
    print("| what | looks | CPU each | per minute and core | per minute as it ran | failed |")
    print("|---|---|---|---|---|---|")
    for rate in rates:
        print(rate)
    if not program:
        print("\nprometheus-blackbox-exporter is not installed: `apt-get install prometheus-blackbox-exporter`.")
    each_ms = rates[0].each_ms + own.each_ms
    projected = CORES * 60_000 / each_ms
    print(
        f"\nA cheap round costs {rates[0].each_ms:.2f} + {own.each_ms:.2f} ms of CPU: {projected:,.0f} tenants a minute"
        f" on {CORES} cores; the goal is {GOAL_PER_MINUTE:,}: {'met' if projected >= GOAL_PER_MINUTE else 'MISSED'}."
    )
    if program:
        print("The exporter reads by lines, and XMPP has none: STARTTLS is beyond it, so direct TLS is what compares.")
    steps = ", ".join(f"{mib:.0f}" for mib in memory)
    print(f"Memory over {options.rounds} rounds of {options.tenants} tenants, MiB at each tenth: {steps}.")


if __name__ == "__main__":
    main()
