"""One pass over the certificate of an instance: is it as wanted, and if not, go on with getting another.

Conditions of kind "Certificate": ``Issued`` is True while what is stored may be served: it covers the wanted
names, leads to a trusted root and has time left. A renewal in good time leaves it True.
"""

from __future__ import annotations

import datetime
import logging
import random
from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone

from controlplane import vault
from controlplane.certificates import accounts, challenges, orders
from controlplane.certificates.models import Certificate
from controlplane.certificates.reasons import Reason
from controlplane.drivers.ca.acme import CESSATION
from controlplane.reconcile import conditions, faults, watch
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.step import Finding, backoff_s
from controlplane.reconcile.watch import Next
from controlplane.values.certificates import Chain, parse_chain
from controlplane.values.errors import InvalidInput, Rejected, RoostError, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.outcome import Done, Outcome, Stalled, Wait

log = logging.getLogger(__name__)

KIND, ISSUED = "Certificate", "Issued"
RENEWAL_CHECK_S = 6 * 3600.0  # how often the CA is asked when it would renew (RFC 9773 §4.3)
_REVOKE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Need:
    """Why another certificate is wanted, and whether the present one may be served until then."""

    reason: Reason
    message: str
    usable: bool = False


def reconcile(lease: Lease) -> Next | None:
    """One pass; ``lease.object_id`` is the instance's key. None: the certificate is gone."""
    certificate = (
        Certificate.objects.select_related("instance__organisation").filter(instance__key=lease.object_id).first()
    )
    if certificate is None:
        leases.forget(KIND, lease.object_id)
        return None
    if not certificate.wanted:
        return _retire(certificate, lease)
    need = need_of(certificate)
    paused_s = _paused_s(certificate)
    if need is not None and paused_s > 0:  # the last pass said why, and the condition still does
        return Next(min(paused_s, settings.ROOST["RESYNC_S"]), failed=not _clean(certificate, lease))
    outcome = _kept(certificate, lease) if need is None else _advance(certificate, lease)
    if isinstance(outcome, Done):
        need = need_of(certificate)
    _report(certificate, lease, need, outcome)
    cleaned = _clean(certificate, lease)
    return _next(certificate, lease, outcome, cleaned)


def need_of(certificate: Certificate) -> Need | None:
    """Why another certificate is wanted; None: the present one is as it should be."""
    if not certificate.chain_pem:
        return Need(Reason.NotIssued, "No certificate was issued yet.")
    chain = parse_chain(certificate.chain_pem)
    if not _key_fits(certificate, chain):
        return Need(Reason.KeyLost, "The stored private key does not belong to the certificate.")
    now = timezone.now()
    if chain.not_after <= now:
        return Need(Reason.Expired, f"The certificate expired on {chain.not_after:%Y-%m-%d %H:%M} UTC.")
    why = orders.mistrust(chain)
    if why:
        return Need(Reason.Untrusted, f"The certificate leads to no trusted root ({why}).")
    if set(chain.names.dns) != set(certificate.names):
        covered = all(chain.covers(DomainName(name)) for name in certificate.names)
        return Need(Reason.NamesChanged, f"Wanted names: {', '.join(certificate.names)}.", usable=covered)
    if certificate.rotation != certificate.rotation_wanted:
        return Need(Reason.RotationWanted, "A new certificate with a new key was asked for.")
    if (certificate.renew_at or chain.renew_at) <= now:
        return Need(Reason.RenewalDue, f"It is valid until {chain.not_after:%Y-%m-%d %H:%M} UTC.", usable=True)
    return None


def _key_fits(certificate: Certificate, chain: Chain) -> bool:
    try:
        return chain.fits_key(vault.unseal(orders.key_context(certificate.instance.key), certificate.key_sealed))
    except (Rejected, InvalidInput):
        return False


def _paused_s(certificate: Certificate) -> float:
    if certificate.retry_at is None:
        return 0.0
    return (certificate.retry_at - timezone.now()).total_seconds()


def _advance(certificate: Certificate, lease: Lease) -> Outcome:
    try:
        return orders.advance(certificate, lease)
    except Unavailable as error:
        log.info("certificate of %s: %s", lease.object_id, error)
        wait_s = backoff_s(lease.attempts) if error.retry_after_s is None else error.retry_after_s
        return Wait(Reason.Unavailable, str(error), after_s=wait_s, failed=True)
    except RoostError as error:
        log.warning("certificate of %s: %s", lease.object_id, error)
        return Stalled(Reason.Rejected, error.message, error.remedy, recheck_s=60.0)


