"""Claims on domains: anybody may claim, only who proves control owns.

The proof itself is measured by ``controlplane.zones.proof``, above this room; its caller comes back here with
``mark_domain_proven``.
"""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.utils import timezone

from controlplane.reconcile import history, watch
from controlplane.values.names import DomainName
from tenants import audit, domains, quotas
from tenants.errors import Taken, WrongState
from tenants.models import Domain, Instance, Organisation
from tenants.principal import Principal


@transaction.atomic
def claim_domain(*, organisation: Organisation, domain: str, principal: Principal) -> Domain:
    """The organisation's claim on a name; the one it has if there is one.

    A name below the provider's zone is proven at once: it is the provider's to give. Any other waits for the
    proof. Raises ``InvalidInput`` for a name that nobody may have, ``Taken`` for one that another has and
    ``QuotaExceeded`` for one too many.
    """
    claim, made = bind(organisation=organisation, domain=domain)
    if made:
        quotas.check_claims(organisation)
        audit.record(
            principal=principal,
            action="domain.claim",
            kind="Domain",
            object_id=claim.name,
            organisation=organisation.slug,
            summary=f"{claim.name} claimed by {organisation.slug}",
            data={"mode": claim.mode},
        )
    return claim


def bind(*, organisation: Organisation, domain: str) -> tuple[Domain, bool]:
    """The claim's row and whether it is new; inside the caller's transaction, without an audit event."""
    name, mode = domains.check(domain)
    domains.lock()
    claim = Domain.objects.filter(organisation=organisation, name=name.ascii).first()
    if claim is not None:
        return claim, False
    domains.check_overlap(name, organisation)
    proof = {"proven_at": timezone.now(), "proof_method": "provider"} if mode == "provider" else {}
    return Domain.objects.create(organisation=organisation, name=name.ascii, mode=mode, **proof), True


@transaction.atomic
def mark_domain_proven(*, domain: Domain, method: str, principal: Principal) -> Domain:
    """Control of the name was seen. ``method``: such as ``txt``, ``delegation``, ``provider``.

    ``Taken`` if another organisation proved the name, or one above it, meanwhile.
    """
    domains.lock()
    domain = Domain.objects.select_for_update().select_related("organisation").get(pk=domain.pk)
    if domain.proven_at is not None:
        return domain
    domains.check_overlap(DomainName(domain.name), domain.organisation)
    domain.proven_at, domain.proof_method = timezone.now(), method[:20]
    try:
        with transaction.atomic():
            domain.save(update_fields=["proven_at", "proof_method"])
    except IntegrityError as error:
        raise Taken("domain", f"{domain.name} belongs to another organisation.") from error
    _audit_proof(domain, method, principal)
    instance = Instance.objects.filter(domain=domain).first()
    if instance is not None:
        history.record(
            "Instance", instance.key, "DomainProven", scope=domain.organisation.slug, message=f"Proven by {method}."
        )
        watch.touch("Instance", instance.key)
    return domain


@transaction.atomic
def release_domain(*, domain: Domain, principal: Principal) -> None:
    """Give the claim up. ``WrongState`` while an instance has the name."""
    domain = Domain.objects.select_for_update().select_related("organisation").get(pk=domain.pk)
    if Instance.objects.filter(domain=domain).exists():
        raise WrongState(
            f"An instance has the domain {domain.name}.", remedy="Terminate the instance; its domain goes with it."
        )
    domain.delete()
    audit.record(
        principal=principal,
        action="domain.release",
        kind="Domain",
        object_id=domain.name,
        organisation=domain.organisation.slug,
        summary=f"{domain.name} released by {domain.organisation.slug}",
    )


def _audit_proof(domain: Domain, method: str, principal: Principal) -> None:
    audit.record(
        principal=principal,
        action="domain.prove",
        kind="Domain",
        object_id=domain.name,
        organisation=domain.organisation.slug,
        summary=f"Control of {domain.name} proven by {method}",
        data={"method": method},
    )
