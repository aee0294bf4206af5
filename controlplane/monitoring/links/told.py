"""Writes down what a pass over a link found: both ends' rows, their incidents, the address incident that waits.

An incident of one organisation names no server of another: such a peer is "another server here" in it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.monitoring import incidents, maintenance
from controlplane.monitoring.models import Incident, S2sLink
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease, hold

#: Cause -> what it means. With "Own" in the place of "Peer" it is this server's own fault.
CAUSES = {
    "LinkSilent": "A ping over it was not answered.",
    "LinkFails": "A new connection does not come about.",
    "PeerDown": "Nothing answers at the addresses of the other server.",
    "PeerDnsMissing": "The other server's names lead nowhere.",
    "PeerCertificateExpired": "The certificate of the other server has expired.",
    "PeerCertificateNotValidYet": "The certificate of the other server is not valid yet.",
    "PeerCertificateWrong": "The certificate of the other server is for other names.",
    "PeerCertificateNotTrusted": "The certificate of the other server does not lead to a trusted root.",
    "PeerRefuses": "The other server refuses the connection.",
    "PeerAway": "The other server's machine is not reached.",
    "PeerHalfStale": "Our half is well; the other server's own half is stale and not in our hands.",
    "DnsSilent": "The name servers give no answer.",
    "NoRoute": "There is no way from here to the other server's addresses.",
}
CAUSES |= {
    "Own" + cause.removeprefix("Peer"): words.replace("the other server", "this server").replace("The other", "This")
    for cause, words in CAUSES.items()
    if cause.startswith("Peer")
}


@dataclass(slots=True)
class Record:
    """A pass' view of the link. ``rows``: its own row first, then the other end's if that is ours."""

    lease: Lease
    rows: list[S2sLink]
    asked: datetime.datetime | None = field(init=False)
    by: str = field(init=False)

    def __post_init__(self) -> None:
        self.asked, self.by = self.link.suspect_at, self.link.suspect_by

    @property
    def link(self) -> S2sLink:
        return self.rows[0]

    def write(self, *, settled: bool, state: str, each: Sequence[Mapping[str, Any]] = (), **values: Any) -> None:
        """Both rows; ``each``: what differs, in the order of the rows.

        ``settled``: the suspicion that this pass began with is dealt with; a newer one stays.
        """
        now = timezone.now()
        with transaction.atomic():
            hold(self.lease)
            written: list[tuple[list[int], dict[str, Any]]] = []
            for number, row in enumerate(self.rows):
                changes: dict[str, Any] = {"state": state, **values, **(each[number] if each else {})}
                if row.state != state:
                    changes["since"] = now
                for name, value in changes.items():
                    setattr(row, name, value)
                if written and written[-1][1] == changes:
                    written[-1][0].append(row.pk)
                else:
                    written.append(([row.pk], changes))
            for ids, changes in written:
                S2sLink.objects.filter(pk__in=ids).update(**changes)
            if settled and self.asked is not None:
                ids = [row.pk for row in self.rows]
                S2sLink.objects.filter(pk__in=ids, suspect_at__lte=self.asked).update(suspect_at=None, suspect_by="")

    def release(self, *, pending: bool, message: str) -> None:
        """The address incident waits for this link no longer: it is proven, or what is missing is not in our hands."""
        incident = next((row.waiting_for for row in self.rows if row.waiting_for_id), None)
        if incident is None:
            return
        with transaction.atomic():
            hold(self.lease)
            locked = Incident.objects.select_for_update().get(pk=incident.pk)
            S2sLink.objects.filter(pk__in=[row.pk for row in self.rows], waiting_for=incident).update(waiting_for=None)
            names = f"{self.link.instance.domain.name} and {self.link.remote}"
            details: dict[str, Any] = {}
            if pending:
                known = list(locked.details.get("peer_pending", []))
                details["peer_pending"] = [*known, {"link": names, "cause": self.link.cause}]
            incidents.tell(locked, "LinkPending" if pending else "LinkProven", f"{names}: {message}", details)
            if incident.node is not None:
                watch.touch("Addresses", incident.node.name)
        for row in self.rows:
            row.waiting_for = None

    # incidents of the link itself, one for each end that is ours

    def open(self, *, started_at: datetime.datetime, cause: str = "", message: str = "") -> None:
        """By default with each row's own cause and message."""
        with transaction.atomic():
            hold(self.lease)
            for row in self.rows:
                if maintenance.covering(row.instance) is None:
                    incidents.open_incident(
                        kind="link",
                        subject=subject_of(row),
                        cause=cause or row.cause,
                        title=f"Federation of {row.instance.domain.name} with {shown(row)} is broken",
                        message=_words(row, cause or row.cause, message or row.message),
                        instance=row.instance,
                        started_at=started_at,
                        details={"remote": row.remote} if shown(row) == row.remote else {},
                    )

    def tell(self, type: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        with transaction.atomic():
            hold(self.lease)
            for row in self.rows:
                found = incidents.open_for(subject_of(row))
                if found is not None:
                    incidents.tell(found, type, message, details)

    def end(self, message: str, details: Mapping[str, Any] | None = None) -> bool:
        """End the incidents that are open; whether there was one."""
        subjects = [subject_of(row) for row in self.rows]
        if not Incident.objects.filter(subject__in=subjects, ended_at=None).exists():
            return False
        with transaction.atomic():
            hold(self.lease)
            for subject in subjects:
                incidents.end_incident(subject, message, details)
        return True


def end_orphans() -> None:
    """End the incidents of links that are gone, because one of their two servers is."""
    subjects = set(Incident.objects.filter(kind="link", ended_at=None).values_list("subject", flat=True))
    keys = {subject.split(":")[1] for subject in subjects}
    rows = S2sLink.objects.filter(instance__key__in=keys).values_list("instance__key", "remote", "pk")
    there = {f"link:{key}:{name}" for key, remote, pk in rows for name in (remote, pk)}
    for subject in sorted(subjects - there):
        incidents.end_incident(subject, "One of the two servers was ended for good, and the link with it.")


def subject_of(row: S2sLink) -> str:
    return f"link:{row.instance.key}:{row.remote if shown(row) == row.remote else row.pk}"


def shown(row: S2sLink) -> str:
    """The remote's name, unless it is another organisation's server of ours."""
    if row.peer is not None and row.peer.organisation_id != row.instance.organisation_id:
        return "another server here"
    return row.remote


def _words(row: S2sLink, cause: str, message: str) -> str:
    """What was found names addresses and names; of another organisation's server only the cause is told."""
    return message if shown(row) == row.remote else CAUSES.get(cause, CAUSES["LinkFails"])
