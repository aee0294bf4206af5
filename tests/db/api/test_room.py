"""A larger plan, or a plan that grows, is refused where the nodes lack the memory for it."""

from __future__ import annotations

import pytest

from controlplane.fleet.models import Node, Placement
from tenants import services
from tenants.models import Instance, Plan
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]
API = "/api/v1"


@pytest.fixture
def placed(instance, plan, globex):
    """Two instances on a node with 1024 MiB, of which each takes 256."""
    services.update_plan(plan=plan, memory_mib=256, principal=SYSTEM)
    beside = services.create_instance(
        organisation=globex, domain="globex.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    network = "127.65.0.0/24"
    node = Node.objects.create(
        name="n1", address="127.0.0.1", instance_network=network, root="/srv", state_dir="/srv", memory_mib=1024
    )
    for number, each in enumerate((instance, beside), 1):
        Placement.objects.create(
            instance=each, node=node, address=f"127.65.0.{number}", base_port=7000, proxy65_port=20000 + number
        )
    return instance


@pytest.mark.parametrize(("memory_mib", "status"), [(769, 422), (768, 202), (128, 202)])
def test_another_plan_has_to_fit_on_the_node(ours, placed, memory_mib, status):
    services.create_plan(slug="other", name="Other", memory_mib=memory_mib, principal=SYSTEM)
    answer = ours.post(f"{API}/instances/{placed.key}/plan", {"plan": "other"})
    assert answer.status_code == status, answer.content
    assert Instance.objects.get(pk=placed.pk).plan.slug == ("basic" if status == 422 else "other")
    if status == 422:
        assert [error["field"] for error in answer.json()["errors"]] == ["plan"]
        assert "n1" not in answer.content.decode()


@pytest.mark.parametrize(("memory_mib", "status"), [(513, 422), (512, 200), (128, 200)])
def test_a_plan_that_grows_has_to_fit_for_all_on_it(operator, placed, memory_mib, status):
    answer = operator.patch(f"{API}/plans/basic/", {"memory_mib": memory_mib})
    assert answer.status_code == status, answer.content
    assert Plan.objects.get(slug="basic").memory_mib == (256 if status == 422 else memory_mib)
    if status == 422:
        assert [error["field"] for error in answer.json()["errors"]] == ["memory_mib"]


def test_a_node_that_is_too_full_already_still_lets_other_limits_change(operator, placed):
    Node.objects.update(memory_mib=100)
    assert operator.patch(f"{API}/plans/basic/", {"max_rooms": 7}).status_code == 200
