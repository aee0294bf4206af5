"""The wish to publish links: off unless said, changed by its own organisation, audited, and carried to the engine."""

from __future__ import annotations

import pytest

from controlplane.fleet.models import Node, Placement
from controlplane.provisioning.subject import build_spec
from tenants.models import AuditEvent

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def spec_of(instance):
    instance.refresh_from_db()
    node = Node(name="n1", root="/srv/roost")
    placement = Placement(instance=instance, node=node, address="127.0.0.9", base_port=7000, proxy65_port=20000)
    return build_spec(instance, placement, ())


def test_the_wish_is_off_at_first_and_reaches_the_engine(ours, instance):
    path = f"/api/v1/instances/{instance.key}/"
    assert ours.get(path).json()["publish_links"] is False
    assert spec_of(instance).publish_links is False
    answer = ours.patch(path, {"publish_links": True}, format="json")
    assert answer.json()["publish_links"] is True
    assert spec_of(instance).publish_links is True
    assert instance.generation == 2
    event = AuditEvent.objects.latest("id")
    assert (event.action, event.object_id, event.data) == ("instance.change", instance.key, {"publish_links": True})
    assert ours.patch(path, {"language": "de"}, format="json").json()["publish_links"] is True


def test_it_is_a_yes_or_a_no(ours, instance):
    answer = ours.patch(f"/api/v1/instances/{instance.key}/", {"publish_links": "perhaps"}, format="json")
    assert answer.status_code == 400
    assert "publish_links" in answer.content.decode()
    assert spec_of(instance).publish_links is False


def test_nobody_else_wishes_it(ours, theirs):
    answer = ours.patch(f"/api/v1/instances/{theirs.key}/", {"publish_links": True}, format="json")
    assert answer.status_code == 404
    assert spec_of(theirs).publish_links is False


def test_an_instance_can_be_made_with_it(ours, acme, plan):
    given = {"domain": "chat.roost.example", "engine": "ejabberd", "plan": plan.slug, "publish_links": True}
    answer = ours.post("/api/v1/instances/", {**given, "organisation": acme.slug}, format="json")
    assert answer.status_code == 202
    assert answer.json()["publish_links"] is True
