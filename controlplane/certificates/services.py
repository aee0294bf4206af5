"""What other rooms may ask of this one: want a certificate, take it, see how it is, have it gone.

Nothing here speaks to a CA: ``certificates.reconciler`` does, woken by the touch that ``want`` and ``retire`` leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

from controlplane import vault
from controlplane.certificates import orders, trust
from controlplane.certificates.challenges import http01_answer
from controlplane.certificates.models import Certificate
from controlplane.certificates.reconciler import ISSUED as ISSUED
from controlplane.certificates.reconciler import KIND
from controlplane.reconcile import conditions, watch
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.models import Condition
from controlplane.values.certificates import Chain, parse_chain
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from tenants.models import Instance

__all__ = ["http01_answer", "material", "probe_roots", "retire", "status", "trust_roots", "want"]


def want(
    instance: Instance,
    *,
    names: Sequence[DomainName],
    challenge_targets: Mapping[str, Sequence[str]],
    lease: Lease,
    known: Certificate | None,
) -> Certificate:
    """Say what the instance's certificate should name. Anything that differs makes the certificate due.

    ``challenge_targets``: name (A-labels) -> (zone, record name) where its dns-01 TXT may be written; a name
    without one uses ``_acme-challenge.<name>`` in the provider's zone. ``lease``: the caller's, of the instance.
    ``known``: the row as it was read under that lease, None if there is none: in most passes nothing differs.
    A raised ``instance.rotate_certificate`` asks for a new certificate with a new key.
    """
    wanted_names = [name.ascii for name in dict.fromkeys(names)]
    targets = {name: [str(zone), str(record)] for name, (zone, record) in challenge_targets.items()}
    wanted = (wanted_names, targets, instance.rotate_certificate, True)
    if known is not None and _wanted(known) == wanted:
        return known
    with holding(lease):
        # Its own pass takes a row away that is not wanted any more, and writes into one that is. It makes none.
        rows = Certificate.objects.select_for_update().filter(instance=instance)
        row = (rows.first() if known is not None else None) or Certificate(instance=instance)
        if row.pk is not None and _wanted(row) == wanted:
            return row
        row.names, row.challenge_targets, row.wanted = wanted_names, targets, True
        row.rotation_wanted, row.retry_at = instance.rotate_certificate, None
        row.save()
        watch.touch(KIND, instance.key)
    return row


def _wanted(row: Certificate) -> tuple[list[str], dict[str, list[str]], int, bool]:
    return (row.names, row.challenge_targets, row.rotation_wanted, row.wanted)


def material(instance: Instance, row: Certificate | None = None) -> tuple[str, Secret] | None:
    """(chain PEM, private key PEM) as last issued, which may still lack a name that was added since; None: none yet.

    ``row``: for whoever has read it.
    """
    row = row or Certificate.objects.filter(instance=instance).first()
    if row is None or not row.chain_pem:
        return None
    return row.chain_pem, vault.unseal(orders.key_context(instance.key), row.key_sealed)


def trust_roots() -> str | None:
    """What instances trust, PEM text; None: the system's roots and nothing else. May raise ``Unavailable``."""
    return trust.trust_roots()


def probe_roots(own: str | None = None) -> str | None:
    """What checks trust: the same, since a stranger's client is to be convinced by no more than that.

    ``own``: the CA's own roots, if they are read.
    """
    return trust.trust_roots(own)


def retire(instance: Instance, lease: Lease) -> bool:
    """Have the certificate revoked and removed; True once nothing is left. Watchers are touched then."""
    with holding(lease):
        row = Certificate.objects.select_for_update().filter(instance=instance).first()
        if row is None:
            return True
        if row.wanted:
            row.wanted = False
            row.save(update_fields=["wanted"])
        watch.touch(KIND, instance.key)
    return False


def is_issued(row: Certificate, condition: Condition | None, own: str | None = None) -> bool:
    """True if what is stored serves; ``condition``: ``Issued`` of the certificate, None before its first pass.

    ``own``: the CA's own roots, if they are read.
    """
    if condition is None or condition.status != "True":
        return False
    return not settings.ROOST["ACME_ROOTS_URL"] or not _root_is_gone(
        parse_chain(row.chain_pem) if row.chain_pem else None, own
    )


def condition_of(instance: Instance) -> Condition | None:
    """What the certificate's own pass found last."""
    return conditions.of(KIND, instance.key).get(ISSUED)


def status(instance: Instance) -> dict[str, Any]:
    """The certificate as the API shows it; times are aware, ``not_*`` and ``serial`` empty before the first issue.

    ``condition``: {status, reason, message, remedy, stalled, last_transition} or None before the first pass.
    ``order``: the newest one, {state, created_at, finished_at, problem}, or None.
    """
    row = Certificate.objects.filter(instance=instance).first()
    if row is None:
        return {"wanted": False, "issued": False, "names": [], "condition": None, "order": None}
    chain = parse_chain(row.chain_pem) if row.chain_pem else None
    condition = condition_of(instance)
    order = row.orders.first()
    return {
        "wanted": row.wanted,
        "issued": is_issued(row, condition),
        "names": row.names,
        "issued_names": list(chain.names.dns) if chain else [],
        "serial": row.serial,
        "fingerprint": chain.fingerprint if chain else "",
        "issuer": chain.issuer if chain else "",
        "for_s2s_external": chain.for_clients if chain else False,
        "not_before": row.not_before,
        "not_after": row.not_after,
        "renew_at": row.renew_at,
        "issued_at": row.issued_at,
        "retry_at": row.retry_at,
        "rotation": row.rotation,
        "rotation_wanted": row.rotation_wanted,
        "condition": None
        if condition is None
        else {
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "remedy": condition.remedy,
            "stalled": condition.stalled,
            "last_transition": condition.last_transition,
        },
        "order": None
        if order is None
        else {
            "state": order.state,
            "created_at": order.created_at,
            "finished_at": order.finished_at,
            "problem": order.problem,
        },
    }


def _root_is_gone(chain: Chain | None, own: str | None) -> bool:
    """True if the CA has other roots now, and the certificate's own pass has not seen it yet (test CAs only)."""
    return bool(settings.ROOST["ACME_ROOTS_URL"]) and chain is not None and bool(orders.mistrust(chain, own))
