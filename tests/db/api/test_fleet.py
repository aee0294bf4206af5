"""Nodes, previews and rollouts over the API: what an operator reads, does, and is told when it does not fit."""

from __future__ import annotations

import json

import pytest

from controlplane.drivers.node import hostkeys
from controlplane.fleet.models import Node, Placement, Rollout
from controlplane.reconcile.models import Condition, WorkItem
from tenants.models import AuditEvent
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]
API = "/api/v1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTwNX6FUwjZoAN9oxsoaLDpiDUxNgrRCYdhAQ4yGCM8"
PRINT = hostkeys.fingerprint(KEY)


def enrol(client, **more):
    return client.post(f"{API}/nodes/", {"name": "n1", "address": "192.0.2.7", **more}, format="json")


def put(instance, node, number=1):
    return Placement.objects.create(
        instance=instance, node=node, address=f"10.0.0.{number}", base_port=7000, proxy65_port=20000 + number
    )


def test_enrolling_says_what_to_put_on_the_machine(operator):
    answer = enrol(operator, host_key=PRINT, labels={"region": "eu"}, variables={"word": "hidden"})
    assert answer.status_code == 201, answer.content
    assert answer["Location"].endswith(f"{API}/nodes/n1/")
    body = answer.json()
    assert body["host_keys"] == [{"type": "", "fingerprint": PRINT, "line": ""}]
    assert body["authorized_key"].endswith(" roost:n1")
    assert body["authorized_key"] in body["install_command"]
    assert body["instance_network"] == "192.0.2.7/32"
    assert (body["ready"], body["reachable"], body["conditions"]) == (False, None, [])
    assert body["summary"] == "No pass has looked at it yet."
    assert "PRIVATE" not in json.dumps(body)
    assert WorkItem.objects.filter(kind="Node", object_id="n1").exists()
    assert enrol(operator).status_code == 409


def test_the_install_command_works_and_may_run_twice(operator, tmp_path):
    import subprocess

    body = enrol(operator).json()
    for _ in range(2):
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        subprocess.run(["/bin/sh", "-c", body["install_command"]], env=environment, check=True)
    assert (tmp_path / ".ssh" / "authorized_keys").read_text() == body["authorized_key"] + "\n"
    assert (tmp_path / ".ssh").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("more", "status", "field"),
    [
        ({"name": "Upper"}, 422, "name"),
        ({"address": "-oProxyCommand=x"}, 422, "address"),
        ({"host_key": "nonsense"}, 422, "host_key"),
        ({"labels": {"region": "EU"}}, 422, "labels"),
        ({"ssh_port": 0}, 400, "ssh_port"),
        ({"edge": "both"}, 400, "edge"),
        ({"edge": "shared"}, 422, "public_addresses"),
        ({"instance_network": "10.9.0.0/24"}, 422, "instance_network"),
        ({"private_address": "10.9.0.3"}, 422, "private_address"),
        ({"key_sealed": "x"}, 400, "key_sealed"),
    ],
)
def test_what_does_not_fit_is_named_by_its_field(operator, more, status, field):
    make_node("other", 3)
    answer = enrol(operator, **more)
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert Node.objects.count() == 1


def test_enrolling_twice_with_one_key_is_once(operator):
    given = {"HTTP_IDEMPOTENCY_KEY": "k1"}
    wish = {"name": "n1", "address": "192.0.2.7"}
    first = operator.post(f"{API}/nodes/", wish, format="json", **given)
    again = operator.post(f"{API}/nodes/", wish, format="json", **given)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotency-Replayed"] == "true"
    assert again.json()["authorized_key"] == first.json()["authorized_key"]
    assert Node.objects.count() == AuditEvent.objects.filter(action="node.enrol").count() == 1


def test_the_list_asks_as_much_for_many_as_for_one(operator, instance, django_assert_max_num_queries):
    for number in range(1, 6):
        make_node(f"n{number}", number)
    put(instance, Node.objects.get(name="n2"))
    Condition.objects.create(kind="Node", object_id="n2", type="Ready", status="True", message="Fine.")
    Condition.objects.create(kind="Node", object_id="n3", type="Reachable", status="False", message="Cut.")
    with django_assert_max_num_queries(8):
        rows = {row["name"]: row for row in operator.get(f"{API}/nodes/").json()["results"]}
    assert (rows["n2"]["ready"], rows["n2"]["summary"], rows["n2"]["instances"]) == (True, "Fine.", 1)
    assert rows["n2"]["memory_used_mib"] == instance.plan.memory_mib
    assert (rows["n3"]["ready"], rows["n3"]["reachable"]) == (False, False)
    assert rows["n1"]["reachable"] is None


