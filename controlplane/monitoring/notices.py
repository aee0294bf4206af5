"""Notices to those who subscribed: written with what they tell, sent later by passes of their own.

At least once, in order for each incident, with growing waits for a day; then given up, and said. What a webhook is
and may reach is ``drivers.notice.webhook``'s matter, who subscribes ``subscriptions``'.
"""

from __future__ import annotations

import datetime
import json
import random
import smtplib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from controlplane import vault, wiring
from controlplane.drivers.notice import webhook
from controlplane.monitoring.models import Incident, Notice, Subscription
from controlplane.reconcile import history, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, hold
from controlplane.reconcile.watch import Next
from controlplane.values.errors import Rejected, RoostError, Unavailable

#: After this nobody is helped by the news any more.
GIVE_UP_S = 86_400.0
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 1800.0
KEPT_DAYS = 30
#: How many may be on their way at once: receivers that let us wait must not take all workers.
SLOTS = 2
_SLOT_LOCK = 7078
#: Longer than a worker lingers, so that it does not stay only to ask for a slot again.
_SLOT_WAIT_S = 3.0
#: Go out before what an incident's order says, and while the subscription fails.
_AT_ONCE = frozenset({"test", "confirm"})


def context_of(subscription: Subscription) -> str:
    """What the secret of a subscription is sealed with."""
    return f"subscription:{subscription.pk}"


def announce(incident: Incident, event: str, message: str) -> int:
    """Write a notice for every subscription that wants it; how many. In the caller's transaction.

    The provider's subscriptions are told of everything, an organisation's of its own.
    """
    mine = Q(organisation=None) | Q(organisation__slug=incident.scope)
    payload = {
        "event": event,
        "incident": incident.key,
        "kind": incident.kind,
        "cause": incident.cause,
        "title": incident.title,
        "message": message,
        "organisation": incident.scope or None,
        "instance": incident.instance.key if incident.instance else None,
        "domain": incident.instance.domain.name if incident.instance else None,
        "started_at": incident.started_at.isoformat(),
        "ended_at": incident.ended_at.isoformat() if incident.ended_at else None,
    }
    wanted = Subscription.objects.filter(mine, active=True)
    return write(wanted, event, payload, kind=incident.kind, incident=incident)


def write(
    subscriptions: QuerySet[Subscription],
    event: str,
    payload: Mapping[str, Any],
    *,
    kind: str = "",
    incident: Incident | None = None,
) -> int:
    """Notices for those of ``subscriptions`` that want this ``kind`` (empty: all); how many were written."""
    made = [
        Notice(subscription=row, incident=incident, event=event, payload=dict(payload))
        for row in subscriptions
        if (not kind or not row.kinds or kind in row.kinds) and (event in _AT_ONCE or reachable(row))
    ]
    for notice in Notice.objects.bulk_create(made):
        watch.touch("Notice", notice.pk)
    return len(made)


def reachable(row: Subscription) -> bool:
    """False for an organisation's mail address whose owner has not agreed yet."""
    return row.kind != "email" or row.organisation_id is None or row.confirmed_at is not None


def reconcile(lease: Lease) -> Next | None:
    """Send one notice, or say when to try again; ``object_id`` is its number."""
    notice = Notice.objects.select_related("subscription__organisation").filter(pk=lease.object_id).first()
    if notice is None or notice.sent_at is not None or notice.given_up_at is not None:
        leases.forget(lease.kind, lease.object_id)
        return None
    if not notice.subscription.active and notice.event not in _AT_ONCE:
        _given_up(notice, lease, "The subscription was switched off.")
        return None
    wait_s = _held_back_s(notice)
    if wait_s > 0:
        return Next(wait_s)
    with _slot() as free:
        if not free:
            return Next(_SLOT_WAIT_S)
        try:
            _send(notice)
        except RoostError as error:
            return _failed(notice, lease, error)
    _taken(notice, lease)
    return None


def _held_back_s(notice: Notice) -> float:
    """The end of an incident is not told before its beginning, and a receiver that fails is not hammered."""
    if notice.event in _AT_ONCE:
        return 0.0
    retry_at = notice.subscription.retry_at
    left_s = (retry_at - timezone.now()).total_seconds() if retry_at is not None else 0.0
    if notice.incident_id is None:
        return left_s
    earlier = Notice.objects.filter(subscription_id=notice.subscription_id, incident_id=notice.incident_id)
    if earlier.filter(pk__lt=notice.pk, sent_at=None, given_up_at=None).exists():
        return max(left_s, FIRST_WAIT_S)  # sending that one touches this one
    return left_s


@contextmanager
def _slot() -> Iterator[bool]:
    """One of a few places, held by this connection to the database; False if none is free."""
    with connection.cursor() as cursor:
        for number in range(SLOTS):
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_SLOT_LOCK, number])
            if cursor.fetchone() == (True,):
                break
        else:
            yield False
            return
    try:
        yield True
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_SLOT_LOCK, number])


def _send(notice: Notice) -> None:
    if notice.subscription.kind == "email":
        _send_mail(notice)
    else:
        _post(notice)


