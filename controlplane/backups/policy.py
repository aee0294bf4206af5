"""When an instance is backed up, and what is kept for how long: the defaults, a plan's values, the instance's own.

A policy is desired state: services here write it, audit it and touch the clock; ``clock`` acts on it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.backups import schedule
from controlplane.backups.models import Backup, Policy
from controlplane.drivers.store.base import Retention
from controlplane.reconcile import history, watch
from controlplane.values.errors import InvalidInput
from tenants import audit, validators
from tenants.models import Instance, Plan
from tenants.principal import Principal

#: Shortest distance of two times of a schedule, in seconds.
SHORTEST_FULL_S, SHORTEST_MEMBERS_S = 3600, 600
KEPT = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts for one instance. ``keep``, ``keep_members``: how many of the last, hourly, daily … ones stay."""

    full_cron: str = "30 2 * * *"
    members_cron: str = "15 * * * *"
    time_zone: str = "UTC"
    jitter_s: int = 3600
    keep: Mapping[str, int] = field(default_factory=lambda: {"last": 3, "daily": 14, "weekly": 8, "monthly": 12})
    keep_members: Mapping[str, int] = field(default_factory=lambda: {"last": 3, "hourly": 48, "daily": 7})
    prune_days: int = 7
    check_days: int = 7
    check_percent: int = 5
    drill_days: int = 30
    expire_days: int = 30
    paused_at: datetime.datetime | None = None
    paused_reason: str = ""

    def cron(self, kind: str) -> str:
        return self.full_cron if kind == Backup.FULL else self.members_cron

    def jitter(self, key: str, kind: str) -> datetime.timedelta:
        """How much later than the schedule says an instance begins. Frequent ones are spread over less."""
        return schedule.jitter(key, kind, self.jitter_s if kind == Backup.FULL else min(self.jitter_s, 300))

    def retention(self, kind: str) -> Retention:
        kept = self.keep if kind == Backup.FULL else self.keep_members
        last, hourly, daily, weekly, monthly, yearly = (kept.get(name, 0) for name in KEPT)
        return Retention(last, hourly, daily, weekly, monthly, yearly)

    def last(self, kind: str, now: datetime.datetime) -> datetime.datetime | None:
        return schedule.last(self.cron(kind), self.time_zone, now)

    def next_after(self, kind: str, now: datetime.datetime) -> datetime.datetime | None:
        return schedule.next_after(self.cron(kind), self.time_zone, now)


#: field -> (smallest, largest)
LIMITS = {
    "jitter_s": (0, 6 * 3600),
    "prune_days": (1, 365),
    "check_days": (0, 365),
    "check_percent": (0, 100),
    "drill_days": (0, 365),
    "expire_days": (0, 3650),
}
#: What a tenant may decide for itself; the rest costs the provider, or is its duty.
TENANTS_OWN = frozenset({"full_cron", "members_cron", "time_zone"})
NAMES = tuple(f.name for f in fields(Rules) if not f.name.startswith("paused"))


def rules_of(instance: Instance) -> Rules:
    """The instance's own values over its plan's over the defaults."""
    rows = {row.instance_id is not None: row for row in Policy.objects.filter(instance=instance)}
    rows |= {row.instance_id is not None: row for row in Policy.objects.filter(plan=instance.plan_id)}
    rules = Rules()
    for own in (False, True):
        if (row := rows.get(own)) is not None:
            rules = replace(rules, **{k: v for k, v in row.values.items() if k in NAMES})
            if row.paused_at is not None:
                rules = replace(rules, paused_at=row.paused_at, paused_reason=row.paused_reason)
    return rules


