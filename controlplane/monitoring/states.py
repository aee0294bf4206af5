"""From results to states (several like results in a row) and from states to incidents (all places agree).

``advance`` is arithmetic and keeps nothing; ``judge`` reads every place's states of some instances and opens, tells
and ends their incidents. A prober's own standing (cut off or not) is said by its ``ProbePlace``.
"""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from controlplane import wiring
from controlplane.monitoring import disk, incidents, maintenance
from controlplane.monitoring.causes import NEEDS, TITLES, ancestors
from controlplane.monitoring.models import CheckState, Incident, ProbePlace, ProbePlan
from controlplane.reconcile import watch
from controlplane.zones import services as zones
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM

#: A place that has not said anything for so long has no vote.
ALIVE_S = 60.0
#: An engine that was found to serve the wrong certificate (or none: then the handshake fails) is told to read its
#: files again by the walk of its pass.
_CERTIFICATE_CAUSES = {
    *("WrongCertificate", "CertificateExpired", "CertificateNotTrusted", "CertificateEndsSoon"),
    *("CertificateNotYetValid", "TlsFails", "NoStarttls"),
}
_LOCK = 7_077_002


@dataclass(slots=True)
class State:
    """A check's state as one place judges it; the fields of ``CheckState``."""

    state: str = CheckState.UNKNOWN
    since: datetime.datetime | None = None
    streak: int = 0
    first_against_at: datetime.datetime | None = None
    last_at: datetime.datetime | None = None
    last_ok_at: datetime.datetime | None = None
    duration_ms: float | None = None
    cause: str = ""
    message: str = ""
    doubt: str = ""  # another cause, seen once: it counts when it is seen again

    @property
    def settled_up(self) -> bool:
        return self.state == CheckState.UP and self.streak == 0


@dataclass(frozen=True, slots=True)
class Observation:
    """One result of one check of one instance, at the database's time ``at``."""

    check: str
    ok: bool
    at: datetime.datetime
    duration_ms: float
    cause: str = ""
    message: str = ""


def shard_of(key: str, shards: int) -> int:
    """The shard that looks after an instance; the same in every process and for ever."""
    return zlib.crc32(key.encode()) % max(1, shards)


def advance(state: State, seen: Observation, *, down_after: int, up_after: int) -> bool:
    """Take one result in; True if it turned the state. The first good result of an unknown check is believed."""
    state.last_at, state.duration_ms = seen.at, seen.duration_ms
    if seen.ok:
        state.last_ok_at = seen.at
    wanted = CheckState.UP if seen.ok else CheckState.DOWN
    if state.state == wanted:
        state.streak, state.first_against_at = 0, None
        if not seen.ok:
            _cause(state, seen)
        return False
    state.streak += 1
    if state.streak == 1:
        state.first_against_at = seen.at
    if not seen.ok:
        state.cause, state.message, state.doubt = seen.cause, seen.message, ""
    needed = down_after if not seen.ok else 1 if state.state == CheckState.UNKNOWN else up_after
    if state.streak < needed:
        return False
    state.state, state.since = wanted, state.first_against_at
    state.streak, state.first_against_at = 0, None
    if seen.ok:
        state.cause = state.message = state.doubt = ""
    return True


def _cause(state: State, seen: Observation) -> None:
    """The cause of a check that stays down changes when another one comes twice in a row."""
    if seen.cause == state.cause:
        state.message, state.doubt = seen.message, ""
    elif seen.cause == state.doubt:
        state.cause, state.message, state.doubt = seen.cause, seen.message, ""
    else:
        state.doubt = seen.cause


# -- from states to incidents


def subject_of(key: str, check: str) -> str:
    return f"instance:{key}:{check}"


def judge(keys: Collection[str], *, turned: Collection[str] = ()) -> None:
    """Open, tell and end the incidents of these instances' checks, as all places with a vote say.

    ``turned``: those with a check that has just turned at the caller's place: where another place does not say the
    same yet, it is asked to look at once.
    """
    places = voters()
    for instance in Instance.objects.whole().filter(key__in=list(keys)):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, instance.pk])
            _judge(instance, places, ask_others=instance.key in turned)


def doubtful() -> set[str]:
    """Keys of instances with a check that is down or an open incident of one: they are judged again and again."""
    down = CheckState.objects.filter(state=CheckState.DOWN).values_list("instance__key", flat=True)
    told = Incident.objects.filter(kind="check", ended_at=None, instance__isnull=False)
    return set(down) | {str(key) for key in told.values_list("instance__key", flat=True)}


def voters(now: datetime.datetime | None = None) -> list[ProbePlace]:
    """The places that are alive and not cut off."""
    alive = (now or timezone.now()) - datetime.timedelta(seconds=ALIVE_S)
    return list(ProbePlace.objects.filter(seen_at__gte=alive, cut_off=False))


