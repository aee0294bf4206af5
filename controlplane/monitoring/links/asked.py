"""What others ask of links: look at one now, prove all of an instance whose address changed, try again at once.

All of it only writes rows and makes work items due; the passes do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.monitoring.links import sighted
from controlplane.monitoring.links.peers import KIND, ensure_pair, touch
from controlplane.monitoring.models import Incident, S2sLink
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from tenants import audit
from tenants.models import Instance
from tenants.principal import Principal

__all__ = ["address_changed", "retry", "suspect", "unproven"]

#: How many workers are woken at most when many links are to be proven.
WORKERS = 6
#: Links with servers that are not ours come so much later: they may have to wait for others.
OURS_FIRST_S = 0.2


@transaction.atomic
def suspect(instance: Instance, remote: str, *, by: str, message: str = "") -> S2sLink | None:
    """Something speaks against this link: its pass looks at once. None: there is no such link (the remote is itself).

    ``by``: watcher, ping, address, operator or verify. ``message``: the sign, in plain words; no other organisation's
    name in it. Safe to call again and again: a link under suspicion stays as it is until its pass has looked.
    """
    remote = remote.lower().rstrip(".")
    pair = ensure_pair(instance, remote)
    if not pair:
        return None
    now = timezone.now()
    ids = [row.pk for row in pair]
    S2sLink.objects.filter(pk__in=ids, suspect_at=None).update(suspect_at=now, suspect_by=by, message=message)
    S2sLink.objects.filter(pk__in=ids).exclude(
        state__in=[S2sLink.SUSPECT, S2sLink.DOWN, S2sLink.BLOCKED, S2sLink.PEER_PENDING]
    ).update(state=S2sLink.SUSPECT, since=now)
    touch(pair)
    return S2sLink.objects.get(instance=instance, pk__in=ids)


@transaction.atomic
def retry(*, link: S2sLink, principal: Principal) -> S2sLink:
    """«Retry now»: whatever the back-off says, the next pass looks, closes and dials. Audited."""
    pair = [link.pk]
    if link.peer_id is not None:
        pair += S2sLink.objects.filter(instance_id=link.peer_id, peer_id=link.instance_id).values_list("pk", flat=True)
    S2sLink.objects.filter(pk__in=pair).update(
        suspect_at=timezone.now(), suspect_by="operator", retry_at=None, failures=0
    )
    watch.touch(KIND, min(pair))
    audit.record(
        principal=principal,
        action="link.retry",
        kind="Instance",
        object_id=link.instance.key,
        organisation=link.instance.organisation.slug,
        summary=f"Retry the link with {link.remote}",
    )
    link.refresh_from_db()
    return link


def address_changed(instances: Iterable[Instance], incident: Incident) -> list[int]:
    """The address of these instances changed: each of their links is closed at its ends, dialled anew and proven.

    The engines are asked for their links first (in parallel, for a second at most), since what was opened since the
    last sweep counts too; one that does not answer is taken as it was known. Returns the numbers of the work items of
    kind "S2sLink", due now; ``unproven`` tells what is left of them.
    """
    moved = [row for row in instances if row.should_run]
    sighted.collect_all(moved, limit_s=1.0)
    with transaction.atomic():
        now = timezone.now()
        links = S2sLink.objects.filter(Q(instance__in=moved) | Q(peer__in=moved)).exclude(state=S2sLink.BLOCKED)
        # A link that nobody used for long has no stream that could be stale; its next dial finds the new address.
        live = [row for row in links if row.streams or row.state not in (S2sLink.IDLE,)]
        ids = sorted(row.pk for row in live)
        S2sLink.objects.filter(pk__in=ids).update(
            suspect_at=now,
            suspect_by="address",
            waiting_for=incident,
            state=S2sLink.SUSPECT,
            since=now,
            retry_at=None,
            failures=0,
            dialled=[],
        )
        items = sorted({_owner(row, live) for row in live})
        foreign = {row.pk for row in live if row.peer_id is None}
        for item in items:
            watch.touch(KIND, item, after_s=OURS_FIRST_S if item in foreign else 0.0)
        transaction.on_commit(lambda: _wake_more(len(items)))
    return items


def _owner(link: S2sLink, among: Sequence[S2sLink]) -> int:
    ends = [
        row.pk for row in among if link.peer_id and (row.instance_id, row.peer_id) == (link.peer_id, link.instance_id)
    ]
    return min([link.pk, *ends])


def _wake_more(items: int) -> None:
    """A worker takes one link after the other: several share the work, and one dead peer holds nobody up."""
    for _ in range(min(WORKERS, items - 1)):
        leases.wake("heal")


def unproven(incident: Incident) -> list[S2sLink]:
    """The links that this incident still waits for; both ends' rows where both are ours.

    A link leaves the list when a ping was answered, or when the fault was found to be the other server's own (named
    in ``state`` and ``cause``, and in the incident's timeline and ``details["peer_pending"]``).
    """
    return list(S2sLink.objects.filter(waiting_for=incident).select_related("instance__domain", "peer__domain"))
