"""CertificateIssued: a certificate of the CA for the domain and its components is at hand.

Getting it is the certificate's own pass; the step says for which names and where its challenges go, and mirrors
that pass's condition.
"""

from __future__ import annotations

from controlplane.certificates import services as certificates
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease
from controlplane.values.outcome import Done, Outcome, Stalled, Wait
from controlplane.zones import services as zones

#: The certificate's pass wakes the instance; this is only for the case that it cannot.
LOOK_AGAIN_S = 20.0


class CertificateIssued:
    condition = "CertificateIssued"
    needs: tuple[str, ...] = ("DomainProven",)

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        row = subject.certificate = certificates.want(
            subject.instance,
            names=subject.server_names,
            challenge_targets=zones.challenge_targets(subject.instance),
            lease=lease,
            known=subject.certificate,
        )
        found = subject.certificate_condition
        # A renewal under way leaves it so; other names or a rotation do not.
        if certificates.is_issued(row, found, subject.ca_roots):
            return Done("Issued", f"Serial {row.serial}, valid until {row.not_after}.")
        if found is None:
            return Wait("Ordering", "An order at the CA is being made.", LOOK_AGAIN_S)
        if found.stalled:
            return Stalled(found.reason, found.message, found.remedy)
        return Wait(found.reason or "Ordering", found.message, LOOK_AGAIN_S)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        raise AssertionError("observe always answers: the certificate's own pass acts")

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        if certificates.retire(subject.instance, lease):
            return Done()
        return Wait("Retiring", "The certificate is being revoked and its challenges removed.", LOOK_AGAIN_S)