def _kept(certificate: Certificate, lease: Lease) -> Outcome:
    """Nothing to do but to close what is open, and to ask the CA now and then whether to renew earlier."""
    for order in certificate.orders.filter(state="open"):
        orders.finish(order, lease, "abandoned", "Not needed any more.")
    now = timezone.now()
    checked = certificate.renewal_checked_at
    if checked is not None and (now - checked).total_seconds() < RENEWAL_CHECK_S:
        return Done(Reason.AsWanted)
    try:
        info = accounts.client().renewal_info(certificate.chain_pem)
    except RoostError as error:  # advice only: without it two thirds of the lifetime count
        log.info("no renewal information for %s: %s", lease.object_id, error)
        return Done(Reason.AsWanted)
    if info is not None and not (certificate.renew_at and info.start <= certificate.renew_at <= info.end):
        chosen = info.start + (info.end - info.start) * random.random()
        # A CA whose advice is always "now" must not have us order without end.
        soonest = (certificate.issued_at or now) + datetime.timedelta(seconds=RENEWAL_CHECK_S)
        certificate.renew_at = max(chosen, soonest)
    certificate.renewal_checked_at = now
    with holding(lease):
        certificate.save(update_fields=["renew_at", "renewal_checked_at"])
    return Done(Reason.AsWanted)


def _report(certificate: Certificate, lease: Lease, need: Need | None, outcome: Outcome) -> None:
    if need is None:
        until = certificate.not_after
        finding = Finding(ISSUED, "True", Reason.AsWanted, f"Valid until {until:%Y-%m-%d %H:%M} UTC." if until else "")
    else:
        status = "True" if need.usable else "False"
        reason = need.reason if isinstance(outcome, Done) else outcome.reason
        said = "" if isinstance(outcome, Done) else outcome.message
        message = f"{need.message} {said}".strip()
        stalled = isinstance(outcome, Stalled)
        finding = Finding(ISSUED, status, reason, message, outcome.remedy if stalled else "", stalled)  # type: ignore[union-attr]
    instance = certificate.instance
    conditions.write(lease, [finding], generation=instance.generation, scope=instance.organisation.slug)


def _clean(certificate: Certificate, lease: Lease) -> bool:
    """Take challenges away; False if that has to be tried again."""
    try:
        challenges.clean(certificate, lease)
    except RoostError as error:
        log.warning("challenges of %s stay for now: %s", lease.object_id, error)
        return False
    return True


def _next(certificate: Certificate, lease: Lease, outcome: Outcome, cleaned: bool) -> Next:
    if isinstance(outcome, Wait):
        return Next(outcome.after_s, failed=outcome.failed)
    if isinstance(outcome, Stalled):
        return Next(outcome.recheck_s)
    if not cleaned:
        return Next(backoff_s(lease.attempts), failed=True)
    resync_s: float = settings.ROOST["RESYNC_S"] * (0.75 + random.random() / 2)
    if certificate.renew_at is not None:
        resync_s = min(resync_s, (certificate.renew_at - timezone.now()).total_seconds())
    return Next(max(1.0, resync_s))


def _retire(certificate: Certificate, lease: Lease) -> Next | None:
    """Take everything away: open orders, challenges, the certificate's validity, then the rows."""
    for order in certificate.orders.filter(state="open"):
        orders.finish(order, lease, "abandoned", "The certificate is not wanted any more.")
    try:
        challenges.clean(certificate, lease)
        _revoke(certificate, lease)
    except RoostError as error:
        log.warning("the certificate of %s cannot be removed yet: %s", lease.object_id, error)
        instance = certificate.instance
        finding = Finding(ISSUED, "False", Reason.Removing, error.message, error.remedy)
        conditions.write(lease, [finding], generation=instance.generation, scope=instance.organisation.slug)
        return Next(backoff_s(lease.attempts), failed=True)
    faults.point("acme-revoked")
    with holding(lease):
        locked = Certificate.objects.select_for_update().get(pk=certificate.pk)
        if locked.wanted:  # wanted again while it was revoked: so another has to be issued
            locked.chain_pem = locked.key_sealed = ""
            locked.save(update_fields=["chain_pem", "key_sealed"])
            return Next(0.0)
        locked.delete()
        watch.changed(KIND, lease.object_id)
        leases.forget(KIND, lease.object_id)
    return None


def _revoke(certificate: Certificate, lease: Lease) -> None:
    """Best effort: a CA that refuses, or is away several times, holds no termination up."""
    if not certificate.chain_pem or (certificate.not_after or timezone.now()) <= timezone.now():
        return
    try:
        accounts.client().revoke(certificate.chain_pem, reason=CESSATION)
    except Unavailable:
        if lease.attempts + 1 < _REVOKE_TRIES:
            raise
        log.warning("the certificate of %s was not revoked: its CA is away", lease.object_id)
    except Rejected as error:
        log.warning("the certificate of %s was not revoked: %s", lease.object_id, error)
