"""Verified: a strict client walked through the instance from outside, by DNS and the edge, and all of it worked.

A walk belongs to exactly what was walked (``subject_digest``): any change asks for another. An s2s round trip needs
another tenant; where there was none yet, the walk is made again as soon as there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets

from django.conf import settings
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from controlplane import vault, wiring
from controlplane.certificates import services as certificates
from controlplane.fleet import routes
from controlplane.fleet import services as fleet
from controlplane.probes.report import WalkReport
from controlplane.probes.walk import WalkSubject, walk
from controlplane.provisioning.models import NO_PEER, ProbeAccount, Walk
from controlplane.provisioning.subject import Subject
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.models import Condition
from controlplane.reconcile.step import backoff_s
from controlplane.values.errors import RoostError
from controlplane.values.names import DomainName, Localpart
from controlplane.values.outcome import Done, Outcome, Wait
from controlplane.values.secret import Secret
from controlplane.values.spec import PROBE_ACCOUNT
from tenants.models import Instance

#: The pass that looks at the records again comes at once (``EdgeRouted``).
DNS_AGAIN_S = 0.1
#: Of so many tenants one is taken to talk with.
CANDIDATES = 20


class Verified:
    condition = "Verified"
    needs: tuple[str, ...] = ("DnsPublished", "CertificateIssued", "TurnReady", "ServerRunning", "EdgeRouted")

    def observe(self, subject: Subject, lease: Lease) -> Outcome | None:
        row = subject.walk
        if row is None or not row.ok or row.subject != subject_digest(subject):
            return None
        if lacks_peer(row) and peer_of(subject.instance) is not None:
            return None
        return _verified(row)

    def act(self, subject: Subject, lease: Lease) -> Outcome:
        if subject.edge_addresses != subject.published_addresses:
            # Its edges changed in this very pass: a walk by the old records would prove nothing of the new way.
            return Wait("RecordsFollow", "The records have to name its edges of now first.", after_s=DNS_AGAIN_S)
        password = probe_password(subject, lease)
        digest = subject_digest(subject)
        peer = peer_of(subject.instance, attempt=lease.attempts)
        report = walk(walk_subject(subject, password, peer))
        row = subject.walk = _store(subject, lease, report, digest)
        if not report.ok:
            failed = {step.name for step in report.failures if not step.skipped}
            if "tls" in failed and subject.placement is not None:
                # Perhaps it serves an old certificate: the engine is to read its files again, whatever it said before.
                fleet.load_again(subject.placement, lease)
                if lease.attempts:  # and that did not help: perhaps the files on the node are not ours any more
                    fleet.apply_again(subject.placement, lease)
            if "s2s" in failed and peer is not None:
                _redial(subject, peer)
            return Wait("WalkFailed", report.message, after_s=backoff_s(lease.attempts), failed=True)
        return _verified(row)

    def undo(self, subject: Subject, lease: Lease) -> Outcome:
        Walk.objects.filter(instance=subject.instance).delete()
        ProbeAccount.objects.filter(instance=subject.instance).delete()
        return Done()


def walk_subject(subject: Subject, password: Secret, peer: DomainName | None) -> WalkSubject:
    """What a walk through this instance has to look at. May raise ``Unavailable`` for want of trust roots."""
    issued = subject.certificate
    return WalkSubject(
        domain=subject.domain,
        components=subject.components,
        account=PROBE_ACCOUNT,
        password=password,
        resolver=wiring.resolver(),
        trust_roots=certificates.probe_roots(subject.ca_roots),
        expected_serial=(issued.serial or None) if issued is not None else None,
        turn=bool(settings.ROOST["TURN_HOST"]),
        peer=peer,
        https_port=subject.spec.public_https_port,
        left_out=_away(subject),
    )


def _away(subject: Subject) -> frozenset[str]:
    """Addresses of edges that are not reached now: those say so themselves, and no instance waits for them."""
    rows = subject.edge_routes
    if all(routes.is_away(row) for row in rows):
        return frozenset()
    return frozenset(address for row in rows if routes.is_away(row) for address in row.edge.public_addresses)


def _redial(subject: Subject, peer: DomainName) -> None:
    """Close what is left of a dead link at both ends that are ours: a half left open stays dead for minutes."""
    ends = [(subject, peer)]
    other = Instance.objects.whole().filter(domain__name=peer.ascii).first()
    if other is not None and other.should_run:
        ends.append((Subject(other), subject.domain))
    for end, remote in ends:
        with contextlib.suppress(RoostError):
            end.control.purge_dns_cache()
            end.control.close_s2s(end.domain, remote)


def _verified(row: Walk) -> Done:
    names = [step["name"] for step in row.steps if not step["skipped"]]
    skipped = [step["name"] for step in row.steps if step["skipped"]]
    text = f"A client's walk passed {len(names)} steps in {row.duration_s:.1f} s"
    return Done("WalkPassed", f"{text}; left out: {', '.join(skipped)}." if skipped else f"{text}.")


def _store(subject: Subject, lease: Lease, report: WalkReport, digest: str) -> Walk:
    steps = [
        {
            "name": step.name,
            "ok": step.ok,
            "skipped": step.skipped,
            "message": step.message,
            "duration_s": round(step.duration_s, 3),
            "details": dict(step.details),
        }
        for step in report.steps
    ]
    with holding(lease):
        row = Walk(
            instance=subject.instance,
            at=timezone.now(),
            ok=report.ok,
            subject=digest,
            steps=steps,
            duration_s=report.duration_s,
        )
        Walk.objects.bulk_create(
            [row],
            update_conflicts=True,
            unique_fields=["instance"],
            update_fields=["at", "ok", "subject", "steps", "duration_s"],
        )
    return row


def subject_digest(subject: Subject) -> str:
    """SHA-256 over what a walk depends on: the bundle the engine has read, the serial, the wish to verify again."""
    placement = subject.placement
    assert placement is not None
    parts = [
        placement.loaded_digest,
        [name.ascii for name in subject.server_names],
        subject.edge_addresses,
        subject.instance.verify_generation,
        subject.instance.rotate_probe,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def probe_password(subject: Subject, lease: Lease) -> Secret:
    """The probe account's password, after making sure that the engine has the account with it."""
    instance = subject.instance
    context = f"probe:{instance.key}"
    row = subject.probe_account
    if row is None or row.rotation != instance.rotate_probe or not row.applied:
        # Held also where there is nothing to write: nobody else's password replaces that of a newer pass.
        with holding(lease):
            row = row or ProbeAccount(instance=instance)
            if row.pk is None or row.rotation != instance.rotate_probe:
                row.password_sealed = vault.seal(context, Secret(secrets.token_urlsafe(24)))
                row.rotation, row.applied = instance.rotate_probe, False
                row.save()
        subject.probe_account = row
    password = vault.unseal(context, row.password_sealed)
    local = Localpart(PROBE_ACCOUNT)
    made = subject.control.create_account(local, password)
    if not made and not row.applied:
        subject.control.set_password(local, password)
    if made or not row.applied:
        ProbeAccount.objects.filter(pk=row.pk, rotation=row.rotation).update(applied=True)
    return password


