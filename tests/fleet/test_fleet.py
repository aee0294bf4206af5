"""Three machines managed over SSH, twelve tenants on them, and what goes wrong with machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from tests.fleet.fleet_lab import NODES, Lab, roost
from tests.stack.live import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
#: "Marked so within a minute."
MARKED_S = 60.0


def test_nodes_are_enrolled_and_tell_of_themselves(lab: Lab) -> None:
    lab.nodes_ready(NODES)
    for name in NODES:
        row = lab.get(f"nodes/{name}/")
        assert row["facts"]["memory_mib"] > 0
        assert {"prosody", "ejabberd", "haproxy"} <= set(row["facts"]["versions"])
    shown = roost("lab", "map")
    for name in NODES:
        assert lab.host(name).public in shown
        assert lab.host(name).private in shown


def test_twelve_tenants_are_spread_and_explained(fleet: Lab) -> None:
    rows = [fleet.instance(tenant) for tenant in fleet.tenants]
    counts = {name: sum(row["node"] == name for row in rows) for name in NODES}
    assert counts == dict.fromkeys(NODES, 4)
    assert all(row["node"] in row["placement"] for row in rows)
    engines = {(row["node"], row["engine"]) for row in rows}
    assert engines == {(name, engine) for name in NODES for engine in ("prosody", "ejabberd")}


def test_a_client_outside_reaches_each_and_writes_to_another_node(fleet: Lab) -> None:
    places = {tenant.key: fleet.instance(tenant)["node"] for tenant in fleet.tenants}
    for index, sender in enumerate(fleet.tenants):
        after = fleet.tenants[index + 1 :] + fleet.tenants[:index]
        receiver = next(tenant for tenant in after if places[tenant.key] != places[sender.key])
        assert "Delivered" in fleet.send(sender, receiver, f"from {places[sender.key]} to {places[receiver.key]}")


def test_a_second_convergence_changes_nothing(fleet: Lab) -> None:
    """Roles and bundles, asked in check mode of each node: both predict no change. Then they run, and change none."""
    said = fleet.manage(CONVERGE_AGAIN)
    found = json.loads(said.strip().splitlines()[-1])
    assert set(found) == set(NODES)
    for name, node in found.items():
        assert node["predicted"] == [], name
        assert node["done"] == [], name
        assert node["bundles"] == 4, name
        assert node["changed"] == [], name


#: As the nodes' passes do it, side by side and under leases of its own.
CONVERGE_AGAIN = """
import json, time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone
from controlplane import wiring
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Node
from controlplane.provisioning import prepare
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.models import WorkItem

def leased(name):
    # Wait for the pass over the node to end and hold its lease, so that no other begins.
    item, deadline = WorkItem.objects.filter(kind="Node", object_id=name), time.monotonic() + 120
    while True:
        now = timezone.now()
        free = item.filter(Q(leased_until=None) | Q(leased_until__lt=now))
        if free.update(fence=F("fence") + 1, holder="a test", leased_until=now + timedelta(seconds=280)):
            return item.get().fence
        assert time.monotonic() < deadline, "the node's pass does not end"
        time.sleep(0.5)

def again(node):
    fence = leased(node.name)
    target, driver = fleet.target_of(node), wiring.node_driver()
    groups, variables = prepare.meaning(node)
    more = {"groups": groups, "variables": variables, "fence": fence, "timeout_s": 150}
    predicted = driver.prepare(target, check=True, **more)
    done = driver.prepare(target, **more)
    bundles = [Subject(p.instance).bundle(p.wanted_state) for p in node.placements.select_related("instance__domain")]
    applied = driver.converge(target, bundles, fence=fence, timeout_s=150)
    WorkItem.objects.filter(kind="Node", object_id=node.name, fence=fence).update(
        holder="", leased_until=None, due_at=timezone.now()
    )
    connection.close()
    return {
        "predicted": [str(task) for task in predicted.tasks],
        "done": [str(task) for task in done.tasks],
        "bundles": len(bundles),
        "changed": [key for key, one in applied.items() if one.changed or one.error],
    }

