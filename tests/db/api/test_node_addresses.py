"""Which addresses a node has, over the API; and the page that says to everybody where they come from."""

from __future__ import annotations

import pytest

from controlplane.fleet.models import Node
from controlplane.monitoring import addresses
from controlplane.reconcile.models import WorkItem

pytestmark = [pytest.mark.db, pytest.mark.django_db]

PATH = "/api/v1/nodes/n1/addresses/"


@pytest.fixture
def node() -> Node:
    return Node.objects.create(
        name="n1", address="10.9.0.1", instance_network="10.9.0.1/32", public_addresses=["198.51.100.7"]
    )


def test_an_operator_sees_who_says_what(node, operator, settings):
    settings.ROOST = {**settings.ROOST, "PUBLIC_NETWORKS": ["198.51.100.0/24"]}
    addresses.interface_addresses(node, {4: ["198.51.100.7", "10.9.0.1"], 6: []})
    body = operator.get(PATH).json()
    assert body["public_addresses"] == ["198.51.100.7"]
    assert body["ttl_s"] == settings.ROOST["RECORD_TTL_S"]
    assert body["incident"] is None
    seen = {(one["source"], one["family"]): one["addresses"] for one in body["sightings"]}
    assert seen == {("interface", 4): ["198.51.100.7"], ("interface", 6): []}


def test_addresses_are_pinned_and_following_is_switched_off(node, operator):
    body = operator.patch(PATH, {"pinned": ["198.51.100.9", "2001:DB8::1"], "follows": False}).json()
    assert (body["pinned"], body["follows"]) == (["198.51.100.9", "2001:db8::1"], False)
    assert WorkItem.objects.filter(kind="Addresses", object_id="n1").exists()
    assert operator.patch(PATH, {"pinned": []}).json()["pinned"] == []
    assert operator.get(PATH).json()["follows"] is False
    refused = operator.patch(PATH, {"pinned": ["n1.example"]})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "pinned"


def test_a_tenant_sees_nothing_of_it(node, ours):
    assert ours.get(PATH).status_code == 403
    assert ours.patch(PATH, {"follows": False}).status_code == 403


def test_everybody_is_told_where_they_come_from(client):
    answer = client.get("/address", REMOTE_ADDR="198.51.100.20")
    assert answer.content == b"198.51.100.20"
    assert answer["Content-Type"] == "text/plain"
    assert "no-store" in answer["Cache-Control"]
    assert client.post("/address").status_code == 405
