"""What other rooms may ask of this one: want a certificate, take it, see how it is, have it gone.

Nothing here speaks to a CA: ``certificates.reconciler`` does, woken by the touch that ``want`` and ``retire`` leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction

from controlplane import vault
from controlplane.certificates import orders, trust
from controlplane.certificates.challenges import http01_answer
from controlplane.certificates.models import Certificate
from controlplane.certificates.reconciler import ISSUED, KIND
from controlplane.reconcile import conditions, watch
from controlplane.reconcile.lease import Lease, hold
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
) -> Certificate:
    """Say what the instance's certificate should name. Anything that differs makes the certificate due.

    ``challenge_targets``: name (A-labels) -> (zone, record name) where its dns-01 TXT may be written; a name
    without one uses ``_acme-challenge.<name>`` in the provider's zone. ``lease``: the caller's, of the instance.
    A raised ``instance.rotate_certificate`` asks for a new certificate with a new key.
    """
    wanted_names = [name.ascii for name in dict.fromkeys(names)]
    targets = {name: [str(zone), str(record)] for name, (zone, record) in challenge_targets.items()}
    with transaction.atomic():
        hold(lease)
        row = Certificate.objects.select_for_update().filter(instance=instance).first()
        if row is None:
            row = Certificate(instance=instance)
        elif (row.names, row.challenge_targets, row.rotation_wanted, row.wanted) == (
            wanted_names,
            targets,
            instance.rotate_certificate,
            True,
        ):
            return row
        row.names, row.challenge_targets, row.wanted = wanted_names, targets, True
        row.rotation_wanted, row.retry_at = instance.rotate_certificate, None
        row.save()
        watch.touch(KIND, instance.key)
    return row


def material(instance: Instance) -> tuple[str, Secret] | None:
    """(chain PEM, private key PEM) as last issued, which may still lack a name that was added since; None: none yet."""
    row = Certificate.objects.filter(instance=instance).exclude(chain_pem="").first()
    if row is None:
        return None
    return row.chain_pem, vault.unseal(orders.key_context(instance.key), row.key_sealed)


def trust_roots() -> str | None:
    """What instances trust, PEM text; None: the system's roots and nothing else. May raise ``Unavailable``."""
    return trust.trust_roots()


def probe_roots() -> str | None:
    """What checks trust: the same, since a stranger's client is to be convinced by no more than that."""
    return trust.trust_roots()


def retire(instance: Instance, lease: Lease) -> bool:
    """Have the certificate revoked and removed; True once nothing is left. Watchers are touched then."""
    with transaction.atomic():
        hold(lease)
        row = Certificate.objects.select_for_update().filter(instance=instance).first()
        if row is None:
            return True
        if row.wanted:
            row.wanted = False
            row.save(update_fields=["wanted"])
        watch.touch(KIND, instance.key)
    return False


def status(instance: Instance) -> dict[str, Any]:
    """The certificate as the API shows it; times are aware, ``not_*`` and ``serial`` empty before the first issue.

    ``condition``: {status, reason, message, remedy, stalled, last_transition} or None before the first pass.
    ``order``: the newest one, {state, created_at, finished_at, problem}, or None.
    """
    row = Certificate.objects.filter(instance=instance).first()
    if row is None:
        return {"wanted": False, "issued": False, "names": [], "condition": None, "order": None}
    chain = parse_chain(row.chain_pem) if row.chain_pem else None
    condition = conditions.of(KIND, instance.key).get(ISSUED)
    order = row.orders.first()
    return {
        "wanted": row.wanted,
        "issued": condition is not None and condition.status == "True" and not _root_is_gone(chain),
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


def _root_is_gone(chain: Chain | None) -> bool:
    """True if the CA has other roots now, and the certificate's own pass has not seen it yet (test CAs only)."""
    return bool(settings.ROOST["ACME_ROOTS_URL"]) and chain is not None and bool(orders.mistrust(chain))
