"""Incidents, subscriptions and planned work over the API, as an organisation and as the operator see them."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.fleet.models import Node
from controlplane.monitoring import incidents
from controlplane.monitoring.models import Maintenance, Notice, Subscription

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def begin(instance=None, node=None, **more):
    given = {"kind": "check", "subject": "s", "cause": "LoginFails", "title": "t", "message": "m", **more}
    return incidents.open_incident(instance=instance, node=node, **given)[0]


def rows(client, path):
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()["results"]


def test_an_incident_is_read_with_its_timeline(ours, instance):
    row = begin(instance)
    incidents.tell(row, "Acted", "The engine was restarted.", {"heal_s": 1.5})
    incidents.end_incident(row.subject, "Well again.")
    found = ours.get(f"/api/v1/incidents/{row.key}/").json()
    assert [line["type"] for line in found["timeline"]] == ["Noticed", "Acted", "Ended"]
    assert found["details"]["heal_s"] == 1.5
    assert found["open"] is False
    assert found["lasted_s"] >= 0
    assert found["domain"] == "acme.roost.example"


def test_incidents_are_filtered(ours, operator, instance, theirs):
    node = Node.objects.create(
        name="n1", address="127.0.0.1", instance_network="127.1.0.0/24", root="/srv", state_dir="/srv"
    )
    mine = begin(instance, node, subject="a")
    others = begin(theirs, subject="b")
    machine = begin(node=node, subject="c", kind="node", cause="NotReached")
    incidents.end_incident("b", "over")
    assert [row["key"] for row in rows(ours, "incidents/")] == [mine.key]
    assert rows(ours, "incidents/")[0]["node"] is None
    assert {row["key"] for row in rows(operator, "incidents/")} == {mine.key, others.key, machine.key}
    for asked, expected in (
        ("open=true", {mine.key, machine.key}),
        ("open=false", {others.key}),
        ("kind=node", {machine.key}),
        ("organisation=globex", {others.key}),
        (f"instance={instance.key}", {mine.key}),
        ("node=n1", {mine.key, machine.key}),
        ("until=2001-01-01T00:00:00Z", set()),
    ):
        assert {row["key"] for row in rows(operator, f"incidents/?{asked}")} == expected, asked
    assert ours.get("/api/v1/incidents/?kind=weather").status_code == 422
    assert ours.get(f"/api/v1/incidents/{machine.key}/").status_code == 404


def test_a_webhook_is_subscribed_tried_changed_and_removed(ours, acme, instance):
    wish = {"organisation": "acme", "kind": "webhook", "target": "https://hooks.example/x", "kinds": ["check"]}
    answer = ours.post("/api/v1/subscriptions/", wish)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert made["secret"].startswith("whsec_")
    path = answer["Location"].split("/api/v1/")[1]
    assert "secret" not in ours.get(f"/api/v1/{path}").json()
    assert ours.post("/api/v1/subscriptions/", wish).status_code == 409
    begin(instance)
    test = ours.post(f"/api/v1/{path}test/")
    assert test.status_code == 202
    assert test.json()["state"] == "waiting"
    assert [row["event"] for row in rows(ours, f"{path}notices/")] == ["test", "incident.opened"]
    changed = ours.patch(f"/api/v1/{path}", {"active": False, "kinds": []}).json()
    assert (changed["active"], changed["kinds"]) == (False, [])
    rotated = ours.post(f"/api/v1/{path}secret/").json()["secret"]
    assert rotated != made["secret"]
    assert ours.delete(f"/api/v1/{path}").status_code == 204
    assert ours.get(f"/api/v1/{path}").status_code == 404
    assert Notice.objects.count() == 0


@pytest.mark.parametrize("target", ["http://hooks.example/", "https://127.0.0.1/", "https://169.254.169.254/"])
def test_an_organisations_webhook_leads_outside(ours, acme, target):
    wish = {"organisation": "acme", "kind": "webhook", "target": target}
    answer = ours.post("/api/v1/subscriptions/", wish)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "target"
    assert Subscription.objects.count() == 0


def test_the_providers_subscriptions_are_the_operators(ours, operator, token, acme):
    wish = {"kind": "webhook", "target": "http://127.0.0.1:9/"}
    assert ours.post("/api/v1/subscriptions/", wish).status_code == 422
    made = operator.post("/api/v1/subscriptions/", wish)
    assert made.status_code == 201
    assert made.json()["organisation"] is None
    assert rows(ours, "subscriptions/") == []
    assert ours.get(f"/api/v1/subscriptions/{made.json()['number']}/").status_code == 404
    reader = token(None, "read")
    assert len(rows(reader, "subscriptions/")) == 1
    assert reader.post("/api/v1/subscriptions/", wish).status_code == 403
    assert reader.delete(f"/api/v1/subscriptions/{made.json()['number']}/").status_code == 403


def test_the_link_that_agrees_is_not_shown(ours, acme, settings):
    settings.ROOST = {**settings.ROOST, "MAIL": True}
    made = ours.post("/api/v1/subscriptions/", {"organisation": "acme", "kind": "email", "target": "a@b.example"})
    assert made.json()["confirmed"] is False
    found = rows(ours, f"subscriptions/{made.json()['number']}/notices/")
    assert [row["event"] for row in found] == ["confirm"]
    assert "confirm/" not in str(found)


def test_agreeing_is_a_post(client, ours, acme, settings):
    settings.ROOST = {**settings.ROOST, "MAIL": True}
    ours.post("/api/v1/subscriptions/", {"organisation": "acme", "kind": "email", "target": "a@b.example"})
    link = Notice.objects.get().payload["link"]
    path = link[link.index("/status/") :]
    page = client.get(path)
    assert page.status_code == 200
    assert b"a@b.example" in page.content
    assert Subscription.objects.get().confirmed_at is None
    assert b"Thank you" in client.post(path, {"answer": "yes"}).content
    assert Subscription.objects.get().confirmed_at is not None
    assert b"Nothing more is sent" in client.post(path, {"answer": "no"}).content
    assert Subscription.objects.count() == 0
    assert client.get(path).status_code == 404
    assert client.get("/status/confirm/made-up/").status_code == 404


def test_planned_work(ours, operator, instance, theirs):
    now = timezone.now()
    wish = {"starts_at": now, "ends_at": now + datetime.timedelta(hours=1), "message": "New disks"}
    assert ours.post("/api/v1/maintenance/", wish).status_code == 403
    made = operator.post("/api/v1/maintenance/", {**wish, "instance": instance.key})
    assert made.status_code == 201, made.content
    assert made.json()["state"] == "running"
    operator.post("/api/v1/maintenance/", {**wish, "organisation": "globex"})
    assert [row["number"] for row in rows(ours, "maintenance/")] == [made.json()["number"]]
    assert len(rows(operator, "maintenance/?state=running")) == 2
    assert ours.get("/api/v1/maintenance/?state=odd").status_code == 422
    path = f"/api/v1/maintenance/{made.json()['number']}/"
    assert ours.patch(path, {"message": "x"}).status_code == 403
    assert operator.patch(path, {"message": "Newer disks"}).json()["message"] == "Newer disks"
    assert operator.post(f"{path}cancel/").json()["state"] == "over"
    assert operator.patch(path, {"message": "x"}).status_code == 409
    assert operator.post("/api/v1/maintenance/", {**wish, "node": "nowhere"}).status_code == 422
    later = {**wish, "starts_at": now + datetime.timedelta(minutes=30)}
    planned = operator.post("/api/v1/maintenance/", later).json()
    assert planned["state"] == "planned"
    cancel = f"/api/v1/maintenance/{planned['number']}/cancel/"
    assert [operator.post(cancel).json()["state"] for _ in range(2)] == ["cancelled", "cancelled"]
    assert Maintenance.objects.count() == 3
