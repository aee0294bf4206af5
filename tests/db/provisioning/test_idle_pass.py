"""What passes cost: those that bring an instance up, and the one that finds all well, every minute (ROOST_HEALTH_S)."""

from __future__ import annotations

import functools
import sqlite3

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from controlplane import vault, wiring
from controlplane.certificates.models import AcmeAccount, Certificate
from controlplane.drivers.edge.haproxy import HaproxyEdge
from controlplane.drivers.engine.base import Health
from controlplane.fleet.models import Node, Placement
from controlplane.probes.report import StepResult, WalkReport
from controlplane.provisioning import instance as passes
from controlplane.provisioning.steps import verified
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import conditions, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.models import Condition
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Components
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.servers.haproxy import Haproxy
from tests.servers.little_ca import LittleCa

pytestmark = [pytest.mark.db, pytest.mark.servers, pytest.mark.django_db]

#: Where transactions begin and end: these are no queries.
TRANSACTION = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE SAVEPOINT")
#: Each pass takes these, too.
CLAIM_AND_RELEASE = 2
#: Of a pass that finds all well: 4 when this was written.
MOST_QUERIES = 5
#: Of a pass that brings an instance up, in the mean (14 when this was written), and of the first, which does most.
MOST_IN_THE_MEAN, MOST_AT_FIRST = 15, 20


class Engine:
    """The control channel of an engine that is well: what is measured here is the control plane."""

    def health(self) -> Health:
        return Health("prosody", 100.0, 3)

    def create_account(self, local, password) -> bool:
        return True

    def reload(self) -> None:
        pass


@pytest.fixture(scope="module")
def haproxy():
    with Haproxy("127.65.0.1") as running:
        yield running


@pytest.fixture
def edge(haproxy, monkeypatch) -> HaproxyEdge:
    made = HaproxyEdge(haproxy.socket, haproxy.directory)
    monkeypatch.setattr(wiring, "edge_driver", lambda target, *, socket, map_dir: made)
    return made


@pytest.fixture
def surroundings(edge, settings, monkeypatch, tmp_path):
    """HAProxy, coturn's database and a CA's certificates are real; engine and walk answer that all is well."""
    sqlite3.connect(tmp_path / "turn.sqlite").close()
    settings.ROOST = {
        **settings.ROOST,
        "TURN_HOST": "turn.roost.example",
        "TURN_DATABASE": str(tmp_path / "turn.sqlite"),
        "TURN_REALM": "turn.roost.example",
        "ACME_ROOTS_URL": "https://acme.roost.example/roots",
        "TRUST_SYSTEM": False,
        "PROXY65_PORTS": (20000, 20009),
    }
    wiring.turn_driver.cache_clear()
    monkeypatch.setattr(Subject, "control", functools.cached_property(lambda _: Engine()))
    Subject.control.__set_name__(Subject, "control")
    steps = tuple(StepResult(name, True, False, "fine", 0.1) for name in ("login", "s2s"))
    monkeypatch.setattr(verified, "walk", lambda _: WalkReport(steps, 1.0))
    Node.objects.create(
        name="n1",
        connection="local",
        address="127.0.0.1",
        instance_network="127.65.1.0/24",
        root="/srv",
        state_dir="/srv",
        memory_mib=4096,
    )
    yield
    wiring.turn_driver.cache_clear()


def one_pass(instance: Instance) -> list[str]:
    """The queries of one pass."""
    watch.touch("Instance", instance.key)
    claimed = leases.claim(["reconcile"], holder="test", limit=100)
    (lease,) = [lease for lease in claimed if (lease.kind, lease.object_id) == ("Instance", instance.key)]
    with CaptureQueriesContext(connection) as captured:
        outcome = passes.reconcile(lease)
    for each in claimed:
        leases.release(each, after_s=3600, attempts=0)
    assert outcome is not None
    # A test runs in a transaction, so those of the pass are savepoints within it.
    return [query["sql"] for query in captured if not query["sql"].startswith(TRANSACTION)]


def ready(instance: Instance) -> str:
    found = conditions.of("Instance", instance.key).get("Ready")
    return found.status if found else ""


def others_do_their_part(instance: Instance, ca: LittleCa) -> None:
    """What the zone's, the certificate's and the node's passes would write."""
    instance.dns_records.update(published=True, created_by_us=True, checked_at=timezone.now())
    domain = DomainName(instance.domain.name)
    names = [name.ascii for name in (domain, *Components.below(domain).all())]
    chain, key = ca.issue(names)
    sealed = vault.seal(f"certificate:{instance.key}", Secret(key))
    row = Certificate.objects.get(instance=instance)
    if not row.chain_pem:
        Certificate.objects.filter(pk=row.pk).update(chain_pem=chain, key_sealed=sealed, serial="01")
        Condition.objects.create(kind="Certificate", object_id=instance.key, type="Issued", status="True")
    for placement in Placement.objects.filter(instance=instance):
        Placement.objects.filter(pk=placement.pk).update(
            applied_digest=placement.wanted_digest, loaded_digest=placement.wanted_digest, applied_at=timezone.now()
        )


@pytest.fixture
def make(db, surroundings, settings):
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    ca = LittleCa()
    AcmeAccount.objects.create(directory_url=settings.ROOST["ACME_DIRECTORY"], key_sealed="-", roots_pem=ca.root_pem)

    def one(name: str, counts: list[int] | None = None) -> Instance:
        """``counts``: gets the number of queries of each pass until it is Ready, with claim and release."""
        organisation = tenants.create_organisation(slug=name, name=name, principal=SYSTEM)
        instance = tenants.create_instance(
            organisation=organisation, domain=f"{name}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
        )
        for _ in range(5):
            was_ready = ready(instance) == "True"
            asked = one_pass(instance)
            if counts is not None and not was_ready:
                counts.append(len(asked) + CLAIM_AND_RELEASE)
            others_do_their_part(instance, ca)
        assert ready(instance) == "True", list(conditions.of("Instance", instance.key).values())
        return instance

    return one


def test_a_pass_that_finds_all_well_asks_little_and_writes_nothing(make):
    acme = make("acme")
    asked = one_pass(acme)
    assert len(asked) <= MOST_QUERIES, "\n".join(asked)
    assert [sql for sql in asked if not sql.lstrip().startswith("SELECT")] == []
    assert [sql for sql in asked if "FOR UPDATE" in sql or "advisory" in sql] == []
    assert ready(acme) == "True"


def test_passes_that_bring_an_instance_up_ask_little(make):
    make("acme")  # the zone's row is made once
    counts: list[int] = []
    make("globex", counts)
    assert len(counts) == 3
    assert sum(counts) / len(counts) <= MOST_IN_THE_MEAN, counts
    assert max(counts) <= MOST_AT_FIRST, counts


def test_it_costs_the_same_among_many(make):
    acme = make("acme")
    alone = len(one_pass(acme))
    for name in ("globex", "initech"):
        make(name)
    assert len(one_pass(acme)) == alone


def test_it_still_sees_a_route_that_is_gone(make, edge):
    acme = make("acme")
    edge.delete_routes([DomainName("acme.roost.example")])
    one_pass(acme)
    assert "acme.roost.example" in edge.routes()
    edge.delete_tcp_port(Placement.objects.get(instance=acme).proxy65_port)
    one_pass(acme)
    assert edge.tcp_ports()[Placement.objects.get(instance=acme).proxy65_port]
