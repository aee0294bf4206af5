"""Publishes what a CA wants to see, checks that it can be seen, and takes it away afterwards.

Values are merged into what is at a name: several names may share one target, and a TXT record that
somebody else put there is kept. What was published is written to the order's row first.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from django.conf import settings

from controlplane import wiring
from controlplane.certificates.models import Certificate, Order
from controlplane.certificates.reasons import Reason
from controlplane.drivers.ca import dns01
from controlplane.drivers.ca.acme import DNS_01, Challenge
from controlplane.reconcile import faults
from controlplane.reconcile.lease import Lease, holding
from controlplane.values.errors import Rejected
from controlplane.values.names import DomainName
from controlplane.values.outcome import Outcome, Stalled, Wait
from controlplane.values.records import Change, RecordSet, txt

log = logging.getLogger(__name__)

MAX_TTL_S = 60
_TOKEN = re.compile(r"^[A-Za-z0-9_-]{16,128}$")
_LOOKS_S = (0.0, 0.03, 0.06, 0.12, 0.25, 0.5)
Place = tuple[str, str]  # zone, record name


def place_of(certificate: Certificate, identifier: str) -> Place:
    """(zone, record name) for the TXT of a name: as given with it, else below the name in the provider's zone."""
    given = certificate.challenge_targets.get(identifier)
    if given:
        return str(given[0]), str(given[1]).rstrip(".").lower()
    zone = wiring.provider_zone()
    if not DomainName.parse(identifier).is_within(zone):
        raise Rejected(f"Nothing says where the challenge for {identifier} can be published.")
    return zone.ascii, f"_acme-challenge.{identifier}"


def undelegated(certificate: Certificate) -> Outcome | None:
    """What the customer has to publish before an order makes sense; None if nothing is missing."""
    if settings.ROOST["ACME_CHALLENGE"] != DNS_01:
        return None
    wrong = []
    for identifier in certificate.names:
        asked = f"_acme-challenge.{identifier}"
        _, target = place_of(certificate, identifier)
        if target == asked:
            continue
        led = dns01.follow(asked, wiring.resolver())
        if target not in led:
            wrong.append((asked, target, led[-1] if led else ""))
    if not wrong:
        return None
    records = "; ".join(f"{asked}. CNAME {target}." for asked, target, _ in wrong)
    found = ", ".join(f"{asked} leads to {led}" for asked, _, led in wrong if led)
    return Stalled(
        Reason.DelegationMissing,
        f"The challenges for {len(wrong)} of {len(certificate.names)} names are not delegated to us"
        + (f" ({found})." if found else "."),
        f"Publish in the domain's zone: {records}",
        recheck_s=20.0,
    )


def publish(certificate: Certificate, order: Order, asked: Sequence[Challenge], lease: Lease) -> Outcome | None:
    """Bring the answers to where the CA looks; None as soon as they are seen there."""
    if not asked or asked[0].kind != DNS_01:
        answers = {c.token: c.key_authorization for c in asked}
        if order.http_answers != answers:
            _note(order, lease, http_answers=answers)
        return None
    wanted: dict[Place, set[str]] = defaultdict(set)
    for challenge in asked:
        wanted[place_of(certificate, challenge.identifier)].add(challenge.dns_value)
    intent = [[zone, name, sorted(values)] for (zone, name), values in sorted(wanted.items())]
    if order.published != intent:
        # Places of an earlier pass that are not wanted any more stay on the list, so that they are cleaned.
        kept = [entry for entry in order.published if (entry[0], entry[1]) not in wanted]
        _note(order, lease, published=intent + kept)
    faults.point("acme-challenge-noted")
    _write(certificate, wanted)
    faults.point("acme-challenge-published")
    return _seen(wanted)


def _write(certificate: Certificate, wanted: dict[Place, set[str]]) -> None:
    driver = wiring.dns_driver()
    if not driver.can_write:
        return
    ours = _ours(certificate.orders.all())
    ttl_s = min(MAX_TTL_S, settings.ROOST["RECORD_TTL_S"])
    for zone, names in _by_zone(wanted).items():
        there = driver.read(DomainName(zone), [(name, "TXT") for name in names])
        changes = []
        for name in names:
            have = there[name, "TXT"].rdatas if (name, "TXT") in there else frozenset()
            values = {txt(v) for v in wanted[zone, name]}
            foreign = have - {txt(v) for v in ours[zone, name]}
            if have != values | foreign:
                changes.append(Change("upsert", RecordSet.of(name, "TXT", ttl_s, values | foreign)))
        if changes:
            driver.apply(DomainName(zone), changes)


def _seen(wanted: dict[Place, set[str]]) -> Outcome | None:
    """None once every authoritative server has the values; looks a few times within a second."""
    lacking: list[str] = []
    for pause_s in _LOOKS_S:
        time.sleep(pause_s)
        lacking = []
        for zone, names in _by_zone(wanted).items():
            servers = wiring.authoritative_servers() or dns01.authoritative_for(zone, wiring.resolver())
            for name in names:
                late = dns01.missing(servers, name, frozenset(wanted[zone, name]))
                lacking += [f"{name} at {address}:{port}" for address, port in late]
        if not lacking:
            return None
    if not wiring.dns_driver().can_write:
        records = "; ".join(f"{name}. TXT {txt(v)}" for (_, name), vs in sorted(wanted.items()) for v in sorted(vs))
        return Stalled(Reason.ChallengeMissing, "The CA waits for TXT records.", f"Publish: {records}", recheck_s=10.0)
    shown = ", ".join(lacking[:5])
    return Wait(Reason.ChallengeMissing, f"The challenge's TXT records are not seen yet: {shown}.", after_s=1.0)


def clean(certificate: Certificate, lease: Lease) -> None:
    """Take away what ended orders left in the zones. Raises the DNS driver's errors; safe to run twice."""
    driver = wiring.dns_driver()
    for order in certificate.orders.exclude(state="open").exclude(published=[]):
        leftover: dict[Place, set[str]] = defaultdict(set)
        for zone, name, values in order.published:
            leftover[zone, name] |= set(values)
        for zone, names in _by_zone(leftover).items() if driver.can_write else ():
            domain = DomainName(zone)
            if not driver.zone_exists(domain):
                continue
            changes = []
            for (name, _), there in driver.read(domain, [(name, "TXT") for name in names]).items():
                rest = there.rdatas - {txt(v) for v in leftover[zone, name]}
                if rest == there.rdatas:
                    continue
                kept = RecordSet(name, "TXT", there.ttl_s, rest) if rest else there
                changes.append(Change("upsert" if rest else "delete", kept))
            if changes:
                driver.apply(domain, changes)
        faults.point("acme-challenge-removed")
        _note(order, lease, published=[])


def http01_answer(token: str) -> str | None:
    """The key authorization for ``/.well-known/acme-challenge/<token>`` (RFC 8555 §8.3); None if unknown."""
    if not _TOKEN.match(token):
        return None
    order = Order.objects.filter(state="open", http_answers__has_key=token).first()
    return None if order is None else str(order.http_answers[token])


def _note(order: Order, lease: Lease, **values: object) -> None:
    for name, value in values.items():
        setattr(order, name, value)
    with holding(lease):
        order.save(update_fields=list(values))


def _ours(orders: Iterable[Order]) -> dict[Place, set[str]]:
    """Every value that this certificate's orders put at a place."""
    found: dict[Place, set[str]] = defaultdict(set)
    for order in orders:
        for zone, name, values in order.published:
            found[zone, name] |= set(values)
    return found


def _by_zone(places: Iterable[Place]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for zone, name in places:
        found[zone].append(name)
    return found