def forget(instance: Instance, message: str) -> None:
    """End the incidents of its checks and forget their states: it is not watched any more."""
    for incident in _open(instance):
        incidents.end_incident(incident.subject, message)
    CheckState.objects.filter(instance=instance).delete()
    ProbePlan.objects.filter(instance=instance).delete()


def _judge(instance: Instance, places: Sequence[ProbePlace], *, ask_others: bool) -> None:
    if not instance.should_run:
        forget(instance, "It is suspended or on its way out, so it is not watched.")
        return
    names = {place.name for place in places if shard_of(instance.key, place.shards) == place.shard}
    if not names:
        return  # nobody can say anything
    rows = [r for r in CheckState.objects.filter(instance=instance, place__in=names) if r.state != CheckState.UNKNOWN]
    by_check: dict[str, list[CheckState]] = {}
    for row in rows:
        by_check.setdefault(row.check_name, []).append(row)
    down = {check: votes for check, votes in by_check.items() if all(v.state == CheckState.DOWN for v in votes)}
    told = {incident.subject: incident for incident in _open(instance)}
    for subject in list(told):
        check = subject.rpartition(":")[2]
        if check in by_check and check not in down:
            incidents.end_incident(subject, _words_of_end(by_check[check]))
            del told[subject]
    if ask_others:
        _ask_others(instance, names, by_check, down)
    if down:
        _tell(instance, down, told)


def _tell(instance: Instance, down: dict[str, list[CheckState]], told: dict[str, Incident]) -> None:
    roots = [check for check in down if not ancestors(check) & down.keys()]
    fresh = [check for check in roots if subject_of(instance.key, check) not in told]
    if fresh and maintenance.covering(instance) is not None:
        fresh = []
    for check in roots:
        subject = subject_of(instance.key, check)
        first = min(down[check], key=lambda row: row.since)
        known = told.get(subject)
        if known is None and check not in fresh:
            continue
        if known is None or disk.seen_as(known) != first.cause:
            told[subject], made = incidents.open_incident(
                kind="check",
                subject=subject,
                cause=first.cause or "CheckFails",
                title=f"{instance.domain.name}: {TITLES.get(check, f'{check} fails')}",
                message=first.message or "It fails.",
                instance=instance,
                started_at=first.since,
                details={"check": check, "places": sorted(row.place for row in down[check])},
            )
            if made:
                repair(instance, told[subject])
            else:
                disk.look_again(told[subject])
            disk.suspect(instance, first.cause)
        _tell_followers(check, down, told[subject])


def _tell_followers(root: str, down: dict[str, list[CheckState]], incident: Incident) -> None:
    """What fails because of it is told in it, once each."""
    known = list(incident.details.get("follows", []))
    for check in (name for name in NEEDS if name in down and root in ancestors(name) and name not in known):
        known.append(check)
        incidents.tell(incident, "Follows", f"{check}: {down[check][0].message}", {"follows": list(known)})


def repair(instance: Instance, incident: Incident) -> None:
    """Have the reconcilers look at once; what they find they repair. Says in the incident what was asked for."""
    watch.touch("Instance", instance.key)
    what = "The instance's pass was woken."
    if incident.cause == "DnsMissing":
        zones.recheck_zone(wiring.provider_zone())
        what = "All records of the provider's zone are compared again, and written where they are missing."
    elif incident.cause in _CERTIFICATE_CAUSES:
        watch.touch("Certificate", instance.key)
        tenants.reverify_instance(instance=instance, principal=SYSTEM)
        what = "The engine is made to read its certificate again, and a client's walk follows."
    incidents.tell(incident, "Acted", what)


def _ask_others(
    instance: Instance, names: Collection[str], by_check: dict[str, list[CheckState]], down: Iterable[str]
) -> None:
    alone = [
        check
        for check, votes in by_check.items()
        if check not in down and any(vote.state == CheckState.DOWN for vote in votes)
    ]
    others = {v.place for check in alone for v in by_check[check] if v.state != CheckState.DOWN} & set(names)
    if others:
        ProbePlan.objects.filter(instance=instance, place__in=others).update(wanted_at=timezone.now())


def _open(instance: Instance) -> list[Incident]:
    return list(Incident.objects.filter(instance=instance, kind="check", ended_at=None))


def _words_of_end(votes: Sequence[CheckState]) -> str:
    well = sorted(vote.place for vote in votes if vote.state == CheckState.UP)
    away = sorted(vote.place for vote in votes if vote.state == CheckState.DOWN)
    text = f"It works again, as seen from {', '.join(well)}."
    return f"{text} It still fails from {', '.join(away)}: look at the way there." if away else text


def thresholds() -> tuple[int, int]:
    """(down after, up after) so many results in a row."""
    return settings.ROOST["PROBE_DOWN_AFTER"], settings.ROOST["PROBE_UP_AFTER"]
