"""``./roost node`` and ``./roost rollout`` against the real API: what a person types, reads, and is refused."""

from __future__ import annotations

import io
import json
import urllib.error
from email.message import Message

import pytest

from controlplane.fleet.models import Node, Placement, Rollout
from controlplane.reconcile.models import Condition
from launcher import fleet_nodes, fleet_rollouts, rest
from launcher.errors import Problem
from launcher.fleet import carry_out
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]


class Here(rest.Api):
    """The launcher's client, with Django's test client as the wire."""

    def __init__(self, client):
        self._client = client

    def ask(self, method, path, body=None):
        answer = self._client.generic(method, f"/api/v1/{path}", json.dumps(body), content_type="application/json")
        if answer.status_code >= 400:
            told = io.BytesIO(answer.content)
            raise rest._refused(method, path, urllib.error.HTTPError(path, answer.status_code, "", Message(), told))
        return answer.json()


@pytest.fixture
def run(operator, capsys):
    """Runs ``./roost node …``; gives the exit code and what was printed."""

    def call(*words, of=fleet_nodes):
        code = carry_out(of.parser(), lambda: Here(operator), words)
        return code, capsys.readouterr().out

    return call


def test_enrolling_tells_what_to_do_on_the_machine(run):
    code, out = run("enrol", "n1", "192.0.2.7", "--label", "region=eu", "--memory", "2048", "--port", "2222")
    node = Node.objects.get()
    assert code == 0
    assert (node.labels, node.memory_mib, node.ssh_port) == ({"region": "eu"}, 2048, 2222)
    assert node.public_key in out
    assert "ssh-keygen -lf" in out
    assert "./roost node accept-host-key n1" in out


def test_options_become_fields(run):
    run(
        *("enrol", "e1", "192.0.2.8", "--edge", "shared", "--edge-only", "--public", "192.0.2.8", "--public"),
        *("2001:db8::8", "--private", "10.9.0.8", "--set", 'variables={"edge_acme_http": true}'),
    )
    edge = Node.objects.get()
    assert (edge.edge, edge.carries_instances, edge.private_address) == ("shared", False, "10.9.0.8")
    assert edge.public_addresses == ["192.0.2.8", "2001:db8::8"]
    assert edge.variables == {"edge_acme_http": True}
    run("change", "e1", "--public", "192.0.2.9")
    edge.refresh_from_db()
    assert edge.public_addresses == ["192.0.2.9"]


