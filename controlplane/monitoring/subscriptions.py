"""Who is told of incidents: subscribing a URL or a mail address, changing that, trying it, taking it away.

An organisation's mail address has to agree first (else anybody could have mails sent to anybody); the provider's own
URLs may lead inside, an organisation's may not.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone

from controlplane import vault
from controlplane.drivers.notice import webhook
from controlplane.monitoring import notices
from controlplane.monitoring.models import Incident, Notice, Subscription
from controlplane.reconcile import watch
from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret
from tenants import audit
from tenants.errors import QuotaExceeded, Taken, WrongState
from tenants.models import Organisation
from tenants.principal import Principal

#: What may be subscribed to: the kinds of incidents, and planned work.
KINDS = (*(kind for kind, _ in Incident.KINDS), "maintenance")
MAX_OF_ONE = 20
TESTS_A_MINUTE = 5
_SALT = "controlplane.monitoring.subscriptions"
#: An address that does not agree within this has to be entered again, seconds.
CONFIRM_S = 7 * 86_400


@transaction.atomic
def subscribe(
    *, organisation: Organisation | None, kind: str, target: str, kinds: Sequence[str] = (), principal: Principal
) -> tuple[Subscription, Secret | None]:
    """The subscription, and for a webhook the secret that its requests are signed with; it is shown this once."""
    target = _checked(kind, target, organisation)
    if organisation is not None:
        Organisation.objects.select_for_update().get(pk=organisation.pk)
    there = Subscription.objects.filter(organisation=organisation)
    if there.filter(kind=kind, target=target).exists():
        raise Taken("target", f"{target} is subscribed already.", remedy="Change that subscription.")
    if organisation is not None and there.count() >= MAX_OF_ONE:
        raise QuotaExceeded(
            "organisation", f"There are {MAX_OF_ONE} subscriptions already.", remedy="Remove one of them."
        )
    row = Subscription.objects.create(organisation=organisation, kind=kind, target=target, kinds=_kinds(kinds))
    secret = _seal_new(row) if kind == "webhook" else None
    if not notices.reachable(row):
        _ask(row)
    _audit(row, "create", f"{row.get_kind_display()} {target} subscribed", principal)
    return row, secret


@transaction.atomic
def change(*, subscription: Subscription, changes: Mapping[str, Any], principal: Principal) -> Subscription:
    """``active``, ``kinds``. Switched on again, it is tried afresh."""
    row = _locked(subscription)
    if "kinds" in changes:
        row.kinds = _kinds(changes["kinds"])
    if "active" in changes:
        row.active = changes["active"]
        row.failures, row.retry_at = 0, None
    row.save(update_fields=["kinds", "active", "failures", "retry_at"])
    if not notices.reachable(row) and changes.get("active"):
        _ask(row)
    _audit(row, "change", f"Subscription of {row.target} changed", principal, dict(changes))
    return row


@transaction.atomic
def unsubscribe(*, subscription: Subscription, principal: Principal) -> None:
    """It is gone, with what was not sent yet."""
    row = _locked(subscription)
    _audit(row, "delete", f"Subscription of {row.target} removed", principal)
    row.delete()


@transaction.atomic
def rotate_secret(*, subscription: Subscription, principal: Principal) -> Secret:
    """Another secret; from now on requests are signed with it alone."""
    row = _locked(subscription)
    if row.kind != "webhook":
        raise WrongState("Only webhooks have a secret.", remedy="There is nothing to rotate.")
    _audit(row, "rotate", f"The secret of {row.target} was rotated", principal)
    return _seal_new(row)


@transaction.atomic
def send_test(*, subscription: Subscription, principal: Principal) -> Notice:
    """A notice that goes out at once and is tried once; what came of it is in the notice."""
    row = _locked(subscription)
    if not notices.reachable(row):
        _ask(row)
        raise WrongState(f"{row.target} has not agreed yet.", remedy="Use the link in the mail that was sent there.")
    since = timezone.now() - datetime.timedelta(minutes=1)
    if row.notices.filter(event="test", created_at__gte=since).count() >= TESTS_A_MINUTE:
        raise WrongState("Enough tests for this minute.", remedy="Wait a minute.")
    payload = {
        "event": "test",
        "title": "A test",
        "message": f"{principal.name} asked for this test. Nothing is wrong.",
        "organisation": row.organisation.slug if row.organisation else None,
    }
    notice = Notice.objects.create(subscription=row, event="test", payload=payload)
    watch.touch("Notice", notice.pk)
    _audit(row, "test", f"A test was sent to {row.target}", principal)
    return notice


def proposed(token: str) -> Subscription | None:
    """The subscription that a link in a mail speaks of; None if the link is too old or made up."""
    try:
        number, target = signing.loads(token, salt=_SALT, max_age=CONFIRM_S)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    found = Subscription.objects.select_related("organisation").filter(pk=number, target=target, kind="email")
    return found.first()


@transaction.atomic
def confirm(subscription: Subscription) -> None:
    """The address's owner agreed."""
    Subscription.objects.filter(pk=subscription.pk, confirmed_at=None).update(confirmed_at=timezone.now())


