"""What engines say about their links: one question to each engine a minute, kept as rows of ``S2sLink``.

A stream that is there says nothing about whether the link lives (a dead one looks the same for a quarter of an
hour): that is for the passes. One work item of kind "Federation" per node asks all of its engines.
"""

from __future__ import annotations

import datetime
import logging
import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.drivers.engine.base import EngineControl, S2sConnection
from controlplane.fleet.models import Node
from controlplane.monitoring.links.peers import KIND, own_names, peers_of
from controlplane.monitoring.models import S2sLink
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.errors import RoostError
from tenants.models import Instance

log = logging.getLogger(__name__)

__all__ = ["collect", "collect_all", "collect_node", "control_of"]

FEDERATION = "Federation"
EVERY_S = 60.0
#: How long the engines of a node may take together; those that did not answer are asked the next time.
NODE_LIMIT_S = 15.0
#: First pings of links that were just found are spread over so many seconds.
FIRST_PING_S = 10.0
#: Engines that are asked at the same time.
WIDTH = 8


def control_of(instance: Instance) -> EngineControl | None:
    """The engine's control channel; None if it does not run or its node is not reached. No call is made."""
    subject = Subject(instance)
    placement = subject.placement
    if not instance.should_run or placement is None or not placement.applied_digest or subject.node_is_away:
        return None
    try:
        return subject.control
    except RoostError as error:
        log.info("%s cannot be asked: %s", instance.key, error)
        return None


def collect(instance: Instance, control: EngineControl | None = None) -> list[S2sLink]:
    """Ask the instance's engine for its streams and keep them; its links that have any. Empty if it cannot be asked.

    Raises ``Unavailable`` if the engine does not answer.
    """
    control = control or control_of(instance)
    if control is None:
        return []
    return record(instance, control.s2s_connections())


def collect_all(instances: Sequence[Instance], *, limit_s: float) -> int:
    """The same for several at once, for ``limit_s`` seconds at most; how many answered."""
    controls = {row: control for row in instances if (control := control_of(row)) is not None}
    if not controls:
        return 0
    pool = ThreadPoolExecutor(max_workers=min(WIDTH, len(controls)), thread_name_prefix="s2s")
    asked = {pool.submit(control.s2s_connections): row for row, control in controls.items()}
    done, _ = wait(asked, timeout=limit_s)
    pool.shutdown(wait=False, cancel_futures=True)
    answered = 0
    for future in done:
        try:
            streams = future.result()
        except RoostError as error:
            log.info("%s does not tell its links: %s", asked[future].key, error)
            continue
        record(asked[future], streams)
        answered += 1
    return answered


def collect_node(lease: Lease) -> Next | None:
    """The pass of kind "Federation": all engines of the node ``lease.object_id``."""
    node = Node.objects.filter(name=lease.object_id).exclude(standing=Node.RETIRED).first()
    if node is None:
        leases.forget(lease.kind, lease.object_id)
        return None
    rows = Instance.objects.whole().filter(placement__node=node, suspended_at=None, deletion_requested_at=None)
    started = time.monotonic()
    answered = collect_all(list(rows), limit_s=NODE_LIMIT_S)
    log.debug("%s: %d engines told their links in %.3f s", node.name, answered, time.monotonic() - started)
    return Next(EVERY_S * (0.9 + random.random() / 5))


def record(instance: Instance, streams: Iterable[S2sConnection]) -> list[S2sLink]:
    """Keep what an engine said: its links' rows, the other ends' where those are ours, work items for new ones."""
    own = own_names(instance)
    mine = [stream for stream in streams if stream.local in own and stream.remote not in own]
    ours = peers_of(stream.remote for stream in mine)
    grouped: dict[str, list[S2sConnection]] = {}
    for stream in mine:
        peer = ours.get(stream.remote)
        grouped.setdefault(peer.domain.name if peer is not None else stream.remote, []).append(stream)
    peers = {peer.domain.name: peer for peer in ours.values()}
    now = timezone.now()
    with transaction.atomic():
        known = {row.remote: row for row in S2sLink.objects.filter(instance=instance)}
        rows = [_row(instance, remote, peers.get(remote), found, known.get(remote), now)
                for remote, found in sorted(grouped.items())]  # fmt: skip
        S2sLink.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["instance", "remote"],
            update_fields=["peer", "directions", "streams", "last_seen_at", "used_at"],
        )
        gone = [row.pk for remote, row in known.items() if remote not in grouped and row.streams]
        S2sLink.objects.filter(pk__in=gone).update(streams=[], directions={})
        _meet(instance, [row for row in rows if row.remote not in known])
    return list(S2sLink.objects.filter(instance=instance, remote__in=list(grouped)))


def _row(
    instance: Instance,
    remote: str,
    peer: Instance | None,
    streams: Sequence[S2sConnection],
    known: S2sLink | None,
    now: datetime.datetime,
) -> S2sLink:
    main = (instance.domain.name, remote)
    # A direction is shown by the stream between the two domains themselves, if there is one.
    ordered = sorted(streams, key=lambda s: ((s.local, s.remote) != main, s.local, s.remote))
    directions: dict[str, Any] = {}
    for stream in ordered:
        directions.setdefault(stream.direction, _shown(stream))
    idle = [stream.idle_s for stream in streams if stream.idle_s is not None]
    # An engine that cannot tell when a link was used has it in use as long as it is there.
    used = now - datetime.timedelta(seconds=min(idle)) if idle else (now if len(idle) < len(streams) else None)
    before = known.used_at if known is not None else None
    return S2sLink(
        instance=instance,
        remote=remote,
        peer=peer,
        directions=directions,
        streams=[{"direction": s.direction, "local": s.local, "remote": s.remote, **_shown(s)} for s in ordered],
        last_seen_at=now,
        used_at=max((at for at in (used, before) if at is not None), default=None),
    )


def _shown(stream: S2sConnection) -> dict[str, Any]:
    return {
        "encrypted": stream.encrypted,
        "auth": stream.auth,
        "address": stream.address,
        "age_s": stream.age_s,
        "idle_s": stream.idle_s,
        "error": stream.error,
    }


def _meet(instance: Instance, new: Sequence[S2sLink]) -> None:
    """First sight of links: the other end's row, and a first ping soon."""
    if not new:
        return
    mirrors = [S2sLink(instance=row.peer, remote=instance.domain.name, peer=instance) for row in new if row.peer]
    S2sLink.objects.bulk_create(sorted(mirrors, key=lambda r: r.instance_id), ignore_conflicts=True)
    pairs = Q(instance=instance, remote__in=[row.remote for row in new])
    if mirrors:
        pairs |= Q(instance__in=[row.instance_id for row in mirrors], remote=instance.domain.name)
    found = list(S2sLink.objects.filter(pairs))
    owners = set()
    for row in found:
        ends = [r.pk for r in found if row.peer_id and (r.instance_id, r.peer_id) == (row.peer_id, row.instance_id)]
        owners.add(min([row.pk, *ends]))
    watch.touch_all(KIND, [str(pk) for pk in sorted(owners)], spread_s=FIRST_PING_S)
