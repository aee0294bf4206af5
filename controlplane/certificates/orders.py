"""Drives one ACME order to its certificate: row first, CA second, what it said third.

``advance`` may be called at any time, after a crash at any line too: the open row says what to go on with,
and the CA is asked how far it got. Within a pass it looks again quickly for up to ``PASS_S``, then hands back.
"""

from __future__ import annotations

import datetime
import logging
import time

from django.conf import settings
from django.utils import timezone

from controlplane import vault
from controlplane.certificates import accounts, authority, challenges, trust
from controlplane.certificates.models import Certificate, Order
from controlplane.certificates.reasons import Reason
from controlplane.drivers.ca.acme import Acme
from controlplane.drivers.ca.acme import Order as AcmeOrder
from controlplane.drivers.ca.errors import AccountUnknown, NotFound, RateLimited, Refused
from controlplane.reconcile import faults, watch
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.step import backoff_s
from controlplane.values.certificates import Chain, distrust, new_key, new_request, parse_chain
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.outcome import Done, Outcome, Stalled, Wait

log = logging.getLogger(__name__)

PASS_S = 3.0
_LOSSES_COUNT, _FREE_LOSSES = datetime.timedelta(hours=1), 2
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.03, 0.4
_KEPT_ORDERS = 5


def key_context(instance_key: str) -> str:
    """What the keys of an instance's certificate and orders are sealed with."""
    return f"certificate:{instance_key}"


def advance(certificate: Certificate, lease: Lease) -> Outcome:
    """Go on with the open order, or make one. ``Done``: the certificate is stored.

    Raises ``Unavailable`` (the order stays open) and, before there is an order at the CA, ``Rejected``.
    """
    order = certificate.orders.filter(state="open").first()
    if order is not None and not _fits(order, certificate):
        finish(order, lease, "abandoned")
        order = None
    resumed = order is not None
    if order is None:
        missing = challenges.undelegated(certificate)
        if missing is not None:
            return missing
        order = _begin(certificate, lease)
        faults.point("acme-order-noted")
    acme = accounts.client()
    try:
        return _Drive(certificate, order, lease, acme).run(resumed=resumed)
    except AccountUnknown as error:
        accounts.forget()
        finish(order, lease, "abandoned", error.message)
        watch.touch("Authority", authority.ID)  # a CA that forgot us may have other roots
        return _another(certificate, lease, Reason.AccountLost, error.message)
    except NotFound as error:
        finish(order, lease, "abandoned", error.message)
        return _another(certificate, lease, Reason.OrderLost, error.message)
    except RateLimited as error:
        wait_s = error.retry_after_s or 0.0
        _pause(certificate, lease, wait_s)
        return Wait(Reason.RateLimited, error.message, after_s=wait_s)
    except Refused as error:
        return _fail(certificate, order, lease, Reason.Rejected, error)


def _fits(order: Order, certificate: Certificate) -> bool:
    return set(order.names) == set(certificate.names) and order.rotation == certificate.rotation_wanted


def _begin(certificate: Certificate, lease: Lease) -> Order:
    """The intent: a row with the key and the request, before the CA hears of it."""
    key = new_key()
    names = [DomainName.parse(name, field="names") for name in certificate.names]
    with holding(lease):
        return Order.objects.create(
            certificate=certificate,
            key_sealed=vault.seal(key_context(certificate.instance.key), key),
            csr_pem=new_request(key, names),
            names=[name.ascii for name in names],
            rotation=certificate.rotation_wanted,
        )


def finish(order: Order, lease: Lease, state: str, problem: str = "") -> None:
    """Close an order that brought nothing."""
    with holding(lease):
        order.state, order.problem, order.finished_at = state, problem[:2000], timezone.now()
        order.http_answers = {}
        order.save(update_fields=["state", "problem", "finished_at", "http_answers"])


def _pause(certificate: Certificate, lease: Lease, wait_s: float) -> None:
    with holding(lease):
        certificate.retry_at = timezone.now() + datetime.timedelta(seconds=wait_s)
        certificate.save(update_fields=["retry_at"])


