from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from django.db import connection

from controlplane import wiring
from controlplane.certificates import accounts, services
from controlplane.certificates.models import Certificate
from controlplane.certificates.reconciler import need_of
from controlplane.reconcile import conditions, loop, watch
from controlplane.reconcile import lease as leases
from controlplane.values.names import DomainName
from tenants.models import Domain, Instance, Organisation, Plan
from tests.servers.ca_world import CaWorld
from tests.servers.dns import TSIG_NAME, TSIG_SECRET

QUEUE = "certs"


def _prefix() -> str:
    worker = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
    return f"127.64.{100 + int(worker)}"


@pytest.fixture(scope="session")
def _servers():
    with CaWorld(_prefix()) as made:
        yield made


class Room:
    """The certificates room with its surroundings, and the words of its tests."""

    def __init__(self, world: CaWorld) -> None:
        self.world = world
        self.environment = {
            "ACME_DIRECTORY": world.pebble.directory_url,
            "ACME_CA_FILE": world.pebble.ca_file,
            "ACME_ROOTS_URL": world.pebble.roots_url,
            "DNS_DRIVER": "rfc2136",
            "RFC2136_SERVER": world.knot.address,
            "RFC2136_TSIG_NAME": TSIG_NAME,
            "RFC2136_TSIG_SECRET": TSIG_SECRET,
            "DNS_AUTHORITATIVE": world.knot.address,
            "RESOLVER": world.resolver.address,
            "RECORD_TTL_S": "5",
            "BACKOFF_CAP_S": "1",
            "TRUST_SYSTEM": "0",
        }

    def instance(self, domain: str) -> Instance:
        organisation, _ = Organisation.objects.get_or_create(slug="acme", defaults={"name": "Acme"})
        plan, _ = Plan.objects.get_or_create(slug="basic", defaults={"name": "Basic"})
        claimed = Domain.objects.create(name=domain, organisation=organisation, mode="provider")
        return Instance.objects.create(organisation=organisation, domain=claimed, plan=plan, engine="prosody")

    def lease(self, instance: Instance) -> leases.Lease:
        """The instance's own lease, as its pass holds it."""
        leases.touch("Instance", instance.key, "held")
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE reconcile_workitem SET queue = 'held', due_at = now(), leased_until = NULL "
                "WHERE kind = 'Instance' AND object_id = %s",
                [instance.key],
            )
        (lease,) = leases.claim(["held"], holder="test")
        leases.release(lease, after_s=3600, attempts=0)
        return lease

    def want(self, instance: Instance, *names: str, targets=None) -> Certificate:
        return services.want(
            instance,
            names=[DomainName(n) for n in names],
            challenge_targets=targets or {},
            lease=self.lease(instance),
            known=Certificate.objects.filter(instance=instance).first(),
        )

    def condition(self, instance: Instance):
        return conditions.of("Certificate", instance.key).get("Issued")

    def reason(self, instance: Instance) -> str:
        found = self.condition(instance)
        return found.reason if found else ""

    def certificate(self, instance: Instance) -> Certificate:
        return Certificate.objects.get(instance=instance)

    def wake(self, kind: str, object_id: str) -> None:
        """Due now, and free: what a lease's end or the clock would bring."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE reconcile_workitem SET due_at = clock_timestamp(), leased_until = NULL "
                "WHERE kind = %s AND object_id = %s",
                [kind, object_id],
            )

    def work(self, until, timeout_s: float = 20.0) -> None:
        """Run passes until something holds."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, list(
                conditions.Condition.objects.values_list("type", "reason", "message")
            )
            if not loop.run_one([QUEUE]):
                time.sleep(0.02)

    def issue(self, instance: Instance) -> Certificate:
        """Work until the certificate is as wanted and nothing of its orders is left in the zone."""
        self.work(lambda: self.as_wanted(instance) and self.tidy(instance))
        return self.certificate(instance)

    def as_wanted(self, instance: Instance) -> bool:
        return need_of(self.certificate(instance)) is None and self.reason(instance) == "AsWanted"

    def tidy(self, instance: Instance) -> bool:
        orders = self.certificate(instance).orders
        return not orders.filter(state="open").exists() and not orders.exclude(published=[]).exists()

    def one_pass(self) -> bool:
        return loop.run_one([QUEUE])

    def orders_at_the_ca(self) -> int:
        return len(re.findall(r"There are now \d+ orders in the db", self.world.pebble.log))

    def killed_worker(self, point: str, directory) -> int:
        """Run a worker that dies at a fault point; its exit code."""
        (directory / point).touch()
        environment = {
            **os.environ,
            **{f"ROOST_{name}": value for name, value in self.environment.items()},
            "DJANGO_SETTINGS_MODULE": "controlplane.settings.test",
            "ROOST_DATABASE_URL": _conninfo(),
            "ROOST_FAULT_DIR": str(directory),
            "PYTHONPATH": os.pathsep.join([".", *sys.path]),
        }
        done = subprocess.run(
            [sys.executable, os.path.join(os.path.dirname(__file__), "worker.py")],
            env=environment, capture_output=True, timeout=60, text=True, check=False,
        )  # fmt: skip
        assert not (directory / point).exists(), f"{point} was never reached:\n{done.stderr[-2000:]}"
        return done.returncode


def _conninfo() -> str:
    from psycopg.conninfo import make_conninfo

    conf = connection.settings_dict
    parts = {"dbname": conf["NAME"], "user": conf["USER"], "host": conf["HOST"], "password": conf["PASSWORD"]}
    return make_conninfo("", port=conf["PORT"] or None, **{k: v for k, v in parts.items() if v})


@pytest.fixture
def room(_servers, transactional_db, settings, monkeypatch):
    world = _servers
    if world.pebble.process is None:
        world.pebble.start()
    if world.knot.process is None:
        world.knot.start()
    made = Room(world)
    typed = {"DNS_AUTHORITATIVE": [world.knot.address], "RECORD_TTL_S": 5, "BACKOFF_CAP_S": 1.0, "TRUST_SYSTEM": False}
    settings.ROOST = {**settings.ROOST, **made.environment, **typed}
    wiring.dns_driver.cache_clear()
    accounts.forget()
    for kind in ("Certificate", "Authority"):
        monkeypatch.setitem(watch._queues, kind, QUEUE)
    yield made
    wiring.dns_driver.cache_clear()
