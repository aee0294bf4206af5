"""Notes who and what each instance has, and compares after a restart of its engine: a difference is an incident.

The roll is taken by a work item of its own, every minute and whenever the instance's conditions change. What members
change themselves between the last roll and a crash cannot be told from a loss, so the message says how old the roll
was; what Roost's own API changed meanwhile is known from the audit and is no loss.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import random
import time
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from controlplane.drivers.engine.base import EngineControl, RoomSettings
from controlplane.drivers.engine.base import Roll as Seen
from controlplane.monitoring import incidents, losses
from controlplane.monitoring.models import Roll
from controlplane.provisioning.engines import control_of
from controlplane.reconcile import history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName, Jid, Localpart
from tenants import audit
from tenants.errors import Missing
from tenants.models import AuditEvent, Instance
from tenants.principal import Principal

log = logging.getLogger(__name__)

KIND = "Roll"
#: An engine's start is told by its uptime, which takes a moment to come here.
SLACK_S = 5.0
#: Taking rolls may cost an engine one part in so many of its time.
SHARE = 100
LONGEST_S = 3600.0
#: While something is missing, whoever brings it back wants to see that soon.
MISSING_S = 20.0
#: Nobody waits for an instance that does not run; its conditions' changes wake this.
RESTING_S = 3600.0
#: What is done on purpose through the API, and to what.
_ON_PURPOSE = {
    "room.delete": "rooms",
    "room.change": "rooms",
    "room.set_affiliation": "rooms",
    "account.delete": "members",
}
#: A backup was restored in place: what was before is no measure of what is there now.
_RESTORED = "backup.restore"


def subject_of(instance: Instance) -> str:
    """The incident's subject."""
    return f"instance:{instance.key}:data"


def reconcile(lease: Lease) -> Next | None:
    """One look at one instance; ``object_id`` is its key."""
    instance = Instance.objects.whole().filter(key=lease.object_id).first()
    if instance is None:
        incidents.end_incident(f"instance:{lease.object_id}:data", "The instance is gone.")
        leases.forget(lease.kind, lease.object_id)
        return None
    if not instance.should_run:
        return Next(RESTING_S)
    known = Roll.objects.filter(instance=instance).values_list("digest", flat=True).first()
    begun, at = time.monotonic(), timezone.now()
    try:
        seen = control_of(instance).roll(known or "")
    except Unavailable as error:
        log.debug("no roll of %s: %s", instance.key, error)
        return Next(min(backoff_s(lease.attempts), _every_s()), failed=True)
    except Rejected as error:  # its engine runs with modules of an older version until its next restart
        log.warning("no roll of %s: %s", instance.key, error)
        return Next(_every_s(), failed=True)
    took_s = time.monotonic() - begun
    with transaction.atomic():
        leases.hold(lease)
        row = _note(instance, seen, at)
    return Next(MISSING_S if row.missing else min(LONGEST_S, max(_every_s(), SHARE * took_s)))


def _every_s() -> float:
    return float(settings.ROOST["ROLL_S"]) * (0.8 + random.random() * 0.4)


def _note(instance: Instance, seen: Seen, at: datetime.datetime) -> Roll:
    """Store what was seen at ``at`` and compare it, if the engine was restarted or something is missing."""
    started = at - datetime.timedelta(seconds=seen.uptime_s)
    row = Roll.objects.select_for_update().defer("content").filter(instance=instance).first()
    restarted = False
    if row is None:  # the first: there is nothing to compare with
        row = Roll(instance=instance)
    elif row.engine_started_at is not None:
        restarted = (started - row.engine_started_at).total_seconds() > SLACK_S
    content = None
    if seen.rooms is not None and seen.members is not None:
        content = losses.content_of(seen.rooms, seen.members)
    if restarted or row.missing:
        _compare(row, row.content if content is None else content, restarted=started if restarted else None)
    row.taken_at, row.digest = at, seen.digest
    if restarted or row.engine_started_at is None:
        row.engine_started_at = started
    if content is not None:  # else the large column is neither read nor written
        row.content = content
    row.save()
    return row