def lacks_peer(row: Walk) -> bool:
    """True if the s2s step was left out for want of somebody to talk with."""
    return any(step["name"] == "s2s" and step["skipped"] for step in row.steps)


def lonely(instance: Instance) -> list[str]:
    """Keys of the other instances whose walk lacked a peer, sorted."""
    rows = Walk.objects.filter(ok=True, steps__contains=NO_PEER).exclude(instance=instance)
    return list(rows.order_by("instance__key").values_list("instance__key", flat=True))


def peer_of(instance: Instance, *, attempt: int = 0) -> DomainName | None:
    """Another tenant that is Ready, the longest so; else the configured reference peer; else nobody.

    Only one that talks with this instance at all: what a tenant blocks must not keep others from being verified.
    ``attempt``: how many walks failed in a row; each asks the next candidate, for the fault may be the peer's.
    """
    ready = Condition.objects.filter(kind="Instance", type="Ready", status="True")
    others = ready.exclude(object_id=instance.key).order_by("last_transition", "object_id")
    since = Subquery(ready.filter(object_id=OuterRef("key")).values("last_transition")[:1])
    rows = Instance.objects.whole().filter(key__in=others.values("object_id")[:CANDIDATES]).annotate(ready_since=since)
    peers = [other for other in rows.order_by("ready_since", "key") if other.should_run]
    peers = [other for other in peers if not _blocks(instance, other) and not _blocks(other, instance)]
    if peers:
        return DomainName(peers[attempt % len(peers)].domain.name)
    reference: str = settings.ROOST["S2S_REFERENCE_PEER"]
    return DomainName.parse(reference, field="ROOST_S2S_REFERENCE_PEER") if reference else None


def _blocks(one: Instance, other: Instance) -> bool:
    name = DomainName(other.domain.name)
    return any(name.is_within(DomainName(blocked)) for blocked in one.s2s_blocked)