def test_a_refusal_names_the_field_and_the_remedy(run):
    with pytest.raises(Problem) as caught:
        run("enrol", "n1", "192.0.2.7", "--label", "region=EU")
    assert "(422)" in str(caught.value)
    assert caught.value.detail.startswith("labels: The label 'region' does not fit. Names and values are")
    make_node("full", 1)
    with pytest.raises(Problem, match="404"):
        run("show", "n9")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enrol", "n1"], "The following arguments are required: address: `./roost node enrol --help`"),
        (["explode"], "Argument COMMAND: invalid choice: 'explode'"),
        (["enrol", "n1", "a", "--label", "eu"], "NAME=VALUE"),
        (["enrol", "n1", "a", "--set", "root=/srv"], "has to be JSON"),
        (["change", "n1"], "Say what to change"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence(run, words, said):
    with pytest.raises(Problem) as caught:
        run(*words)
    assert said in str(caught.value)


def test_the_list_and_one_node(run, instance):
    node = make_node("n1", 1, labels={"region": "eu"}, facts={"memory_mib": 4096, "versions": {"prosody": "0.12.3"}})
    make_node("n2", 2, edge="shared", carries_instances=False)
    Placement.objects.create(instance=instance, node=node, address="10.9.0.1", base_port=7000, proxy65_port=20000)
    Condition.objects.create(
        kind="Node", object_id="n1", type="HostKeyTrusted", status="True", message="As pinned.", position=0
    )
    Condition.objects.create(
        kind="Node",
        object_id="n1",
        type="Reachable",
        status="False",
        reason="Unreachable",
        message="Nobody answers at 192.0.2.1 port 22.",
        remedy="See whether it runs.",
        position=1,
    )
    code, out = run()
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["NODE", "READY", "STANDING", "EDGE", "INSTANCES", "MIB", "LABELS"]
    assert lines[1].split()[:7] == ["n1", "✗", "active", "own", "1", "512/4096", "region=eu"]
    assert "shared only" in lines[2]
    _, out = run("show", "n1")
    assert "  ✓  HostKeyTrusted  As pinned." in out
    assert "  ✗  Reachable       Unreachable: Nobody answers" in out
    assert "→ See whether it runs." in out
    assert "prosody 0.12.3" in out
    assert "1 instances of 1 organisations, 1 wholly; its edge leads to 1, 1 of them alone" in out
    _, out = run("blast-radius", "n1")
    assert "wholly on it        1: acme" in out


def nobody(_):
    raise EOFError


def test_standing_is_changed_and_draining_asks(run, monkeypatch):
    make_node("n1", 1)
    assert run("cordon", "n1")[1] == "n1 takes no new instances.\n"
    assert run("uncordon", "n1")[1] == "n1 takes new instances.\n"
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run("drain", "n1")[0] == 1
    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(Problem, match="--yes"):
        run("drain", "n1")
    assert Node.objects.get().standing == "active"
    assert "None are there: it can be retired." in run("drain", "n1", "--yes")[1]
    assert run("retire", "n1")[1] == "n1 is out of use.\n"
    assert run("refresh", "n1")[0] == 0


def test_host_keys_and_our_key(run):
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTwNX6FUwjZoAN9oxsoaLDpiDUxNgrRCYdhAQ4yGCM8"
    make_node("n1", 1, seen_host_keys=[key])
    _, out = run("show", "n1")
    fingerprint = next(word for word in out.split() if word.startswith("SHA256:"))
    assert fingerprint in run("accept-host-key", "n1", fingerprint)[1]
    assert Node.objects.get().host_keys == [key]
    assert run("rotate-key", "n1")[0] == 0
    assert Node.objects.get().rotate_key == 1


def test_a_preview(run, plan):
    make_node("n1", 1, prepared="d")
    make_node("n2", 2)
    code, out = run("preview", "prosody", "basic")
    assert code == 0
    assert out.startswith("It would go to n1.")
    assert "Roost has not prepared it yet." in out
    assert "With it, if n1 goes:" in out
    code, out = run("preview", "prosody", "basic", "--label", "region=mars")
    assert (code, out.startswith("It would go nowhere now.")) == (1, True)


@pytest.mark.django_db(transaction=True)
def test_waiting_shows_what_happens_and_ends(run, monkeypatch):
    from controlplane.reconcile import history

    make_node("n1", 1)

    def pass_over(_):
        history.record("Node", "n1", "Prepared=True", reason="AsWanted", message="2 tasks changed something.")
        Node.objects.update(prepare_done=1)

    monkeypatch.setattr("launcher.fleet.POLL_S", 1)
    monkeypatch.setattr("launcher.fleet.time.sleep", pass_over)
    code, out = run("prepare", "n1", "--wait")
    assert code == 0
    assert "n1: asked to apply the roles once more." in out
    with pytest.raises(Problem, match="not done after 0 s"):
        run("prepare", "n1", "--wait", "--timeout", "0")


def test_rollouts(run):
    assert run(of=fleet_rollouts) == (0, "There was no rollout yet.\n")
    for number in (1, 2):
        make_node(f"n{number}", number, prepared="d")
    code, out = run("start", "upgrade", "--canary", "n2", of=fleet_rollouts)
    row = Rollout.objects.get()
    assert code == 0
    assert out.splitlines() == [
        f"Rollout {row.pk} (upgrade): running.",
        "  …  n2              waiting",
        out.splitlines()[2],
    ]
    row.results["n2"] = {
        "state": "failed",
        "message": "Prosody did not come back.",
        "versions": {"before": {"prosody": "0.12.3"}, "after": {"prosody": "0.12.4"}},
    }
    row.state, row.reason = Rollout.STOPPED, "n2: Prosody did not come back."
    row.save()
    code, out = run("show", of=fleet_rollouts)
    assert code == 1
    assert "✗  n2              Prosody did not come back." in out
    assert "prosody 0.12.3 -> 0.12.4" in out
    assert "stopped" in run("list", of=fleet_rollouts)[1]
    with pytest.raises(Problem, match="409"):
        run("cancel", str(row.pk), of=fleet_rollouts)
