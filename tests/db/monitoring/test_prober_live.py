"""A prober against real servers: quiet when all is well, incidents that begin and end, nothing while it is cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from controlplane.certificates.models import Certificate
from controlplane.monitoring.models import CheckState, Incident, ProbePlace, Sample
from controlplane.monitoring.prober import loop, subjects
from controlplane.monitoring.prober.loop import Prober, Surroundings
from controlplane.monitoring.prober.references import Reference, References
from controlplane.monitoring.prober.schedule import Pace
from controlplane.probes.quick import Quick
from controlplane.probes.walk import WalkSubject
from controlplane.reconcile.models import Condition
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Components
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.contract.probes.ca import Authority
from tests.contract.probes.conftest import world  # noqa: F401  # a fixture
from tests.contract.probes.world import DNS, HTTPS_PORT, NOBODY, PASSWORD, TURN, World

pytestmark = [pytest.mark.servers, pytest.mark.db, pytest.mark.django_db(transaction=True)]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def instances(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Instance]:  # noqa: F811
    """Domain -> an instance of it that has been Ready."""
    monkeypatch.setattr(subjects, "HTTPS_PORT", HTTPS_PORT)
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    made = {}
    for domain in ("good.example", "badturn.example"):
        organisation = tenants.create_organisation(slug=domain.split(".")[0], name=domain, principal=SYSTEM)
        row = tenants.create_instance(
            organisation=organisation, domain=domain, engine="prosody", plan=plan, principal=SYSTEM
        )
        Certificate.objects.create(instance=row, serial=f"{world.serials[domain]:x}")
        Condition.objects.create(kind="Instance", object_id=row.key, type="Ready", status="True")
        made[domain] = row

    def walk_subject(pk: int) -> WalkSubject:
        name = DomainName.parse(Instance.objects.get(pk=pk).domain.name)
        return WalkSubject(
            domain=name,
            components=Components.below(name),
            account="roost-probe",
            password=Secret(PASSWORD),
            resolver=world.resolver,
            trust_roots=world.roots_pem,
            https_port=HTTPS_PORT,
        )

    monkeypatch.setattr(subjects, "walk_subject", walk_subject)
    return made


def probe(
    world: World,  # noqa: F811
    until: Callable[[], bool],
    *,
    references: list[Reference] | None = None,
    turn: tuple[str, int] | None = None,
    pace: Pace | None = None,
    first_roots: str | None = None,
) -> Prober:
    """Run a prober until ``until()`` is true, at most half a minute."""

    async def run() -> Prober:
        resolver = (DNS, 53)
        prober = Prober(
            "here",
            0,
            1,
            quick=Quick(resolver, first_roots or world.roots_pem, timeout_s=3.0),
            references=References(references or [Reference("dns", "example")], resolver),
            pace=pace or Pace(1.0, 2.0, 0.3),
            turn=turn,
            world=lambda: Surroundings(world.roots_pem, (Reference("dns", "example"),)),
        )
        stop = asyncio.Event()
        task = asyncio.create_task(prober.run(stop))
        deadline = time.monotonic() + 30
        check = sync_to_async(until)
        while not task.done() and not await check() and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        stop.set()
        await task
        return prober

    made = asyncio.run(run())
    assert until()
    return made


def has_incident(cause: str, *, ended: bool = False) -> Callable[[], bool]:
    return lambda: Incident.objects.filter(cause=cause, ended_at__isnull=not ended).exists()


@pytest.fixture(autouse=True)
def _close_threads() -> Iterator[None]:
    yield
    connections.close_all()


def test_faults_are_named_and_end(world, instances):  # noqa: F811
    good, bad = instances["good.example"], instances["badturn.example"]

    def known() -> bool:
        return CheckState.objects.filter(instance=good, check_name="turn", state="up").exists()

    # A secret that the TURN server does not know: only a walk finds that.
    prober = probe(world, lambda: known() and has_incident("TurnWrongSecret")())
    assert [i.instance for i in Incident.objects.all()] == [bad]
    assert prober.rounds > 2
    states = dict(CheckState.objects.filter(instance=good).values_list("check_name", "state"))
    assert set(states.values()) == {"up"}
    assert {"resolve", "ports", "tls", "names", "certificates", "web", "login", "archive", "clock"} <= states.keys()
    assert Sample.objects.filter(instance_key=good.key, check_name="quick", ok=True).exists()

    # Another certificate is expected than is served, and then it is right again.
    right = f"{world.serials['good.example']:x}"
    Certificate.objects.filter(instance=good).update(serial="abc")
    probe(world, has_incident("WrongCertificate"))
    incident = Incident.objects.get(instance=good)
    assert incident.subject == f"instance:{good.key}:tls"
    assert "and not ABC" in incident.entries.first().message
    Certificate.objects.filter(instance=good).update(serial=right)
    probe(world, has_incident("WrongCertificate", ended=True))
    assert Incident.objects.filter(instance=good).count() == 1

    # Suspended: not watched any more.
    tenants.suspend_instance(instance=bad, principal=SYSTEM)
    probe(world, has_incident("TurnWrongSecret", ended=True))
    assert not CheckState.objects.filter(instance=bad).exists()


def test_a_turn_server_that_is_away_is_seen_by_cheap_rounds(world, instances):  # noqa: F811
    both = Incident.objects.filter(cause="TurnUnreachable")
    # No walk would come within the test's time.
    probe(world, lambda: both.count() == 2, turn=("dead.example", 3478), pace=Pace(1.0, 3600.0, 0.3))


def test_a_new_root_of_the_ca_is_no_fault(world, instances, monkeypatch):  # noqa: F811
    monkeypatch.setattr(loop, "FRESH_ROOTS_S", 0.0)

    def up() -> bool:
        return CheckState.objects.filter(check_name="tls", state="up").count() == len(instances)

    probe(world, up, first_roots=Authority("another root").pem)
    # Of these only: the table of samples is not emptied between tests.
    mine = [row.key for row in instances.values()]
    assert not Sample.objects.filter(check_name="tls", ok=False, instance_key__in=mine).exists()


def test_nothing_is_judged_while_it_is_cut_off(world, instances):  # noqa: F811
    Certificate.objects.update(serial="abc")
    probe(world, has_incident("ProberCutOff"), references=[Reference("tcp", NOBODY, 5222)])
    assert ProbePlace.objects.get().cut_off
    assert not CheckState.objects.filter(state="down").exists()
    assert not Incident.objects.filter(kind="check").exists()
    Certificate.objects.filter(instance=instances["badturn.example"]).update(
        serial=f"{world.serials['badturn.example']:x}"
    )
    reachable = [Reference("tcp", NOBODY, 5222), Reference("tcp", TURN, 3478)]
    probe(world, has_incident("WrongCertificate"), references=reachable)
    assert Incident.objects.get(cause="ProberCutOff").ended_at is not None


@pytest.mark.parametrize("database", [True, False])
def test_it_ends_at_once_when_it_is_told_to(database, tmp_path):
    """Also while it waits for a database that is not there."""
    settings = connections["default"].settings_dict
    name = f"postgresql://{settings['USER']}@/{settings['NAME']}?host={settings['HOST'] if database else tmp_path}"
    environment = {**os.environ, "ROOST_DATABASE_URL": name, "ROOST_RESOLVER": "127.67.0.98"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "prober", "--place", "there"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        wanted = "has started" if database else "not yet"
        line = next((line for line in process.stderr if wanted in line), "")
        assert line
        process.send_signal(signal.SIGTERM)
        assert process.wait(2) == 0
    finally:
        process.kill()
        process.wait()
