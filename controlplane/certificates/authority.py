"""The CA as a resource of its own: fetches its roots now and then, and wakes every certificate when they change.

Only test CAs such as Pebble publish roots that change (ROOST_ACME_ROOTS_URL); for all others this is a no-op.
"""

from __future__ import annotations

import logging

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from controlplane.certificates import accounts
from controlplane.certificates.models import AcmeAccount, Certificate
from controlplane.certificates.reasons import Reason
from controlplane.drivers.ca.roots import fetch_roots
from controlplane.reconcile import conditions, watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.step import Finding
from controlplane.reconcile.watch import Next
from controlplane.values.errors import Rejected, Unavailable

log = logging.getLogger(__name__)

KIND, ID = "Authority", "default"
REFETCH_S, UNREACHABLE_S = 30.0, 5.0


def ensure() -> AcmeAccount:
    """Make the account's row and have the roots looked at now. Called at start; safe to run any time."""
    with transaction.atomic():
        row = accounts.account()
        watch.touch(KIND, ID)
    return row


def reconcile(lease: Lease) -> Next:
    """One pass: fetch the roots."""
    if not settings.ROOST["ACME_ROOTS_URL"]:
        accounts.account()
        conditions.write(lease, [Finding("RootsKnown", "True", Reason.SystemTrust)], generation=0)
        return Next(settings.ROOST["RESYNC_S"])
    try:
        refresh_roots()
    except (Unavailable, Rejected) as error:
        reason = Reason.Unavailable if isinstance(error, Unavailable) else Reason.Rejected
        conditions.write(lease, [Finding("RootsKnown", "False", reason, error.message, error.remedy)], generation=0)
        return Next(UNREACHABLE_S)
    conditions.write(lease, [Finding("RootsKnown", "True", Reason.Reachable)], generation=0)
    return Next(REFETCH_S)


def refresh_roots() -> bool:
    """Fetch and store the CA's roots; True if they are others than before. Raises ``Unavailable``, ``Rejected``."""
    url = settings.ROOST["ACME_ROOTS_URL"]
    if not url:
        return False
    row = accounts.account()
    roots = fetch_roots(url, ca_file=settings.ROOST["ACME_CA_FILE"])
    with transaction.atomic():
        AcmeAccount.objects.filter(pk=row.pk).update(roots_fetched_at=timezone.now())
        if not AcmeAccount.objects.filter(pk=row.pk).exclude(roots_pem=roots).update(roots_pem=roots):
            return False
        log.info("the CA at %s has other roots than before", row.directory_url)
        for key in Certificate.objects.filter(wanted=True).values_list("instance__key", flat=True):
            watch.touch("Certificate", key)
        watch.changed(KIND, ID)
    return True