def _post(notice: Notice) -> None:
    row = notice.subscription
    target = webhook.Target.parse(row.target, private=row.organisation_id is None)
    body = json.dumps({"id": notice.pk, "at": notice.created_at.isoformat(), **notice.payload}, ensure_ascii=False)
    webhook.post(
        target,
        body.encode(),
        secret=vault.unseal(context_of(row), row.secret_sealed),
        headers={"Roost-Event": notice.event, "Roost-Notice": str(notice.pk)},
        resolver=wiring.resolver(),
        extra_roots=settings.ROOST["TRUST_EXTRA_FILE"],
        timeout_s=5.0 if row.failures else 10.0,
    )


def _send_mail(notice: Notice) -> None:
    if not settings.ROOST["MAIL"]:
        raise Rejected("Roost has no mail server.", remedy="Set ROOST_MAIL_URL.")
    subject, text = mail_of(notice)
    # RFC 3834: no robot is to answer.
    headers = {"Auto-Submitted": "auto-generated", "X-Roost-Event": notice.event}
    try:
        EmailMessage(subject, text, to=[notice.subscription.target], headers=headers).send()
    except smtplib.SMTPException as error:
        raise Unavailable(f"The mail server did not take it: {type(error).__name__}.") from error
    except OSError as error:
        raise Unavailable(f"The mail server does not answer: {error.strerror or type(error).__name__}.") from error


def mail_of(notice: Notice) -> tuple[str, str]:
    """Subject and text."""
    told = notice.payload
    subject = " ".join(str(told.get("title") or notice.event).split())
    about = told.get("domain") or told.get("organisation")
    mark = {"incident.opened": "Incident", "incident.ended": "Ended"}.get(notice.event, "Roost")
    lines = [str(told.get("message", "")), ""]
    labels = {"domain": "Server", "cause": "Cause", "started_at": "Began", "starts_at": "Begins", "ends_at": "Ends"}
    labels |= {"ended_at": "Ended", "incident": "Incident", "link": "Link"}
    lines += [f"{label}: {told[name]}" for name, label in labels.items() if told.get(name)]
    return f"[{mark}] {about}: {subject}" if about else f"[{mark}] {subject}", "\n".join([*lines, ""])


def _taken(notice: Notice, lease: Lease) -> None:
    now = timezone.now()
    with transaction.atomic():
        hold(lease)
        Notice.objects.filter(pk=notice.pk).update(sent_at=now, attempts=notice.attempts + 1, error="")
        Subscription.objects.filter(pk=notice.subscription_id).update(
            last_ok_at=now, failing_since=None, failures=0, retry_at=None, last_error=""
        )
        _wake_others(notice)
        leases.forget(lease.kind, lease.object_id)


def _failed(notice: Notice, lease: Lease, error: RoostError) -> Next | None:
    """Note it at the notice and at the subscription; one that asks never to be told again is switched off."""
    now, row = timezone.now(), notice.subscription
    asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
    wait_s = max(backoff_s(row.failures), asked_s or 0.0)
    gone = isinstance(error, webhook.Gone)
    with transaction.atomic():
        hold(lease)
        Notice.objects.filter(pk=notice.pk).update(attempts=notice.attempts + 1, error=str(error))
        Subscription.objects.filter(pk=row.pk).update(
            failing_since=row.failing_since or now,
            failures=row.failures + 1,
            retry_at=now + datetime.timedelta(seconds=wait_s),
            last_error=str(error),
            active=row.active and not gone,
        )
    age_s = (now - notice.created_at).total_seconds()
    if gone or age_s >= GIVE_UP_S or notice.event == "test":
        _given_up(notice, lease, str(error))
        return None
    return Next(wait_s, failed=True)


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures before this one: doubling, bounded, with jitter of a quarter."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures, 20)) * (0.75 + random.random() / 4)


def _given_up(notice: Notice, lease: Lease, why: str) -> None:
    row = notice.subscription
    scope = row.organisation.slug if row.organisation else ""
    with transaction.atomic():
        hold(lease)
        Notice.objects.filter(pk=notice.pk).update(given_up_at=timezone.now(), error=why)
        message = f"{notice.event} did not reach {row.target}: {why}"
        history.record("Subscription", str(row.pk), "NoticeGivenUp", scope=scope, reason="Undelivered", message=message)
        _wake_others(notice)
        leases.forget(lease.kind, lease.object_id)


def _wake_others(notice: Notice) -> None:
    """What waits behind this one is due."""
    waiting = Notice.objects.filter(subscription_id=notice.subscription_id, sent_at=None, given_up_at=None)
    for number in waiting.exclude(pk=notice.pk).order_by("pk").values_list("pk", flat=True)[:100]:
        watch.touch("Notice", number)


def tidy() -> int:
    """Delete notices that were sent or given up long ago; how many."""
    before = timezone.now() - datetime.timedelta(days=KEPT_DAYS)
    deleted, _ = Notice.objects.filter(Q(sent_at__lt=before) | Q(given_up_at__lt=before)).delete()
    return deleted