nodes = list(Node.objects.all())
with ThreadPoolExecutor(len(nodes)) as pool:
    print(json.dumps(dict(zip([node.name for node in nodes], pool.map(again, nodes)))))
"""


@pytest.mark.parametrize("fault", ["cables pulled", "sshd stopped", "power cut"])
def test_a_node_that_goes_away_during_a_change(fleet: Lab, fault: str) -> None:
    """It is marked within a minute, the others change, and it catches up by itself when it is back."""
    rig, lost = fleet.rig, "n2"
    there, elsewhere = fleet.on(lost), [t for t in fleet.tenants if t not in fleet.on(lost)]
    _break(fleet, lost, fault)
    since = time.monotonic()
    try:
        for tenant in fleet.tenants:
            fleet.patch(f"instances/{tenant.key}/", {"display_name": f"{tenant.domain} after {fault}"})
        until(lambda: fleet.status(lost, "Reachable") == "False", "it is marked", timeout_s=MARKED_S)
        assert time.monotonic() - since < MARKED_S
        fleet.all_ready(elsewhere)
        late = [fleet.instance(tenant) for tenant in there]
        assert not any(row["ready"] for row in late)
        running = [next(c for c in row["conditions"] if c["type"] == "ServerRunning") for row in late]
        assert {c["reason"] for c in running} == {"NodeUnreachable"}
        assert all(lost in c["message"] for c in running)
    finally:
        _mend(fleet, lost, fault)
    fleet.nodes_ready([lost])
    fleet.all_ready(there)
    assert rig.hosts[lost].name == lost
    assert "Delivered" in fleet.send(there[0], elsewhere[0])


def _break(lab: Lab, name: str, fault: str) -> None:
    if fault == "cables pulled":
        roost("lab", "cut", name)
    elif fault == "power cut":
        roost("lab", "off", name)
    else:
        lab.host(name).program("stop", "sshd")
        lab.host(name).end_sessions()


def _mend(lab: Lab, name: str, fault: str) -> None:
    if fault == "cables pulled":
        roost("lab", "plug", name)
    elif fault == "power cut":
        roost("lab", "on", name)
    else:
        lab.host(name).program("start", "sshd")


def test_the_worker_is_killed_in_the_middle_of_a_run(fleet: Lab) -> None:
    """Nothing half-written serves: every file of an instance is as before or as after, and the next run makes it so."""
    there = fleet.on("n1")
    for tenant in there:
        fleet.patch(f"instances/{tenant.key}/", {"display_name": "after the kill"})
    until(lambda: _ansible_runs(fleet), "a run over SSH", timeout_s=60)
    for pid in fleet.worker_pids():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for tenant in there:  # whoever asks now is served, by the old or by the new
        assert "Delivered" in fleet.send(tenant, fleet.on("n3")[0])
    fleet.all_ready(there)
    fleet.nodes_ready(["n1"])
    for tenant in there:
        done = fleet.host("n1").run(
            "sh",
            "-c",
            'find "$0" -name "*.tmp*" -o -name ".*.new"; grep -rlF "after the kill" "$0/config" | wc -l',
            f"/srv/roost/instances/{tenant.key}",
        )
        lines = done.split()
        assert len(lines) == 1, lines
        assert int(lines[0]) >= 1


def _ansible_runs(lab: Lab) -> bool:
    said = subprocess.run(["pgrep", "-f", f"{lab.layout.venv}/bin/ansible-playbook"], capture_output=True, check=False)
    return said.returncode == 0


def test_a_changed_host_key_is_refused_until_it_is_accepted(fleet: Lab) -> None:
    there, elsewhere = fleet.on("n3"), fleet.on("n1")
    host = fleet.host("n3")
    before = host.host_key
    host.new_host_key()
    host.end_sessions()
    assert host.host_key != before

    def refused() -> bool:
        condition = fleet.conditions("n3")["HostKeyTrusted"]
        return bool(condition["status"] == "False" and condition["reason"] == "KeyChanged")

    until(refused, "the key is refused", timeout_s=MARKED_S)
    argv = ("sh", "-c", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    fingerprint = host.run(*argv).split()[1]
    condition = fleet.conditions("n3")["HostKeyTrusted"]
    assert fingerprint in condition["message"]
    assert condition["stalled"]
    assert condition["remedy"]
    assert fleet.status("n3", "Reachable") == "False"
    assert "Delivered" in fleet.send(there[0], elsewhere[0]), "its tenants are served all the same"

    wrong = fleet.api.ask("POST", "nodes/n3/accept-host-key/", {"fingerprint": "SHA256:" + "A" * 43})
    assert wrong.status == 422
    assert fleet.status("n3", "HostKeyTrusted") == "False"
    fleet.post("nodes/n3/accept-host-key/", {"fingerprint": fingerprint})
    fleet.nodes_ready(["n3"])
    fleet.all_ready(there)


def test_our_key_on_a_node_is_replaced(fleet: Lab) -> None:
    path = "/root/.ssh/authorized_keys"
    stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEO3vGm8h0sfBQvYYQ2bHBxxVQK5rNPuZ9C2fQXFQ0oN somebody@else"
    fleet.host("n1").authorize(stranger)
    before = fleet.host("n1").file(path).read_text()
    fleet.post("nodes/n1/rotate-key/")

    def replaced() -> bool:
        now = fleet.host("n1").file(path).read_text()
        ours = [line for line in now.splitlines() if line.endswith("roost:n1")]
        return len(ours) == 1 and ours[0] not in before and stranger in now

    until(replaced, "the key is replaced", timeout_s=90)
    fleet.nodes_ready(["n1"])


def test_a_rollout_changes_one_node_after_the_other(fleet: Lab) -> None:
    """The canary first; the next one's turn comes when all on the canary is proven to be well again."""
    started = fleet.post("rollouts/", {"kind": "prepare", "nodes": ["n1", "n2"], "canary": "n2"})

    def over() -> bool:
        row = fleet.get(f"rollouts/{started['id']}/")
        assert row["state"] != "running", row["nodes"]
        return True

    until(over, "the rollout ends", timeout_s=240)
    row = fleet.get(f"rollouts/{started['id']}/")
    assert row["state"] == "done", row
    canary, other = row["nodes"]
    assert (canary["name"], other["name"]) == ("n2", "n1")
    assert canary["state"] == other["state"] == "done"
    assert canary["finished_at"] <= other["started_at"]
    fleet.all_ready(fleet.tenants)


