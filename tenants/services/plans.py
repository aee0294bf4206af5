"""Plans and their quotas. A changed plan changes every instance on it, so all of them are touched."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction
from django.db.models import F

from controlplane.reconcile import watch
from controlplane.values.errors import InvalidInput
from tenants import audit, validators
from tenants.errors import Taken, WrongState
from tenants.models import Instance, Plan
from tenants.principal import Principal

#: field -> (smallest, largest) value. The memory's floor is what the larger engine needs to start.
LIMITS: dict[str, tuple[int, int]] = {
    "max_instances": (0, 100_000),
    "max_accounts": (0, 10_000_000),
    "max_rooms": (0, 1_000_000),
    "memory_mib": (128, 1_048_576),
    "upload_max_mib": (1, 10_240),
    "upload_quota_mib": (1, 10_485_760),
    "upload_days": (1, 36_500),
    "archive_days": (1, 36_500),
}


@transaction.atomic
def create_plan(
    *,
    slug: str,
    name: str,
    principal: Principal,
    open: bool = True,
    node_labels: Mapping[str, str] | None = None,
    **limits: int,
) -> Plan:
    """``limits``: any of ``LIMITS``; what is left out takes the model's default."""
    validators.slug(slug)
    row = {
        "name": validators.line(name, field="name", maximum=100, empty=False),
        "open": open,
        "node_labels": validators.labels(node_labels or {}, field="node_labels"),
        **_limits(limits),
    }
    plan, made = Plan.objects.get_or_create(slug=slug, defaults=row)
    if not made:
        raise Taken("slug", f"There is a plan {slug} already.", remedy="Choose another short name.")
    _fit(plan)
    _audit(plan, "plan.create", f"Plan {slug} created", principal, row)
    return plan


@transaction.atomic
def update_plan(
    *,
    plan: Plan,
    principal: Principal,
    name: str | None = None,
    open: bool | None = None,
    node_labels: Mapping[str, str] | None = None,
    **limits: int,
) -> Plan:
    """Only what is given changes. Instances above a lowered count stay; they get no more.

    ``node_labels`` count when a node is looked for: instances that have one stay there.
    """
    changes: dict[str, object] = dict(_limits(limits))
    if name is not None:
        changes["name"] = validators.line(name, field="name", maximum=100, empty=False)
    if open is not None:
        changes["open"] = open
    if node_labels is not None:
        changes["node_labels"] = validators.labels(node_labels, field="node_labels")
    plan = Plan.objects.select_for_update().get(pk=plan.pk)
    changes = {k: v for k, v in changes.items() if getattr(plan, k) != v}
    if not changes:
        return plan
    for key, value in changes.items():
        setattr(plan, key, value)
    _fit(plan)
    plan.save(update_fields=list(changes))
    if changes.keys() & {*LIMITS, "node_labels"}:
        on_it = Instance.objects.filter(plan=plan)
        keys = list(on_it.select_for_update().order_by("pk").values_list("key", flat=True))
        on_it.filter(key__in=keys).update(generation=F("generation") + 1)
        for key in keys:
            watch.touch("Instance", key)
    _audit(plan, "plan.change", f"Plan {plan.slug} changed", principal, changes)
    return plan


@transaction.atomic
def delete_plan(*, plan: Plan, principal: Principal) -> None:
    """``WrongState`` while instances are on it: close it (``open=False``) instead."""
    plan = Plan.objects.select_for_update().get(pk=plan.pk)
    if plan.instances.exists():
        raise WrongState(f"Instances are on the plan {plan.slug}.", remedy="Close it, so that no new one takes it.")
    plan.delete()
    _audit(plan, "plan.delete", f"Plan {plan.slug} deleted", principal)


def _limits(values: dict[str, int]) -> dict[str, int]:
    for field, value in values.items():
        if field not in LIMITS:
            raise InvalidInput(field, "A plan has no such limit.", remedy=f"Use one of: {', '.join(LIMITS)}.")
        low, high = LIMITS[field]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidInput(field, "The number does not fit.", remedy=f"Give {low} to {high}.")
    return values


def _fit(plan: Plan) -> None:
    if plan.upload_max_mib > plan.upload_quota_mib:
        raise InvalidInput(
            "upload_max_mib", "One file would be larger than the whole quota.", remedy="Raise upload_quota_mib."
        )


def _audit(plan: Plan, action: str, summary: str, principal: Principal, data: dict[str, object] | None = None) -> None:
    audit.record(principal=principal, action=action, kind="Plan", object_id=plan.slug, summary=summary, data=data)