@transaction.atomic
def decline(subscription: Subscription) -> None:
    """The address's owner wants nothing (more): the subscription is gone."""
    Subscription.objects.filter(pk=subscription.pk).delete()


def _checked(kind: str, target: str, organisation: Organisation | None) -> str:
    if kind == "webhook":
        if len(target) > 500:
            raise InvalidInput("target", "The URL is too long.", remedy="At most 500 characters are allowed.")
        webhook.Target.parse(target, private=organisation is None)
        return target
    if kind != "email":
        raise InvalidInput("kind", "There is no such kind.", remedy="Use webhook or email.")
    if not settings.ROOST["MAIL"]:
        raise InvalidInput("kind", "Mail cannot be sent from here.", remedy="Use a webhook, or ask your provider.")
    try:
        validate_email(target)
    except ValidationError as error:
        raise InvalidInput(
            "target", "This is not a mail address.", remedy="Give one such as ops@acme.example."
        ) from error
    return target


def _kinds(wanted: Sequence[str]) -> list[str]:
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise InvalidInput("kinds", f"There is no kind {unknown[0]}.", remedy=f"Use some of: {', '.join(KINDS)}.")
    return sorted(set(wanted))


def _seal_new(row: Subscription) -> Secret:
    secret = Secret(f"whsec_{secrets.token_urlsafe(32)}")
    row.secret_sealed = vault.seal(notices.context_of(row), secret)
    row.save(update_fields=["secret_sealed"])
    return secret


def _ask(row: Subscription) -> None:
    """Send the link by which the owner of a mail address agrees; not again while one is on its way or fresh."""
    since = timezone.now() - datetime.timedelta(hours=1)
    if row.notices.filter(event="confirm", created_at__gte=since).exists():
        return
    token = signing.dumps([row.pk, row.target], salt=_SALT, compress=True)
    payload = {
        "event": "confirm",
        "title": "Do you want to be told of incidents?",
        "message": f"{row.organisation} wants to send notices of incidents of its XMPP servers to this address. "
        "Open the link to agree or to refuse. If you do nothing, you hear no more of this.",
        "link": f"{settings.ROOST['STATUS_URL']}/status/confirm/{token}/",
    }
    notices.write(Subscription.objects.filter(pk=row.pk), "confirm", payload)


def _locked(subscription: Subscription) -> Subscription:
    rows = Subscription.objects.select_for_update(of=("self",)).select_related("organisation")
    return rows.get(pk=subscription.pk)


def _audit(row: Subscription, verb: str, summary: str, who: Principal, data: dict[str, Any] | None = None) -> None:
    audit.record(
        principal=who,
        action=f"subscription.{verb}",
        kind="Subscription",
        object_id=str(row.pk),
        organisation=row.organisation.slug if row.organisation else "",
        summary=summary,
        data=data,
    )