def test_shared_edges_lead_to_a_node_without_its_own(fleet: Lab) -> None:
    """Two machines more, edges for others: both are in DNS, and lead over the private network."""
    from launcher.lab import enrol
    from launcher.rest import Api as LauncherApi

    hidden = (str(fleet.layout.clone), str(fleet.layout.state))
    rig = fleet.rig
    edges = [rig.add(f"e{number}", 30 + number, hidden=hidden) for number in (1, 2)]
    api = LauncherApi(fleet.layout.web_url, fleet.api.token)
    for host in edges:
        enrol(api, host, edge="shared")
    fleet.nodes_ready([host.name for host in edges], timeout_s=180)
    fleet.patch("nodes/n3/", {"edge": "none"})
    there, elsewhere = fleet.on("n3"), fleet.on("n1")

    def in_dns() -> bool:
        for tenant in there:
            name = f"{tenant.key}.edge.roost.example"
            found = fleet.host("outside").run("dig", "+short", f"@{fleet.layout.resolver_address}", name, "A")
            assert set(found.split()) == {host.public for host in edges}, (tenant.domain, found)
        return True

    until(in_dns, "both edges are in DNS", timeout_s=180)
    fleet.all_ready(there)
    for tenant in there:
        assert "Delivered" in fleet.send(tenant, elsewhere[0])
    # One of the two edges is gone: the other serves, and nobody waits for it.
    roost("lab", "off", "e1")
    try:
        until(lambda: fleet.status("e1", "Reachable") == "False", "the edge is marked", timeout_s=MARKED_S)
        fleet.patch(f"instances/{there[0].key}/", {"display_name": "one edge less"})
        fleet.all_ready(there[:1])
    finally:
        roost("lab", "on", "e1")
    fleet.nodes_ready(["e1"])