def own_values(instance: Instance) -> dict[str, Any]:
    """What the instance has otherwise than its plan."""
    row = Policy.objects.filter(instance=instance).first()
    return dict(row.values) if row is not None else {}


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each by its name, fit to be kept; None takes an own value away. ``InvalidInput`` names what does not fit."""
    rules: dict[str, Callable[[Any], Any]] = {
        "full_cron": lambda v: schedule.cron(v, field="full_cron", shortest_s=SHORTEST_FULL_S),
        "members_cron": lambda v: schedule.cron(v, field="members_cron", shortest_s=SHORTEST_MEMBERS_S),
        "time_zone": schedule.time_zone,
        "keep": lambda v: _kept(v, "keep"),
        "keep_members": lambda v: _kept(v, "keep_members"),
        **{name: (lambda v, name=name: _number(v, name)) for name in LIMITS},  # type: ignore[misc]  # name is bound
    }
    clean = {}
    for name, value in values.items():
        if name not in rules:
            raise InvalidInput(name[:60], "A backup policy has no such value.", remedy=f"Use {', '.join(rules)}.")
        clean[name] = None if value is None else rules[name](value)
    return clean


def _number(value: Any, name: str) -> int:
    low, high = LIMITS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(name, f"Give a whole number from {low} to {high}.")
    return value


def _kept(value: Any, name: str) -> dict[str, int]:
    if not isinstance(value, Mapping) or not value or not set(value) <= set(KEPT):
        raise InvalidInput(name, f"Say how many of which are kept: {', '.join(KEPT)}.")
    for number in value.values():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 1000:
            raise InvalidInput(name, "Give whole numbers from 0 to 1000.")
    if not any(value.values()):
        raise InvalidInput(name, "Nothing at all would be kept.", remedy="Keep at least the last one.")
    return dict(value)


@transaction.atomic
def set_policy(*, instance: Instance, principal: Principal, values: Mapping[str, Any]) -> Rules:
    """Change some of the instance's own values (None: as its plan has it). Nothing happens if nothing differs."""
    clean = checked(values)
    row, _ = Policy.objects.select_for_update().get_or_create(instance=instance)
    wanted = {k: v for k, v in {**row.values, **clean}.items() if v is not None}
    if wanted != row.values:
        row.values = wanted
        row.save(update_fields=["values"])
        _note(instance, principal, "backup_policy.change", f"Backup policy: {', '.join(sorted(clean))} changed", clean)
    return rules_of(instance)


@transaction.atomic
def set_plan_policy(*, plan: Plan, principal: Principal, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for all instances of a plan that have no own value."""
    clean = checked(values)
    row, _ = Policy.objects.select_for_update().get_or_create(plan=plan)
    wanted = {k: v for k, v in {**row.values, **clean}.items() if v is not None}
    if wanted != row.values:
        row.values = wanted
        row.save(update_fields=["values"])
        keys = list(Instance.objects.filter(plan=plan).order_by("key").values_list("key", flat=True))
        watch.touch_all("Backups", keys, spread_s=60)
        summary = f"Backup policy of the plan {plan.slug}: {', '.join(sorted(clean))} changed"
        audit.record(
            principal=principal,
            action="backup_policy.change",
            kind="Plan",
            object_id=plan.slug,
            summary=summary,
            data=clean,
        )
    return wanted


@transaction.atomic
def pause(*, instance: Instance, principal: Principal, reason: str = "") -> Rules:
    """No scheduled backup is begun until ``resume``; one that was begun is finished."""
    reason = validators.line(reason, field="reason")
    row, _ = Policy.objects.select_for_update().get_or_create(instance=instance)
    if row.paused_at is None or row.paused_reason != reason:
        row.paused_at, row.paused_reason = row.paused_at or timezone.now(), reason
        row.save(update_fields=["paused_at", "paused_reason"])
        _note(instance, principal, "backup_policy.pause", f"Backups paused: {reason}".rstrip(": "), {"reason": reason})
    return rules_of(instance)


@transaction.atomic
def resume(*, instance: Instance, principal: Principal) -> Rules:
    """Back to the schedule; what was missed meanwhile is made up for at once."""
    row, _ = Policy.objects.select_for_update().get_or_create(instance=instance)
    if row.paused_at is not None:
        row.paused_at, row.paused_reason = None, ""
        row.save(update_fields=["paused_at", "paused_reason"])
        _note(instance, principal, "backup_policy.resume", "Backups resumed", {})
    return rules_of(instance)


def shown(rules: Rules) -> dict[str, Any]:
    """As the API has it."""
    return asdict(rules)


def _note(instance: Instance, principal: Principal, action: str, summary: str, data: Mapping[str, Any]) -> None:
    scope = instance.organisation.slug
    audit.record(
        principal=principal,
        action=action,
        kind="Instance",
        object_id=instance.key,
        organisation=scope,
        summary=f"{instance.domain.name}: {summary}",
        data=dict(data),
    )
    history.record("Instance", instance.key, "BackupPolicyChanged", scope=scope, message=summary)
    watch.touch("Backups", instance.key)
