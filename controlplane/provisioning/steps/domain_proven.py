"""DomainProven: the organisation controls the domain. Nothing is made for a name that is not proven."""

from __future__ import annotations

from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome, Stalled, Wait
from controlplane.zones import proof
from tenants import services as tenants
from tenants.errors import Taken
from tenants.principal import SYSTEM

#: People publish records by hand: a look every half minute is soon enough, and cheap.
LOOK_AGAIN_S = 30.0


class DomainProven:
    condition = "DomainProven"
    needs: tuple[str, ...] = ()

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        domain = subject.instance.domain
        if domain.proven_at is None:
            return None
        return Done("Proven", f"{domain.name} belongs to {subject.instance.organisation.slug} ({domain.proof_method}).")

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        domain = subject.instance.domain
        proven, method, message = proof.is_proven(domain)
        if not proven:
            return Wait("ProofMissing", message, after_s=LOOK_AGAIN_S)
        try:
            tenants.mark_domain_proven(domain=domain, method=method, principal=SYSTEM)
        except Taken as error:
            return Stalled("Taken", error.message, error.remedy or "Terminate this instance: the name is another's.")
        domain.refresh_from_db()
        return Done("Proven", message)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        return Done("Kept", "The claim goes with the instance.")