def _compare(row: Roll, content: losses.Content, *, restarted: datetime.datetime | None) -> None:
    """What is missing now; opens the incident, tells of changes, ends it. ``restarted``: when, if it was just seen."""
    instance, before = row.instance, row.missing
    if restarted and _was_restored(instance, row.taken_at):
        row.missing, row.missing_since = {}, None
        if before:
            incidents.end_incident(subject_of(instance), "A backup was restored in place.")
        return
    expected = losses.merged(before, row.content) if restarted else before
    since = row.missing_since or row.taken_at
    lost = losses.missing(losses.without(expected, _done_on_purpose(instance, since)), content)
    row.missing, row.missing_since = lost, since if lost else None
    if lost and restarted:
        _open(row, lost, restarted)
    elif lost:
        if lost != before:
            _tell(instance, f"Some of it is back. Still missing or different: {losses.words(lost)}.", lost)
    elif before:
        incidents.end_incident(subject_of(instance), "Everything that was missing is there again.", {"missing": {}})
    else:
        history.record(
            "Instance",
            instance.key,
            "DataProven",
            scope=instance.organisation.slug,
            reason="AsBefore",
            message=f"Since the restart at {restarted:%H:%M:%S} UTC it has all that it had before: "
            f"{len(content['rooms'])} rooms with their member lists and settings, {len(content['members'])} accounts "
            "with their contacts and bookmarks.",
        )


def _open(row: Roll, lost: losses.Content, restarted: datetime.datetime) -> None:
    instance, counts = row.instance, losses.counted(lost)
    age_s = max(0.0, (restarted - row.taken_at).total_seconds())
    domain = instance.domain.name
    message = (
        f"After the restart of its server at {restarted:%H:%M:%S} UTC, {domain} lacks or has otherwise, compared with "
        f"{age_s:.0f} s before it: {losses.words(lost)}. What members changed themselves in those {age_s:.0f} s looks "
        f"the same. For names see GET /api/v1/instances/{instance.key}/roll/. Bring it back (rooms by POST "
        "…/roll/restore/, the rest from the backup), or accept it as it is by POST …/roll/accept/."
    )
    incident, made = incidents.open_incident(
        kind="data",
        subject=subject_of(instance),
        cause=next(iter(counts)),
        title=f"{domain} lacks what it had before a restart",
        message=message,
        instance=instance,
        started_at=restarted,
        details={"missing": counts, "known_at": row.taken_at.isoformat(), "restarted_at": restarted.isoformat()},
    )
    if not made:
        incidents.tell(incident, "Noticed", message, {"missing": counts})


def _tell(instance: Instance, message: str, lost: losses.Content) -> None:
    incident = incidents.open_for(subject_of(instance))
    if incident is not None:
        incidents.tell(incident, "Noticed", message, {"missing": losses.counted(lost)})


def _was_restored(instance: Instance, since: datetime.datetime) -> bool:
    told = AuditEvent.objects.filter(kind="Instance", object_id=instance.key, action=_RESTORED)
    return told.filter(at__gt=since - datetime.timedelta(seconds=SLACK_S)).exists()


def _done_on_purpose(instance: Instance, since: datetime.datetime) -> dict[str, set[str]]:
    """Rooms and members that the API changed or deleted since then, as the audit has it."""
    found: dict[str, set[str]] = {"rooms": set(), "members": set()}
    rows: Iterable[tuple[str, str]] = AuditEvent.objects.filter(
        organisation=instance.organisation.slug,
        kind__in=("Room", "Account"),
        object_id__startswith=f"{instance.key}/",
        action__in=_ON_PURPOSE,
        # Written a moment after the engine has done it, so that of the last roll may be among them.
        at__gt=since - datetime.timedelta(seconds=SLACK_S),
    ).values_list("action", "object_id")
    for action, object_id in rows:
        found[_ON_PURPOSE[action]].add(object_id.partition("/")[2])
    return found