def _another(certificate: Certificate, lease: Lease, reason: Reason, message: str) -> Outcome:
    """Order anew, at once after a loss or two, then ever later: a CA that loses all orders must not be flooded."""
    recently = timezone.now() - _LOSSES_COUNT
    lost = certificate.orders.filter(state="abandoned", finished_at__gte=recently).exclude(problem="").count()
    if lost <= _FREE_LOSSES:
        return Wait(reason, message, after_s=0.2, failed=True)
    wait_s = backoff_s(lost)
    _pause(certificate, lease, wait_s)
    return Wait(reason, message, after_s=wait_s, failed=True)


def _fail(certificate: Certificate, order: Order, lease: Lease, reason: Reason, error: Rejected) -> Outcome:
    """Close it as failed and wait longer each time: CAs count failures (RFC 8555 §6.6 leaves the numbers to them)."""
    finish(order, lease, "failed", error.message)
    since = certificate.issued_at or certificate.instance.created_at
    failures = certificate.orders.filter(
        state="failed", created_at__gte=since, names=order.names, rotation=order.rotation
    ).count()
    wait_s = min(12 * settings.ROOST["BACKOFF_CAP_S"], 15.0 * 2 ** min(failures, 12))
    _pause(certificate, lease, wait_s)
    log.warning("certificate of %s: %s", certificate.instance.key, error.message)
    remedy = error.remedy or "Mend what the CA complains about."
    return Stalled(reason, error.message, f"{remedy} It is tried again after {wait_s:.0f} s.", recheck_s=wait_s)


