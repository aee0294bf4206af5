"""The pass over a node that is reached through a real sshd: whom it believes, what it finds, and whom it wakes."""

from __future__ import annotations

import ast
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from controlplane import wiring
from controlplane.drivers.node import far, hostkeys
from controlplane.drivers.node.base import Applied
from controlplane.drivers.node.lines import LocalLine
from controlplane.fleet import enrol, keys
from controlplane.fleet import services as fleet
from controlplane.fleet.admission import set_standing
from controlplane.fleet.models import Node, Placement
from controlplane.fleet.services import target_of
from controlplane.provisioning.nodes import passes, reach, rotation
from controlplane.provisioning.nodes.passes import reconcile
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import conditions
from controlplane.reconcile.models import Condition, Event, WorkItem
from controlplane.reconcile.watch import Next
from controlplane.values.bundle import Bundle, Program
from controlplane.values.errors import Unavailable
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM
from tests.db.fleet.driven import Machines, claim
from tests.servers.sshd import SSHD, Sshd, make_key

pytestmark = [
    pytest.mark.db,
    pytest.mark.django_db,
    pytest.mark.skipif(not SSHD.exists() or os.geteuid() != 0, reason="needs openssh-server and root"),
]


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines()
    monkeypatch.setattr(wiring, "node_driver", lambda: made)
    return made


@pytest.fixture
def lines(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="rp", dir="/tmp"))
    monkeypatch.setitem(settings.ROOST, "SSH_DIR", str(place))
    monkeypatch.setattr("controlplane.drivers.node.ssh.FAILED_S", 0.0)
    wiring.line.cache_clear()
    yield place
    for node in Node.objects.all():
        for private in (keys.private_key(node), keys.next_private_key(node)):
            if private is not None:
                wiring.line(target_with(node, private)).close()
    wiring.line.cache_clear()
    shutil.rmtree(place)


def target_with(node: Node, private: object) -> Any:
    return dataclasses.replace(target_of(node), private_key=private)


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    with Sshd("127.65.200.5") as server:
        yield server


def enrolled(sshd: Sshd, *, pinned: bool = True, allowed: bool = True, **fields: Any) -> Node:
    node = enrol.enrol_node(
        principal=SYSTEM,
        name="n1",
        address=sshd.address,
        ssh_port=sshd.port,
        host_key=sshd.host_keys[0] if pinned else "",
        **{"edge": "none", "instance_network": "10.9.0.0/24", **fields},
    )
    if allowed:
        sshd.allow(keys.authorized_line(node))
    return node


def look() -> dict[str, Condition]:
    """One pass over n1; its conditions then."""
    assert isinstance(reconcile(claim("Node", "n1")), Next)
    return conditions.of("Node", "n1")


def said(found: dict[str, Condition]) -> dict[str, tuple[str, str]]:
    return {name: (row.status, row.reason) for name, row in found.items()}


def placed(node: Node) -> Instance:
    plan = tenants.create_plan(slug="basic", name="Basic", max_instances=9, principal=SYSTEM)
    organisation = tenants.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    made: Instance = tenants.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    Placement.objects.create(
        instance=made,
        node=node,
        address="10.9.0.2",
        base_port=7000,
        proxy65_port=20000,
        wanted_digest="wanted",
    )
    return made


def some_bundle(subject: Subject, state: str) -> Bundle:
    """Rendering one needs more of an instance than is there."""
    key = subject.instance.key
    return Bundle(key, f"r-{key}", f"/x/{key}", "roost", Program(("/bin/true",)), state=state)


def touched(instance: Instance) -> bool:
    """Whether somebody had it looked at since the last time this was asked."""
    found = WorkItem.objects.filter(kind="Instance", object_id=instance.key)
    was = found.exists()
    found.delete()
    return was


