"""Takes away what nobody needs any more. Run now and then by the clock; safe to run at any time."""

from __future__ import annotations

import datetime

from django.utils import timezone

from controlplane.reconcile import history
from tenants.models import IdempotencyKey

EVENTS_DAYS = 90
#: Clients that try again do so within hours.
ANSWERS_HOURS = 24


def tidy() -> None:
    """Old events and old answers to idempotency keys."""
    now = timezone.now()
    history.forget_before(now - datetime.timedelta(days=EVENTS_DAYS))
    IdempotencyKey.objects.filter(created_at__lt=now - datetime.timedelta(hours=ANSWERS_HOURS)).delete()
