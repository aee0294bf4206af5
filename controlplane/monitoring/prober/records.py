"""What a prober writes: samples, states, its own place; and what it does when the database is away: keep and wait.

All of it runs in the prober's one database thread. Times are the database's.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import connection, transaction
from django.utils import timezone

from controlplane.monitoring import incidents, states
from controlplane.monitoring.models import CheckState, ProbePlace, ProbePlan, Sample
from controlplane.monitoring.prober.references import Standing

#: Incidents of the probers themselves; the provider's, never a tenant's.
KIND = "prober"


@dataclass(frozen=True, slots=True)
class Batch:
    """What has come together since the last write. ``states``: (instance's row, check) -> state."""

    samples: Sequence[Sample]
    states: Mapping[tuple[int, str], states.State]
    #: Keys of instances whose incidents are to be judged; of them those with a check that turned just now.
    judge: frozenset[str]
    turned: frozenset[str]
    #: instance's row -> when its next walk is due
    full_due_at: Mapping[int, datetime.datetime]


def database_now() -> datetime.datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    now: datetime.datetime = row[0]
    return now


def write(place: str, batch: Batch) -> None:
    """Samples and states in one transaction, then the judgement. Rows of instances that are gone are left out."""
    known = set(ProbePlan.objects.filter(place=place).values_list("instance_id", flat=True))
    with transaction.atomic():
        Sample.objects.bulk_create(list(batch.samples), batch_size=2000, ignore_conflicts=True)
        rows = [_row(place, pk, check, state) for (pk, check), state in sorted(batch.states.items()) if pk in known]
        CheckState.objects.bulk_create(
            rows,
            batch_size=1000,
            update_conflicts=True,
            unique_fields=["place", "instance", "check_name"],
            update_fields=[
                "state",
                "since",
                "streak",
                "first_against_at",
                "last_at",
                "last_ok_at",
                "duration_ms",
                "cause",
                "message",
            ],
        )
        for pk, due_at in sorted(batch.full_due_at.items()):
            ProbePlan.objects.filter(place=place, instance=pk).update(full_due_at=due_at)
    if batch.judge:
        states.judge(batch.judge, turned=batch.turned)


def _row(place: str, pk: int, check: str, state: states.State) -> CheckState:
    return CheckState(
        place=place,
        instance_id=pk,
        check_name=check,
        state=state.state,
        since=state.since or state.last_at or timezone.now(),
        streak=state.streak,
        first_against_at=state.first_against_at,
        last_at=state.last_at,
        last_ok_at=state.last_ok_at,
        duration_ms=state.duration_ms,
        cause=state.cause,
        message=state.message,
    )


def say_standing(place: str, shard: int, shards: int, standing: Standing) -> None:
    """Write that this prober lives and whether it sees the world; its incidents begin and end with that."""
    with transaction.atomic():
        row, _ = ProbePlace.objects.select_for_update().get_or_create(
            name=place, shard=shard, defaults={"shards": shards}
        )
        now = database_now()
        judges = standing.may_judge
        row.shards, row.seen_at, row.message = shards, now, standing.message
        row.cut_off_since = None if judges else row.cut_off_since or now
        row.cut_off = not judges
        row.save()
        name = f"{place}:{shard}"
        _keep(
            f"prober:{name}",
            standing.cut_off,
            "ProberCutOff",
            f"The prober {row} is cut off",
            f"{standing.message} It judges nothing until it reaches one again.",
            "It reaches its references again.",
        )
        off = bool(standing.off_s) or (bool(standing.message) and not standing.cut_off)
        _keep(
            f"clock:{name}",
            off,
            "ClockOff",
            f"Clocks disagree at the prober {row}",
            f"{standing.message} Have all machines keep time by NTP.",
            "The clocks agree again.",
        )


def _keep(subject: str, wrong: bool, cause: str, title: str, message: str, end: str) -> None:
    known = incidents.open_for(subject)
    if wrong and known is None:
        incidents.open_incident(kind=KIND, subject=subject, cause=cause, title=title, message=message)
    elif not wrong and known is not None:
        incidents.end_incident(subject, end)
