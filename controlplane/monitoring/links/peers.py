"""Which row a link has: a server of ours is one remote under its domain, whichever of its components talks.

Both ends have a row where both are ours; the work item is that of the row with the lower number.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import QuerySet

from controlplane.monitoring.models import S2sLink
from controlplane.reconcile import watch
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from tenants.models import Instance

KIND = "S2sLink"


def domain_of(instance: Instance) -> DomainName:
    return DomainName(instance.domain.name)


def own_names(instance: Instance) -> tuple[str, ...]:
    """The instance's domain and its components' names, A-labels; the domain first."""
    domain = domain_of(instance)
    return (domain.ascii, *(name.ascii for name in Components.below(domain).all()))


def peers_of(remotes: Iterable[str]) -> dict[str, Instance]:
    """Remote name -> our instance that answers to it; names of others are not in it. One query."""
    wanted = set(remotes)
    candidates = {name: [name, name.partition(".")[2]] for name in wanted}
    flat = {candidate for found in candidates.values() for candidate in found if candidate}
    # Only proven domains: whoever merely claims a name must not be taken for its server.
    rows = Instance.objects.whole().filter(domain__name__in=flat, domain__proven_at__isnull=False)
    ours = {row.domain.name: row for row in rows}
    found = {}
    for name, (whole, parent) in candidates.items():
        if whole in ours:
            found[name] = ours[whole]
        elif parent in ours and name in own_names(ours[parent]):
            found[name] = ours[parent]
    return found


def mirror_of(link: S2sLink) -> S2sLink | None:
    """The other end's row, if the other end is ours."""
    if link.peer_id is None:
        return None
    return rows().filter(instance_id=link.peer_id, peer_id=link.instance_id).first()


def rows() -> QuerySet[S2sLink]:
    """Links with what a pass needs of them."""
    return S2sLink.objects.select_related(
        "instance__domain",
        "instance__organisation",
        "instance__plan",
        "peer__domain",
        "peer__organisation",
        "peer__plan",
    )


def ensure_pair(instance: Instance, remote: str) -> list[S2sLink]:
    """The link's row and, where the other end is ours, that end's; made where they are missing. By number."""
    peer = peers_of([remote]).get(remote)
    if peer is not None and peer.pk == instance.pk:
        return []
    wanted = [S2sLink(instance=instance, remote=peer.domain.name if peer else remote, peer=peer)]
    if peer is not None:
        wanted.append(S2sLink(instance=peer, remote=instance.domain.name, peer=instance))
    S2sLink.objects.bulk_create(sorted(wanted, key=lambda r: r.instance_id), ignore_conflicts=True)
    found = []
    for row in wanted:
        kept = S2sLink.objects.get(instance=row.instance, remote=row.remote)
        if kept.peer_id != (row.peer.pk if row.peer else None):
            kept.peer = row.peer
            kept.save(update_fields=["peer"])
        found.append(kept)
    return sorted(found, key=lambda row: row.pk)


def touch(pair: list[S2sLink], *, after_s: float = 0.0) -> int:
    """Make the pair's one work item due; its number."""
    owner = min(row.pk for row in pair)
    watch.touch(KIND, owner, after_s=after_s)
    return owner