def test_a_new_node_is_shown_then_accepted_then_opened(lines: Path, sshd: Sshd, machines: Machines) -> None:
    node = enrolled(sshd, pinned=False, allowed=False)
    shown = hostkeys.fingerprint(sshd.host_keys[0])
    found = look()
    assert said(found)["HostKeyTrusted"] == ("False", "NotPinned")
    assert said(found)["Reachable"] == ("False", "NotTrusted")
    assert said(found)["Ready"] == ("False", "NotPinned")
    assert found["HostKeyTrusted"].stalled
    assert shown in found["HostKeyTrusted"].message
    assert "ssh-keygen -lf" in found["HostKeyTrusted"].remedy
    assert Node.objects.get().seen_host_keys == list(sshd.host_keys)
    assert "Connection from" in sshd.log.read_text()
    assert "publickey" not in sshd.log.read_text(), "nobody tried to log in"

    enrol.accept_host_key(node=node, fingerprint=shown, principal=SYSTEM)
    found = look()
    assert said(found)["HostKeyTrusted"] == ("True", "Pinned")
    assert said(found)["Reachable"] == ("False", "KeyRefused")
    assert keys.authorized_line(node) in found["Reachable"].remedy
    assert said(found)["Converged"] == ("Unknown", "Unreachable")

    sshd.allow(keys.authorized_line(node))
    found = look()
    assert {name: row.status for name, row in found.items()} == {
        name: "True" for name in passes.ORDER if name != "EdgeServing"
    }
    assert [row.type for row in Condition.objects.filter(kind="Node")] == [n for n in passes.ORDER if n in found]
    assert machines.runs[0]["node"] == "n1"
    node = Node.objects.get()
    assert node.facts["memory_mib"] > 100
    assert node.facts["cpus"] == os.cpu_count()
    assert {"prosody", "ejabberd", "haproxy", "coturn"} >= set(node.facts["versions"])
    assert node.facts["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert node.facts["clock_offset_s"] == 0.0
    assert node.facts_at is not None


def test_a_fingerprint_that_was_given_is_found_by_itself(lines: Path, sshd: Sshd, machines: Machines) -> None:
    node = enrol.enrol_node(
        principal=SYSTEM,
        name="n1",
        address=sshd.address,
        ssh_port=sshd.port,
        host_key=hostkeys.fingerprint(sshd.host_keys[0]),
        edge="none",
    )
    sshd.allow(keys.authorized_line(node))
    assert said(look())["HostKeyTrusted"] == ("True", "Pinned")
    assert Node.objects.get().host_keys == [sshd.host_keys[0]]
    assert Event.objects.filter(type="HostKeyPinned").count() == 1


def test_another_fingerprint_is_not_believed(lines: Path, sshd: Sshd, machines: Machines) -> None:
    other = hostkeys.fingerprint(make_key(sshd.place / "other"))
    enrol.enrol_node(principal=SYSTEM, name="n1", address=sshd.address, ssh_port=sshd.port, host_key=other, edge="none")
    found = look()
    assert said(found)["HostKeyTrusted"] == ("False", "KeyChanged")
    assert other in found["HostKeyTrusted"].message
    assert Node.objects.get().host_keys == [other]


def test_a_changed_host_key_stops_everything_until_it_is_accepted(lines: Path, sshd: Sshd, machines: Machines) -> None:
    node = enrolled(sshd)
    instance = placed(node)
    look()
    before = sshd.host_keys[0]
    sshd.stop()
    sshd.new_host_keys()
    sshd.start()
    touched(instance)
    logins = sshd.logins()
    found = look()
    if found["Reachable"].reason == "Unreachable":  # the old connection was just noticed to be gone
        found = look()
    assert said(found)["HostKeyTrusted"] == ("False", "KeyChanged")
    for line in (before, sshd.host_keys[0]):
        assert hostkeys.fingerprint(line) in found["HostKeyTrusted"].message
    assert touched(instance)
    assert sshd.logins() == logins
    assert not touched(instance)
    assert said(look())["HostKeyTrusted"] == ("False", "KeyChanged")
    assert not touched(instance), "nothing new"
    enrol.accept_host_key(node=node, fingerprint=hostkeys.fingerprint(sshd.host_keys[0]), principal=SYSTEM)
    assert said(look())["Ready"] == ("True", "Ready")
    assert touched(instance)


def test_a_lost_node_says_so_and_converges_by_itself_when_it_is_back(
    lines: Path, sshd: Sshd, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = enrolled(sshd)
    instance = placed(node)
    Placement.objects.update(applied_digest="wanted")
    look()
    touched(instance)
    sshd.stop()
    found = look()
    assert said(found)["Reachable"] == ("False", "Unreachable")
    assert said(found)["HostKeyTrusted"] == ("True", "Pinned")
    assert said(found)["Prepared"] == ("True", "AsWanted")
    assert said(found)["Converged"] == ("Unknown", "Unreachable")
    assert said(found)["Ready"] == ("False", "Unreachable")
    assert touched(instance)
    Placement.objects.update(wanted_digest="newer")
    look()
    assert Placement.objects.get().error == "", "nothing of it is touched"

    monkeypatch.setattr("controlplane.provisioning.nodes.converge.Subject.bundle", some_bundle)
    sshd.start()
    found = look()
    assert said(found)["Reachable"] == ("True", "Reached")
    assert said(found)["Converged"] == ("True", "AsWanted")
    assert Placement.objects.get().applied_at is not None
    assert touched(instance)


def test_a_node_that_is_lost_during_a_run_is_looked_at_again_soon(
    lines: Path, sshd: Sshd, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = enrolled(sshd)
    placed(node)
    monkeypatch.setattr("controlplane.provisioning.nodes.converge.Subject.bundle", some_bundle)

    def lost(*_: object, **__: object) -> None:
        raise Unavailable("The node n1 is not reached.")

    monkeypatch.setattr(machines, "converge", lost)
    after = reconcile(claim("Node", "n1"))
    assert after is not None
    assert after.after_s <= 2
    assert after.failed
    assert said(conditions.of("Node", "n1"))["Converged"] == ("False", "Unavailable")


def test_a_wish_that_is_taken_back_during_a_run_is_not_thought_fulfilled(
    lines: Path, sshd: Sshd, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed while the run still stops it: what was applied before the run says nothing of what is there after it."""
    placed(enrolled(sshd))
    Placement.objects.update(applied_digest="running", wanted_digest="stopped", wanted_state="stopped")
    monkeypatch.setattr("controlplane.provisioning.nodes.converge.Subject.bundle", some_bundle)
    seen = []

    def converge(target: object, bundles: Sequence[Bundle], **_: object) -> dict[str, Applied]:
        Placement.objects.update(wanted_digest="running", wanted_state="running")
        row = Placement.objects.get()
        seen.append((row.applied_digest, row.applied_digest == row.wanted_digest))
        return {bundle.key: Applied(bundle.key) for bundle in bundles}

    monkeypatch.setattr(machines, "converge", converge)
    look()
    assert seen == [(fleet.APPLYING, False)]
    assert len(fleet.stale_placements(Node.objects.get(), limit=9)) == 1


@pytest.mark.parametrize(
    "cut", ["before-key-added", "after-key-added", "after-key-replaced", "after-key-replaced and hung up", ""]
)
def test_our_key_is_replaced_whatever_cuts_it_off(
    lines: Path, sshd: Sshd, machines: Machines, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    foreign = "# roost:n1\n\nssh-ed25519 AAAAother somebody@else\nssh-rsa AAAAmore roost:n10"
    node = enrolled(sshd, allowed=False)
    sshd.authorized.write_text(f"{foreign}\n{keys.authorized_line(node)}\nssh-ed25519 AAAAlast x")
    old = node.public_key
    look()
    enrol.rotate_node_key(node=node, principal=SYSTEM)

    class Killed(BaseException):
        pass

    def die(place: str) -> None:
        if cut and cut.split(" and ")[0] == place:
            raise Killed

    monkeypatch.setattr(rotation.faults, "point", die)
    if cut:
        with pytest.raises(Killed):
            look()
        monkeypatch.setattr(rotation.faults, "point", lambda _: None)
        if "hung up" in cut:
            wiring.line(target_with(Node.objects.get(), keys.private_key(Node.objects.get()))).close()
    found = look()
    assert said(found)["Reachable"] == ("True", "Reached")
    node = Node.objects.get()
    assert (node.rotated_key, node.next_public_key, node.next_key_sealed) == (1, "", "")
    assert node.public_key != old
    text = sshd.authorized.read_text()
    assert text == f"{foreign}\nssh-ed25519 AAAAlast x\n{keys.authorized_line(node)}\n"
    assert sshd.authorized.stat().st_mode & 0o777 == 0o600
    assert Event.objects.filter(type="KeyRotated").count() == 1
    wiring.line.cache_clear()
    assert said(look())["Ready"] == ("True", "Ready")
    assert sshd.authorized.read_text() == text


def test_a_new_key_that_is_not_accepted_leaves_the_old_one(lines: Path, sshd: Sshd, machines: Machines) -> None:
    """sshd reads another file than the account's own."""
    node = enrolled(sshd)
    look()
    sshd.stop()
    shutil.copy(sshd.authorized, sshd.authorized.with_name("other"))
    sshd.extra = "Match all\n  AuthorizedKeysFile %h/.ssh/other"
    sshd.start()
    look()
    enrol.rotate_node_key(node=node, principal=SYSTEM)
    found = look()
    assert said(found)["Reachable"] == ("True", "KeyNotRotated")
    assert "old one stays" in found["Reachable"].message
    assert Node.objects.get().public_key == node.public_key
    assert said(found)["Ready"] == ("True", "Ready")


def test_a_node_without_a_key_of_its_own_gets_one(lines: Path, sshd: Sshd, machines: Machines) -> None:
    enrolled(sshd, allowed=False)
    Node.objects.update(public_key="", key_sealed="")
    found = look()
    assert said(found)["Reachable"] == ("False", "KeyRefused")
    assert Node.objects.get().public_key.endswith(" roost:n1")
    assert keys.authorized_line(Node.objects.get()) in found["Reachable"].remedy


def test_this_machine_needs_no_key(lines: Path, machines: Machines) -> None:
    Node.objects.create(
        name="n1", connection="local", runtime="supervisor", edge="none", instance_network="127.65.201.0/24"
    )
    found = look()
    assert said(found)["HostKeyTrusted"] == ("True", "Local")
    assert said(found)["Prepared"] == ("True", "Launcher")
    assert said(found)["Ready"] == ("True", "Ready")
    assert Node.objects.get().facts["cpus"] == os.cpu_count()
    assert not machines.runs


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        ("active", ("True", "Accepting")),
        ("cordoned", ("False", "Cordoned")),
        ("draining", ("False", "Draining")),
    ],
)
def test_what_its_operator_says_of_it(
    lines: Path, machines: Machines, standing: str, expected: tuple[str, str]
) -> None:
    node = Node.objects.create(name="n1", connection="local", edge="none", instance_network="127.65.201.0/24")
    placed(node)
    Placement.objects.update(wanted_digest="")
    set_standing(node=node, standing=standing, principal=SYSTEM)
    found = look()
    assert said(found)["Accepting"] == expected
    assert said(found)["Ready"] == ("True", "Ready"), "what is there is not touched"
    if standing == "draining":
        assert found["Accepting"].message == "1 instances are left."


def test_a_retired_node_is_left_alone(lines: Path, sshd: Sshd, machines: Machines) -> None:
    node = enrolled(sshd)
    look()
    set_standing(node=node, standing=Node.RETIRED, principal=SYSTEM)
    logins = sshd.logins()
    assert said(look()) == {"Accepting": ("False", "Retired"), "Ready": ("False", "Retired")}
    assert sshd.logins() == logins
    assert not [path for path in lines.rglob("m") if path.is_socket()], "the connection is not kept"


def test_facts_are_written_when_they_are_news(lines: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    Node.objects.create(name="n1", connection="local", edge="none", instance_network="127.65.201.0/24")
    look()
    at = Node.objects.get().facts_at
    look()
    assert Node.objects.get().facts_at == at
    monkeypatch.setattr(reach.facts, "PACKAGES", ("prosody", "bash"))
    look()
    node = Node.objects.get()
    assert node.facts_at != at
    assert "bash" in node.facts["versions"]


def test_instances_that_wait_for_a_place_are_told_of_a_new_node(lines: Path, machines: Machines) -> None:
    Node.objects.create(name="n1", connection="local", edge="none", instance_network="127.65.201.0/24")
    waiting = placed(Node.objects.get())
    Placement.objects.all().delete()
    touched(waiting)
    look()
    assert touched(waiting)
    look()
    assert not touched(waiting)


def test_a_condition_that_a_node_has_no_more_goes(lines: Path, machines: Machines) -> None:
    Node.objects.create(name="n1", connection="local", edge="own", instance_network="127.65.201.0/24")
    found = look()
    assert said(found)["EdgeServing"] == ("False", "EdgeSilent")
    assert said(found)["Ready"] == ("False", "EdgeSilent")
    Node.objects.update(edge="none")
    assert "EdgeServing" not in look()


def test_what_runs_there_needs_nothing_but_an_old_python() -> None:
    """It is compiled for Python 3.9, and imports the standard library only."""
    for name in ("facts", "authorized"):
        tree = ast.parse(far.source(name), feature_version=(3, 9))
        imported = {
            alias.name.split(".")[0] for one in ast.walk(tree) if isinstance(one, ast.Import) for alias in one.names
        } | {one.module.split(".")[0] for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and one.module}
        assert imported <= sys.stdlib_module_names


def test_facts_of_this_machine_are_those_it_has(tmp_path: Path) -> None:
    told = LocalLine("here").ask(far.source("facts"), {"root": str(tmp_path / "later"), "packages": ["none-such"]})
    assert told["disk_total_mib"] == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize // 2**20
    assert told["versions"] == {}
    assert told["memory_available_mib"] <= told["memory_mib"]
