"""How long messages and files are kept: never longer than the plan says, shorter by the organisation's own wish."""

from __future__ import annotations

import pytest

from tenants import services
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.db.api.test_publish_links import spec_of

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def days_of(instance) -> tuple[int, int]:
    limits = spec_of(instance).limits
    return limits.archive_days, limits.upload_days


def test_it_is_the_plans_until_less_is_wanted(ours, instance, plan):
    path = f"/api/v1/instances/{instance.key}/"
    assert (ours.get(path).json()["archive_days"], ours.get(path).json()["upload_days"]) == (0, 0)
    assert days_of(instance) == (plan.archive_days, plan.upload_days)
    answer = ours.patch(path, {"archive_days": 30, "upload_days": 7}, format="json")
    assert (answer.json()["archive_days"], answer.json()["upload_days"]) == (30, 7)
    assert days_of(instance) == (30, 7)
    event = AuditEvent.objects.latest("id")
    assert (event.action, event.data) == ("instance.change", {"archive_days": 30, "upload_days": 7})
    ours.patch(path, {"archive_days": 0}, format="json")
    instance.refresh_from_db()
    assert days_of(instance) == (plan.archive_days, 7)


def test_a_smaller_plan_counts(instance, plan):
    services.change_instance(instance=instance, archive_days=300, principal=SYSTEM)
    services.update_plan(plan=plan, archive_days=14, principal=SYSTEM)
    instance.plan.refresh_from_db()
    assert days_of(instance)[0] == 14


@pytest.mark.parametrize("value", [-1, "x", 36_501, 10**12, 1.5, True, [1]])
def test_what_is_no_number_of_days_is_refused(ours, instance, value):
    answer = ours.patch(f"/api/v1/instances/{instance.key}/", {"archive_days": value}, format="json")
    if value is True:  # JSON's true is taken for 1 by nobody
        assert answer.status_code in (400, 422)
    assert answer.status_code in (400, 422), answer.content
    assert b"archive_days" in answer.content
