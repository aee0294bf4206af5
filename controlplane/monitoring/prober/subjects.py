"""Whom a prober looks at, read in few queries for thousands; and what a walk through one of them needs.

An instance is watched since it was Ready for the first time, and as long as it should run.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from controlplane import vault
from controlplane.fleet.models import Node
from controlplane.monitoring import states
from controlplane.monitoring.models import CheckState, ProbePlan
from controlplane.probes.quick import QuickSubject
from controlplane.probes.walk import WalkSubject
from controlplane.provisioning.models import ProbeAccount
from controlplane.provisioning.steps import verified
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.models import Condition
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from tenants.models import Instance

#: Where the edges serve every instance's web addresses; ``InstanceSpec.public_https_port``'s default.
HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Target:
    """An instance as the prober knows it. ``asked``: somebody wants all of it looked at now."""

    pk: int
    key: str
    quick: QuickSubject
    full_due_at: datetime.datetime
    asked: bool


def load(place: str, shard: int, shards: int) -> dict[str, Target]:
    """Key -> target, of this shard; plans are made for those that have become Ready and taken from those that ended."""
    rows = Instance.objects.filter(suspended_at=None, deletion_requested_at=None).values_list(
        "pk", "key", "domain__name", "certificate__serial"
    )
    mine = {key: (pk, domain, serial) for pk, key, domain, serial in rows if states.shard_of(key, shards) == shard}
    plans = {
        key: (full_due_at, wanted_at)
        for key, full_due_at, wanted_at in ProbePlan.objects.filter(place=place).values_list(
            "instance__key", "full_due_at", "wanted_at"
        )
        if states.shard_of(key, shards) == shard
    }
    for key, plan in _make_plans(place, {key: row[0] for key, row in mine.items() if key not in plans}).items():
        plans[key] = plan
    _forget_ended(plans.keys() - mine.keys())
    away = _away()
    made = {
        key: Target(pk, key, _quick(domain, serial or "", away), plans[key][0], plans[key][1] is not None)
        for key, (pk, domain, serial) in mine.items()
        if key in plans
    }
    asked = [target.pk for target in made.values() if target.asked]
    if asked:
        ProbePlan.objects.filter(place=place, instance__in=asked).update(wanted_at=None)
    return made


def _make_plans(place: str, without: dict[str, int]) -> dict[str, tuple[datetime.datetime, None]]:
    """For those that are Ready, and those that another place watches already."""
    if not without:
        return {}
    ready = Condition.objects.filter(kind="Instance", type="Ready", status="True", object_id__in=list(without))
    known = ProbePlan.objects.filter(instance__in=list(without.values())).values_list("instance__key", flat=True)
    fresh = set(ready.values_list("object_id", flat=True)) | set(known)
    now = timezone.now()
    plans = [ProbePlan(place=place, instance_id=without[key], full_due_at=now) for key in sorted(fresh)]
    ProbePlan.objects.bulk_create(plans, ignore_conflicts=True)
    return dict.fromkeys(fresh, (now, None))


def _forget_ended(keys: Iterable[str]) -> None:
    for instance in Instance.objects.whole().filter(key__in=list(keys)):
        if not instance.should_run:
            with transaction.atomic():
                states.forget(instance, "It is suspended or on its way out, so it is not watched.")


def _away() -> frozenset[str]:
    """Addresses of edges that are not reached: their nodes' own passes say so."""
    lost = Condition.objects.filter(kind="Node", type="Reachable", status="False").values_list("object_id", flat=True)
    rows = Node.objects.edges().filter(name__in=list(lost)).values_list("public_addresses", flat=True)
    return frozenset(address for addresses in rows for address in addresses)


@functools.lru_cache(maxsize=200_000)
def _components(domain: str) -> tuple[str, ...]:
    return tuple(name.ascii for name in Components.below(DomainName(domain)).all())


def _quick(domain: str, serial: str, away: frozenset[str]) -> QuickSubject:
    return QuickSubject(domain, _components(domain), serial, HTTPS_PORT, away)


def fresh_serial(pk: int) -> str | None:
    """The serial that has to be served by now; None if the instance is not there or should not run any more."""
    row = (
        Instance.objects.filter(pk=pk, suspended_at=None, deletion_requested_at=None)
        .values_list("certificate__serial", flat=True)
        .first()
    )
    return row if row is None else str(row)


def walk_subject(pk: int) -> WalkSubject | None:
    """What to walk through; None while its probe account is not made or its password is being changed.

    Without a peer: links have pings of their own, and a peer's fault is not this instance's.
    """
    instance = Instance.objects.whole().filter(pk=pk).first()
    account = ProbeAccount.objects.filter(instance=pk, applied=True).first()
    if instance is None or account is None or not instance.should_run or account.rotation != instance.rotate_probe:
        return None
    password = vault.unseal(f"probe:{instance.key}", account.password_sealed)
    return verified.walk_subject(Subject(instance), password, None)


def states_of(place: str, shard: int, shards: int) -> dict[tuple[str, str], states.State]:
    """(key, check) -> state as this place left it."""
    rows = CheckState.objects.filter(place=place).select_related("instance")
    return {
        (row.instance.key, row.check_name): states.State(
            row.state,
            row.since,
            row.streak,
            row.first_against_at,
            row.last_at,
            row.last_ok_at,
            row.duration_ms,
            row.cause,
            row.message,
        )
        for row in rows
        if states.shard_of(row.instance.key, shards) == shard
    }
