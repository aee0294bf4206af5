"""What an instance says while its node is away: so at once, with nothing of it touched, and whose fault it is."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import pytest
from django.utils import timezone

from controlplane import wiring
from controlplane.drivers.node.base import Answer, HostKeyUnknown, KeyRefused
from controlplane.fleet import keys
from controlplane.fleet.models import Node, Placement
from controlplane.provisioning.engines import control_of
from controlplane.provisioning.steps.server_running import ServerRunning, ServerStopped
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.models import Condition, WorkItem
from controlplane.values.bundle import Bundle, Program
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.outcome import Done, Stalled, Wait
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.db.fleet.driven import claim, make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


class Line:
    """``trouble``: what it raises. ``used``: how often anybody tried."""

    def __init__(self) -> None:
        self.trouble: RoostError | None = None
        self.used = 0

    def run(self, argv: object, *, timeout_s: float) -> Answer:
        self.used += 1
        if self.trouble is not None:
            raise self.trouble
        return Answer(0, "", "")

    def socket(self, path: str) -> Any:
        self.run([], timeout_s=1)
        return path


class Silent:
    def health(self) -> None:
        raise Unavailable("The control socket does not answer.")

    reload = health


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    made = Line()
    monkeypatch.setattr(wiring, "line", lambda target: made)
    return made


@pytest.fixture
def node() -> Node:
    node = make_node("n1", 1)
    node.public_key, node.key_sealed = keys.make_pair(node)
    node.save()
    return node


@pytest.fixture
def instance(node: Node, monkeypatch: pytest.MonkeyPatch) -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    made = tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    monkeypatch.setattr(Subject, "bundle", lambda self, state: bundle(self.instance.key, state))
    digest = bundle(made.key, "running").digest()
    long_ago = timezone.now() - datetime.timedelta(hours=1)
    Placement.objects.create(
        instance=made,
        node=node,
        address="10.9.0.1",
        base_port=7000,
        proxy65_port=20000,
        wanted_digest=digest,
        applied_digest=digest,
        loaded_digest=digest,
        applied_at=long_ago,
    )
    return Instance.objects.whole().get()


def bundle(key: str, state: str) -> Bundle:
    return Bundle(key, f"r-{key}", f"/x/{key}", "roost", Program(("/bin/true",)), state=state)


def away(reason: str = "Unreachable") -> None:
    Condition.objects.create(kind="Node", object_id="n1", type="Reachable", status="False", reason=reason)


def observe(instance: Instance) -> Done | Wait | Stalled | None:
    return ServerRunning().observe(Subject(instance), claim("Instance", instance.key))


def test_it_says_so_without_trying(line: Line, instance: Instance) -> None:
    away()
    before = Placement.objects.values().get()
    found = observe(instance)
    assert isinstance(found, Wait)
    assert (found.reason, found.message, found.failed) == ("NodeUnreachable", "n1 is not reached.", False)
    assert line.used == 0
    assert Placement.objects.values().get() == before


def test_a_change_is_still_wanted_and_waits(line: Line, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    away()
    changed = Bundle("x", "r-x", "/x/x", "roost", Program(("/bin/false",)))
    monkeypatch.setattr(Subject, "bundle", lambda *_: changed)
    found = observe(instance)
    assert isinstance(found, Wait)
    assert found.reason == "NodeUnreachable"
    assert Placement.objects.get().wanted_digest == changed.digest()
    assert WorkItem.objects.filter(kind="Node", object_id="n1").exists()


def test_one_that_should_not_run_waits_for_its_node_too(line: Line, instance: Instance) -> None:
    away()
    found = ServerStopped().observe(Subject(instance), claim("Instance", instance.key))
    assert isinstance(found, Wait)
    assert found.reason == "NodeUnreachable"


@pytest.mark.parametrize(
    "trouble", [Unavailable("cut"), HostKeyUnknown("another"), KeyRefused("no")], ids=["cut", "host", "key"]
)
def test_a_line_that_broke_is_no_fault_of_the_engine(line: Line, instance: Instance, trouble: RoostError) -> None:
    """Before the node's own pass has found it: that one is woken, and nothing is applied again."""
    WorkItem.objects.all().delete()
    line.trouble = trouble
    found = observe(instance)
    assert isinstance(found, Wait)
    assert found.reason == "NodeUnreachable"
    assert Placement.objects.get().applied_digest
    assert WorkItem.objects.filter(kind="Node", object_id="n1").exists()


def test_an_engine_that_is_silent_on_a_node_that_answers(
    line: Line, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subject, "control", functools.cached_property(lambda _: Silent()))
    Subject.control.__set_name__(Subject, "control")
    found = observe(instance)
    assert isinstance(found, Wait)
    assert found.reason == "EngineSilent"
    assert Placement.objects.get().applied_digest == "", "the node is asked to look after it"


def test_commands_of_tenants_are_told_to_wait(line: Line, instance: Instance) -> None:
    line.trouble = KeyRefused("n1 does not accept our key for root.")
    with pytest.raises(Unavailable) as caught:
        control_of(instance)
    assert "n1" not in str(caught.value), "machines are no concern of tenants"
    away()
    used = line.used
    with pytest.raises(Unavailable, match="not reached"):
        control_of(instance)
    assert line.used == used


def test_a_broken_path_is_the_nodes_fault(line: Line, instance: Instance) -> None:
    """What cannot be forwarded at all is no matter of waiting."""
    line.trouble = Rejected("cannot be forwarded")
    with pytest.raises(Rejected):
        observe(instance)