def test_one_node_in_full(operator, token, instance):
    node = make_node("n1", 1, host_keys=[KEY], seen_host_keys=[KEY], variables={"word": "hidden"}, facts={"cpus": 2})
    put(instance, node)
    for position, (type_, status) in enumerate((("HostKeyTrusted", "True"), ("Reachable", "False"))):
        Condition.objects.create(
            kind="Node", object_id="n1", type=type_, status=status, position=position, reason="R", remedy="Do it."
        )
    body = operator.get(f"{API}/nodes/n1/").json()
    assert [(c["type"], c["status"]) for c in body["conditions"]] == [
        ("HostKeyTrusted", "True"),
        ("Reachable", "False"),
    ]
    assert body["conditions"][1]["remedy"] == "Do it."
    assert body["host_keys"] == [{"type": "ssh-ed25519", "fingerprint": PRINT, "line": KEY}]
    assert body["facts"] == {"cpus": 2}
    assert body["variables"] == {"word": "hidden"}
    assert body["blast_radius"] == {
        "instances": 1,
        "organisations": 1,
        "wholly": 1,
        "accounts": instance.plan.max_accounts,
        "memory_mib": instance.plan.memory_mib,
        "led": 1,
        "only_here": 1,
    }
    reader = token(None, "read")
    assert reader.get(f"{API}/nodes/n1/").json()["variables"] == {"word": None}
    assert reader.patch(f"{API}/nodes/n1/", {"labels": {}}, format="json").status_code == 403
    assert operator.get(f"{API}/nodes/n2/").status_code == 404


def test_a_change_is_checked_and_audited(operator):
    make_node("n1", 1)
    answer = operator.patch(f"{API}/nodes/n1/", {"labels": {"region": "eu"}, "memory_mib": 100}, format="json")
    assert answer.status_code == 200, answer.content
    assert (answer.json()["labels"], answer.json()["memory_mib"]) == ({"region": "eu"}, 100)
    assert AuditEvent.objects.get(action="node.update").data == {"labels": {"region": "eu"}, "memory_mib": 100}
    assert operator.patch(f"{API}/nodes/n1/", {"name": "n2"}, format="json").status_code == 400
    assert operator.patch(f"{API}/nodes/n1/", {"base_port": 70000}, format="json").status_code == 400