def shown(instance: Instance) -> dict[str, Any]:
    """What is known of its members and rooms, for the API. ``Missing`` before the first roll."""
    row = Roll.objects.filter(instance=instance).first()
    if row is None:
        raise Missing("Nothing is known of its members and rooms yet.", remedy="Wait until it is Ready.")
    incident = incidents.open_for(subject_of(instance))
    return {
        "taken_at": row.taken_at,
        "engine_started_at": row.engine_started_at,
        "rooms": len(row.content["rooms"]),
        "members": len(row.content["members"]),
        "complete": not row.missing,
        "missing": {"rooms": row.missing.get("rooms", {}), "members": row.missing.get("members", {})},
        "missing_since": row.missing_since,
        "incident": incident.key if incident else None,
    }


@transaction.atomic
def accept(*, instance: Instance, principal: Principal) -> None:
    """It is meant to be as it is now: what is missing is missing no more. Safe to call again."""
    row = Roll.objects.select_for_update().filter(instance=instance).first()
    if row is None or not row.missing:
        return
    said = losses.words(row.missing)
    row.missing, row.missing_since = {}, None
    row.save(update_fields=["missing", "missing_since"])
    _audit(instance, principal, "roll.accept", f"accept that these are missing or different: {said}")
    incidents.end_incident(subject_of(instance), f"{principal.name} accepted it as it is.")


def restore_rooms(*, instance: Instance, principal: Principal) -> tuple[list[str], list[str]]:
    """Make missing rooms again and set what they lack; names of those that are as before, and of those that are not.

    What only a member or a backup can bring back stays missing: subjects, archives, contacts, bookmarks.
    """
    row = Roll.objects.filter(instance=instance).first()
    rooms: dict[str, Any] = row.missing.get("rooms", {}) if row else {}
    if not rooms:
        return [], []
    control = control_of(instance)
    done: list[str] = []
    left: list[str] = []
    for name, lost in rooms.items():
        (done if _restore(control, Localpart(name), lost) else left).append(name)
    with transaction.atomic():
        _audit(instance, principal, "roll.restore", f"restore {len(done)} of {len(rooms)} rooms")
        watch.touch(KIND, instance.key)
        incident = incidents.open_for(subject_of(instance))
        if incident is not None:
            said = f"{principal.name} had {len(done)} of {len(rooms)} rooms restored from what was known of them."
            incidents.tell(incident, "Acted", said)
    return done, left


def _restore(control: EngineControl, name: Localpart, lost: dict[str, Any]) -> bool:
    """False if something of it could not be brought back. Unavailable engines are the caller's."""
    present = control.get_room(name)
    wanted = [(_jid(jid), kind) for jid, kind in lost.get("affiliations", {}).items()]
    known = [(jid, kind) for jid, kind in wanted if jid is not None]
    try:
        if present is None:
            owner = next((jid for jid, kind in known if kind == "owner"), None)
            if owner is None:
                return False
            control.create_room(name, RoomSettings(**lost["settings"]), owner)
        elif lost.get("settings"):
            control.set_room_settings(name, dataclasses.replace(present.settings, **lost["settings"]))
        for jid, kind in known:
            control.set_affiliation(name, jid, kind)
    except (Rejected, InvalidInput) as error:
        log.warning("the room %s is not restored: %s", name, error)
        return False
    return len(known) == len(wanted) and not lost.get("subject")


def _jid(text: str) -> Jid | None:
    """As the engine gave it; a domain alone or a full JID cannot be set by this channel."""
    local, at, domain = text.rpartition("@")
    return Jid(Localpart(local), DomainName(domain)) if at and "/" not in domain else None


def _audit(instance: Instance, principal: Principal, action: str, summary: str) -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="Instance",
        object_id=instance.key,
        organisation=instance.organisation.slug,
        summary=summary[:400],
    )
