"""What a plan allows, checked before the change. Accounts and rooms are counted by ``provisioning``."""

from __future__ import annotations

from tenants.errors import QuotaExceeded
from tenants.models import Instance, Organisation, Plan

_REMEDY = "Remove one, or take a larger plan."


def check_instances(organisation: Organisation, plan: Plan, *, beside: Instance | None = None) -> None:
    """One more instance on this plan; call it with the organisation's row locked. Raises ``QuotaExceeded``."""
    there = Instance.objects.filter(organisation=organisation, plan=plan)
    if beside is not None:
        there = there.exclude(pk=beside.pk)
    if there.count() >= plan.max_instances:
        raise QuotaExceeded(
            "plan", f"The plan {plan.slug} allows {plan.max_instances} instances per organisation.", remedy=_REMEDY
        )