class _Drive:
    """One pass over one open order."""

    def __init__(self, certificate: Certificate, order: Order, lease: Lease, acme: Acme) -> None:
        self.certificate, self.order, self.lease, self.acme = certificate, order, lease, acme
        self.deadline = time.monotonic() + PASS_S
        self.look_s = _FIRST_LOOK_S
        self.answered = False

    def run(self, *, resumed: bool) -> Outcome:
        state = self._opened(resumed=resumed)
        while True:
            match state.status:
                case "pending" if not self.answered:
                    outcome = self._prove(state)
                    if outcome is not None:
                        return outcome
                case "ready":
                    state = self.acme.finalize(state)
                    faults.point("acme-finalized")
                    self._store(state)
                    continue
                case "valid":
                    return self._collect(state)
                case "invalid":
                    return self._invalid(state)
            outcome = self._look_later(state)
            if outcome is not None:
                return outcome
            state = self.acme.refresh(state)
            self._store(state)

    def _opened(self, *, resumed: bool) -> AcmeOrder:
        """The order at the CA: the one we know, the one we made and died before writing down, or a new one."""
        order = self.order
        if order.state_json:
            return self.acme.refresh(AcmeOrder.from_json(order.state_json), deep=True)
        state = None
        if resumed:
            known = set(Order.objects.exclude(url="").values_list("url", flat=True))
            state = self.acme.find_order(order.csr_pem, order.names, known=known)
        if state is None:
            state = self.acme.new_order(order.csr_pem)
        faults.point("acme-ordered")
        self._store(state)
        return state

    def _store(self, state: AcmeOrder) -> None:
        text = state.to_json()
        if text == self.order.state_json:
            return
        with holding(self.lease):
            self.order.url, self.order.state_json = state.url, text
            self.order.save(update_fields=["url", "state_json"])

    def _prove(self, state: AcmeOrder) -> Outcome | None:
        """Publish and answer every challenge that the CA does not look at yet."""
        asked = self.acme.challenges(state, settings.ROOST["ACME_CHALLENGE"])
        unanswered = [c for c in asked if c.status == "pending"]
        if unanswered:
            outcome = challenges.publish(self.certificate, self.order, asked, self.lease)
            if outcome is not None:
                return outcome
        for challenge in unanswered:
            self.acme.answer(challenge)
        faults.point("acme-answered")
        self.answered = True
        return None

    def _look_later(self, state: AcmeOrder) -> Outcome | None:
        """Wait a moment within the pass, or hand back. A CA that names a time gets it."""
        look_s, self.look_s = self.look_s, min(_LONGEST_LOOK_S, self.look_s * 1.5)
        if state.retry_after_s:
            look_s = state.retry_after_s
        if time.monotonic() + look_s <= self.deadline:
            time.sleep(look_s)
            return None
        if state.status == "processing":
            return Wait(Reason.OrderPending, "The CA is issuing it.", after_s=max(0.5, look_s))
        return Wait(Reason.Validating, "The CA checks the names.", after_s=max(0.5, look_s))

    def _invalid(self, state: AcmeOrder) -> Outcome:
        self._store(state)
        if not state.problem:  # it only grew too old
            finish(self.order, self.lease, "abandoned", "The order expired.")
            return _another(self.certificate, self.lease, Reason.OrderLost, "The order expired; another one follows.")
        error = Rejected(f"The CA did not validate the names: {state.problem}", remedy="Check the records it names.")
        return _fail(self.certificate, self.order, self.lease, Reason.ValidationFailed, error)

    def _collect(self, state: AcmeOrder) -> Outcome:
        chain = parse_chain(self.acme.chain(state))
        self._store(state)
        wrong = self._objection(chain)
        if wrong is not None:
            reason = Reason.Untrusted if wrong.remedy else Reason.Rejected
            return _fail(self.certificate, self.order, self.lease, reason, wrong)
        faults.point("acme-collected")
        self._keep(chain)
        faults.point("acme-issued")
        log.info("issued %s", chain)
        return Done(Reason.AsWanted)

    def _objection(self, chain: Chain) -> Rejected | None:
        """Why the certificate must not be used; None if it is as ordered."""
        key = vault.unseal(key_context(self.certificate.instance.key), self.order.key_sealed)
        if not chain.fits_key(key):
            return Rejected("The CA issued a certificate for another key.")
        lacking = [name for name in self.order.names if not chain.covers(DomainName(name))]
        if lacking:
            return Rejected(f"The CA issued a certificate without {', '.join(lacking)}.")
        why = mistrust(chain)
        if why:
            try:
                authority.refresh_roots()
            except Unavailable:
                log.info("the CA's roots cannot be fetched now")
            why = mistrust(chain)
        if not why:
            return None
        return Rejected(
            f"The certificate leads to no trusted root ({why}).",
            remedy="Put the CA's root into ROOST_TRUST_EXTRA_FILE.",
        )

    def _keep(self, chain: Chain) -> None:
        certificate, order, now = self.certificate, self.order, timezone.now()
        with holding(self.lease):
            certificate.chain_pem, certificate.key_sealed = chain.pem, order.key_sealed
            certificate.serial, certificate.rotation = chain.serial, order.rotation
            certificate.not_before, certificate.not_after = chain.not_before, chain.not_after
            certificate.renew_at, certificate.renewal_checked_at = chain.renew_at, None
            certificate.issued_at, certificate.retry_at = now, None
            certificate.save(update_fields=_ISSUED_FIELDS)
            order.state, order.finished_at, order.http_answers, order.problem = "issued", now, {}, ""
            order.save(update_fields=["state", "finished_at", "http_answers", "problem"])
            ended = certificate.orders.exclude(state="open").filter(published=[]).order_by("-created_at")
            Order.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[_KEPT_ORDERS:])).delete()
            # The condition may stay True over a renewal, but whoever serves the certificate has to load it.
            watch.changed(self.lease.kind, self.lease.object_id)


_ISSUED_FIELDS = [
    "chain_pem",
    "key_sealed",
    "serial",
    "rotation",
    "not_before",
    "not_after",
    "renew_at",
    "renewal_checked_at",
    "issued_at",
    "retry_at",
]


def mistrust(chain: Chain, own: str | None = None) -> str:
    """Why a certificate leads to no trusted root now; empty if it does, or if the system has no roots to ask.

    ``own``: the CA's own roots, if they are read.
    """
    roots = trust.own_roots() if own is None else own
    at = timezone.now()
    if roots and not distrust(chain, roots, at):
        return ""
    everything = trust.all_roots(roots)
    if everything:
        return distrust(chain, everything, at)
    return "" if settings.ROOST["TRUST_SYSTEM"] else "no trusted root is known"