def test_host_keys_are_compared_by_their_fingerprint(operator):
    make_node("n1", 1, seen_host_keys=[KEY])
    path = f"{API}/nodes/n1/accept-host-key/"
    wrong = operator.post(path, {"fingerprint": "SHA256:x"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "fingerprint")
    assert PRINT in wrong.json()["detail"]
    right = operator.post(path, {"fingerprint": PRINT})
    assert right.status_code == 200
    assert ([key["fingerprint"] for key in right.json()["host_keys"]], right.json()["seen_host_keys"]) == ([PRINT], [])


@pytest.mark.parametrize(
    ("action", "status", "event"),
    [("rotate-key", 202, "node.rotate-key"), ("prepare", 202, "node.prepare"), ("refresh", 202, None)],
)
def test_what_takes_time_is_accepted_and_looked_at(operator, action, status, event):
    make_node("n1", 1)
    answer = operator.post(f"{API}/nodes/n1/{action}/")
    assert answer.status_code == status, answer.content
    assert answer["Location"].endswith("/nodes/n1/")
    assert WorkItem.objects.filter(kind="Node", object_id="n1").exists()
    assert list(AuditEvent.objects.filter(kind="Node").values_list("action", flat=True)) == ([event] if event else [])


def test_the_ways_out_of_use(operator, instance):
    node = make_node("n1", 1)
    placement = put(instance, node)
    drained = operator.post(f"{API}/nodes/n1/drain/").json()
    assert drained["node"]["standing"] == "draining"
    assert drained["blast_radius"]["organisations"] == ["acme"]
    assert "moves none of them" in drained["message"]
    assert operator.post(f"{API}/nodes/n1/retire/").status_code == 409
    assert operator.delete(f"{API}/nodes/n1/").status_code == 409
    placement.delete()
    assert operator.delete(f"{API}/nodes/n1/").json()["standing"] == "retired"
    assert operator.post(f"{API}/nodes/n1/retire/").status_code == 200
    assert operator.post(f"{API}/nodes/n1/uncordon/").json()["accepting"] is True


def test_the_blast_radius_names_organisations(operator, instance):
    put(instance, make_node("n1", 1))
    body = operator.get(f"{API}/nodes/n1/blast-radius/").json()
    assert (body["organisations"], body["wholly"], body["only_here"]) == (["acme"], ["acme"], 1)


def test_a_preview_chooses_explains_and_writes_nothing(operator, acme, plan):
    make_node("n1", 1, prepared="d", labels={"region": "eu"})
    make_node("n2", 2, standing="cordoned")
    wish = {"organisation": "acme", "plan": "basic", "engine": "prosody", "node_labels": {"region": "eu"}}
    body = operator.post(f"{API}/placements/preview/", wish, format="json").json()
    assert body["node"] == "n1"
    assert "only node that fits" in body["explanation"]
    assert [(c["node"], c["fits"], c["reason"]) for c in body["candidates"]] == [
        ("n1", True, ""),
        ("n2", False, "Cordoned"),
    ]
    assert (body["before"]["instances"], body["after"]["instances"], body["after"]["wholly"]) == (0, 1, ["acme"])
    nothing = operator.post(f"{API}/placements/preview/", {**wish, "node_labels": {"region": "us"}}, format="json")
    assert (nothing.json()["node"], nothing.json()["after"]) == (None, None)
    assert "region=us" in nothing.json()["remedy"]
    for field, value in (("organisation", "nobody"), ("plan", "none"), ("node_labels", {"A": "b"})):
        answer = operator.post(f"{API}/placements/preview/", {**wish, field: value}, format="json")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert not Placement.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_nodes_history_is_its_own(operator, ours):
    enrol(operator)
    enrol(operator, name="n2", address="192.0.2.8")
    operator.post(f"{API}/nodes/n1/cordon/")
    body = operator.get(f"{API}/nodes/n1/events/").json()
    assert [(e["object_id"], e["type"]) for e in body["events"]] == [("n1", "Enrolled"), ("n1", "Cordoned")]
    assert operator.get(f"{API}/nodes/n1/events/?after={body['cursor']}").json()["events"] == []
    assert ours.get(f"{API}/nodes/n1/events/").status_code == 403
    assert operator.get(f"{API}/nodes/n3/events/").status_code == 404
    listed = operator.get(f"{API}/audit/?kind=Node&object_id=n1").json()["results"]
    assert [row["action"] for row in listed] == ["node.cordon", "node.enrol"]


def test_a_rollout_from_start_to_cancel(operator, ours):
    for number in (1, 2, 3):
        make_node(f"n{number}", number, prepared="d")
    wish = {"kind": "upgrade", "canary": "n2"}
    answer = operator.post(f"{API}/rollouts/", wish, format="json")
    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert [(part["name"], part["state"]) for part in body["nodes"]] == [
        ("n2", "waiting"),
        ("n1", "waiting"),
        ("n3", "waiting"),
    ]
    assert answer["Location"].endswith(f"{API}/rollouts/{body['id']}/")
    assert operator.post(f"{API}/rollouts/", wish, format="json").status_code == 409
    assert ours.get(f"{API}/rollouts/{body['id']}/").status_code == 403
    assert operator.get(f"{API}/rollouts/").json()["results"][0]["id"] == body["id"]
    cancelled = operator.post(f"{API}/rollouts/{body['id']}/cancel/")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert {part["state"] for part in cancelled.json()["nodes"]} == {"left"}
    assert operator.post(f"{API}/rollouts/{body['id']}/cancel/").status_code == 409
    for missing in ("999", "x", "9" * 30):
        assert operator.get(f"{API}/rollouts/{missing}/").status_code == 404
    for field, value in (("nodes", ["n9"]), ("canary", "n9"), ("kind", "other"), ("nodes", [])):
        answer = operator.post(f"{API}/rollouts/", {**wish, field: value}, format="json")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), answer.content
    assert Rollout.objects.count() == 1


def test_labels_of_plans_and_instances(operator, acme, plan):
    changed = operator.patch(f"{API}/plans/basic/", {"node_labels": {"region": "eu"}}, format="json")
    assert changed.json()["node_labels"] == {"region": "eu"}
    wish = {"domain": "acme.roost.example", "engine": "prosody", "plan": "basic"}
    refused = operator.post(
        f"{API}/organisations/acme/instances/", {**wish, "node_labels": {"region": "us"}}, format="json"
    )
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "node_labels")
    made = operator.post(
        f"{API}/organisations/acme/instances/", {**wish, "node_labels": {"disk": "nvme"}}, format="json"
    )
    assert (made.status_code, made.json()["node_labels"]) == (202, {"disk": "nvme"})
    again = operator.patch(f"{API}/instances/{made.json()['key']}/", {"node_labels": {}}, format="json")
    assert again.json()["node_labels"] == {}
