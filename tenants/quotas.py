"""What a plan allows, checked before the change. Accounts and rooms are counted by ``provisioning``."""

from __future__ import annotations

from tenants.errors import QuotaExceeded
from tenants.models import Domain, Instance, Organisation, Plan

#: Claims beside those that have an instance: names below the provider's zone are given out unasked.
MAX_SPARE_CLAIMS = 20
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


def check_claims(organisation: Organisation) -> None:
    """Not too many claims without an instance, the new one counted; call it with ``domains.lock()`` held."""
    if Domain.objects.filter(organisation=organisation, instance=None).count() > MAX_SPARE_CLAIMS:
        raise QuotaExceeded(
            "domain",
            f"An organisation may hold {MAX_SPARE_CLAIMS} domains without an instance.",
            remedy="Release one, or create instances for them.",
        )
