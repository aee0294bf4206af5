"""An instance's links, «retry now», and the graph in which other organisations stay unnamed."""

from __future__ import annotations

import pytest
from django.utils import timezone

from controlplane.monitoring.models import S2sLink
from controlplane.reconcile.models import WorkItem
from tenants.models import AuditEvent

pytestmark = [pytest.mark.db, pytest.mark.django_db]

STREAM = {
    "direction": "out", "local": "acme.roost.example", "remote": "far.example", "encrypted": True,
    "auth": "certificate", "address": "192.0.2.7", "age_s": 3.0, "idle_s": None, "error": "",
}  # fmt: skip


@pytest.fixture
def linked(instance, theirs):
    S2sLink.objects.create(instance=instance, remote=theirs.domain.name, peer=theirs, state="up")
    S2sLink.objects.create(instance=theirs, remote=instance.domain.name, peer=instance, state="up")
    return S2sLink.objects.create(
        instance=instance, remote="far.example", state="down", cause="PeerDown", streams=[STREAM], failures=4,
        retry_at=timezone.now(), message="nothing listens there",
    )  # fmt: skip


def test_links_are_listed_and_filtered(ours, linked, instance):
    answer = ours.get(f"/api/v1/instances/{instance.key}/links/")
    assert answer.status_code == 200
    assert [row["remote"] for row in answer.json()["results"]] == ["far.example", "globex.roost.example"]
    down = ours.get(f"/api/v1/instances/{instance.key}/links/?state=down").json()["results"]
    assert [(row["remote"], row["cause"], row["streams"]) for row in down] == [("far.example", "PeerDown", [STREAM])]
    assert ours.get(f"/api/v1/instances/{instance.key}/links/?state=odd").status_code == 422


def test_retry_is_audited_and_due_at_once(ours, linked, instance):
    where = f"/api/v1/instances/{instance.key}/links/far.example/"
    answer = ours.post(f"{where}retry/")
    assert answer.status_code == 202
    assert answer["Location"].endswith(where)
    body = ours.get(where).json()
    assert (body["retry_at"], body["failures"], body["suspect_by"]) == (None, 0, "operator")
    assert WorkItem.objects.filter(kind="S2sLink", object_id=str(linked.pk)).exists()
    event = AuditEvent.objects.get(action="link.retry")
    assert (event.organisation, event.object_id) == ("acme", instance.key)


def test_a_retry_needs_a_link_that_is_there(ours, linked, instance):
    for remote in ("nobody.example", "-", "a..b", "conference.far.example"):
        assert ours.post(f"/api/v1/instances/{instance.key}/links/{remote}/retry/").status_code == 404
    assert not AuditEvent.objects.filter(action="link.retry").exists()


def test_the_graph_names_only_ones_own_and_strangers(ours, operator, linked, instance, theirs):
    mine = ours.get("/api/v1/links/").json()
    assert {node["domain"] for node in mine["nodes"]} == {"acme.roost.example", "far.example", None}
    assert theirs.key not in str(mine)
    assert len(mine["edges"]) == 2
    every = operator.get("/api/v1/links/").json()
    assert {node["instance"] for node in every["nodes"]} == {instance.key, theirs.key, None}
    assert all(node["domain"] for node in every["nodes"])
    assert len(every["edges"]) == 2, "both ends tell of the same link"
