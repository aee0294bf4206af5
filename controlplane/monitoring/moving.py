"""A node's public address changed: records, edge, TURN server and links follow, and the incident closes with its times.

``begin`` writes all that should be in one transaction; ``go_on`` is called until the last link is proven. Where it
stands is in the incident, so that whoever takes over goes on from there.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.fleet import edges, routes
from controlplane.fleet import services as fleet
from controlplane.fleet.models import EdgeRoute, Node
from controlplane.monitoring import incidents
from controlplane.monitoring.models import AddressWatch, Incident
from controlplane.provisioning import rebind
from controlplane.reconcile import faults, history
from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.errors import RoostError
from controlplane.zones import services as zones
from controlplane.zones.models import DnsRecord
from tenants.models import Instance

log = logging.getLogger(__name__)

FAMILIES = (4, 6)
#: A pass waits so long for the zone's own pass, which runs meanwhile; then it comes again.
PUBLISH_S = 5.0
LOOK_S = 0.05
#: Links are not kept waiting longer than this for an edge or for a name server that does not answer.
PATIENCE_S = 10.0
#: Pauses between looks at what is not done yet: short at first, a minute at most.
SOON_S, LATER_S, SOON_UNTIL_S = 0.2, 2.0, 15.0


def subject_of(name: str) -> str:
    """Of the incident, by the node's name."""
    return f"node:{name}:address"


def give_up(name: str) -> None:
    """The node is gone or not ours to follow: nothing of it is waited for."""
    incidents.end_incident(subject_of(name), "The node is out of use.")


def current_of(node: Node, watched: AddressWatch) -> dict[int, list[str]]:
    """What the family has now: what DNS says of an edge; of a node without one, what was agreed upon last."""
    if node.edge == Node.NO_EDGE:
        return {family: list(watched.agreed.get(str(family), [])) for family in FAMILIES}
    found: dict[int, list[str]] = {family: [] for family in FAMILIES}
    for text in node.public_addresses:
        found[6 if ":" in text else 4].append(text)
    return found


def affected(node: Node) -> list[Instance]:
    """Instances that the world finds here, and those whose own connections begin here."""
    keys = {*edges.led_by(node), *node.placements.values_list("instance__key", flat=True)}
    rows = Instance.objects.filter(key__in=keys).select_related("domain", "organisation", "plan", "placement__node")
    return list(rows.order_by("pk"))


def begin(
    node: Node,
    watched: AddressWatch,
    lease: Lease,
    *,
    wanted: Mapping[int, Sequence[str]],
    sign: datetime.datetime,
    why: str,
    fields: Mapping[str, Any],
) -> None:
    """Write the new addresses and all that follows from them in the database, in one transaction.

    ``sign``: the first sign of it. ``fields``: of ``watched``, written along. The first addresses of a node, and those
    of one that nothing depends on, need no incident.
    """
    before = current_of(node, watched)
    was = [one for family in FAMILIES for one in before[family]]
    now = _in_order(was, wanted)
    concerned = affected(node)
    prepared = rebind.is_as_prepared(node)
    faults.point("before-address-change")
    with transaction.atomic():
        leases.hold(lease)
        if node.edge != Node.NO_EDGE:
            records = _rewrite(node, now, concerned)
            fleet.set_addresses(node=node, addresses=now, reason=why)
        else:
            records = 0
            history.record("Node", node.name, "AddressesChanged", message=f"{', '.join(now)}. {why}")
        agreed = {str(family): list(wanted[family]) for family in FAMILIES}
        AddressWatch.objects.filter(pk=watched.pk).update(**{**fields, "agreed": agreed})
        if was and concerned:
            _open(node, was, now, sign, why, concerned=len(concerned), records=records, prepared=prepared)
    faults.point("after-address-change")
    log.info("%s: %s instead of %s", node.name, ", ".join(now), ", ".join(was) or "none")


def _in_order(before: Sequence[str], wanted: Mapping[int, Sequence[str]]) -> list[str]:
    """The families in the order they had."""
    first = 6 if before and ":" in before[0] else 4
    return [*wanted[first], *wanted[10 - first]]


def _rewrite(node: Node, addresses: Sequence[str], concerned: Sequence[Instance]) -> int:
    """The record sets of all instances that the edge leads to, as they should be; how many instances differ.

    Written here and not by each instance's own pass, which would come one after the other. Record sets are locked
    before work items, as the zone's pass does.
    """
    keys = set(edges.led_by(node))
    led = {row.pk: row for row in concerned if row.key in keys}
    known: dict[int, list[EdgeRoute]] = {}
    for row in EdgeRoute.objects.filter(instance__in=led).select_related("edge"):
        row.edge = _with(row.edge, node, addresses)
        known.setdefault(row.instance_id, []).append(row)
    by_node: dict[int, list[Node]] = {}
    wanted = {}
    for pk, instance in led.items():
        at = instance.placement.node
        if at.pk not in by_node:
            by_node[at.pk] = [_with(edge, node, addresses) for edge in routes.edges_of(at)]
        found = routes.addresses_of(by_node[at.pk], known.get(pk, []))
        if found:
            wanted[pk] = found
    changed, others = zones.readdress(wanted)
    for pk in others:
        records = zones.records_for(led[pk], wanted[pk])
        changed += zones.sync_records(instance=led[pk], wanted=records, lease=None)
    return changed


def _with(edge: Node, node: Node, addresses: Sequence[str]) -> Node:
    """The edge as it will be."""
    if edge.pk == node.pk:
        edge.public_addresses = list(addresses)
    return edge


def _open(
    node: Node,
    was: Sequence[str],
    now: Sequence[str],
    sign: datetime.datetime,
    why: str,
    *,
    concerned: int,
    records: int,
    prepared: bool,
) -> None:
    was_text, now_text = ", ".join(was), ", ".join(now) or "none"
    at = timezone.now()
    details = {
        "from": list(was),
        "to": list(now),
        "instances": concerned,
        "detect_s": _since(sign, at),
        "as_prepared": prepared,
        **dict.fromkeys(("rebound", "published", "asked"), False),
    }
    message = f"{node.name} has {now_text} instead of {was_text}. {why}"
    incident, made = incidents.open_incident(
        kind="address",
        subject=subject_of(node.name),
        cause="AddressChanged",
        title=f"{node.name} has another public address",
        message=message,
        node=node,
        started_at=sign,
        details=details,
    )
    if not made:  # it changed again before the links were proven
        kept = {"from": incident.details.get("from", list(was)), "detect_s": incident.details.get("detect_s", 0.0)}
        kept["as_prepared"] = incident.details.get("as_prepared", False)
        incidents.tell(incident, "ChangedAgain", message, {**details, **kept})
    if records:
        incidents.tell(incident, "Acted", f"The records of {records} instances are written anew.")


def go_on(node: Node, lease: Lease) -> Next | None:
    """The next of: edge and TURN server take the address, records are published, links are asked for, links proven.

    None: nothing is under way. Waits up to 5 s for what others are doing.
    """
    incident = incidents.open_for(subject_of(node.name))
    if incident is None:
        return None
    details = incident.details
    if not (details["rebound"] and details["published"]):
        _follow(node, incident, lease)
        details = incident.details
    age_s = _since(incident.started_at, timezone.now())
    if not (details["rebound"] and details["published"]) and age_s < PATIENCE_S:
        return Next(SOON_S)
    if not details["asked"]:
        _ask_links(node, incident, lease)
    return _finish(node, incident, lease, age_s)


def _follow(node: Node, incident: Incident, lease: Lease) -> None:
    """The machine and the name servers, at the same time; what is done is told at once."""
    plan = None if incident.details["rebound"] else rebind.plan(node)
    with ThreadPoolExecutor(max_workers=1) as pool:
        # It only speaks with the node; all that it needs of the database is in the plan.
        binding: Future[rebind.Done] | None = pool.submit(rebind.carry_out, plan) if plan is not None else None
        if plan is None and not incident.details["rebound"]:
            _tell(incident, lease, "", "", {"rebound": True})
        late = _since(incident.started_at, timezone.now()) > PATIENCE_S
        deadline = time.monotonic() + (0.0 if late else PUBLISH_S)
        while True:
            if not incident.details["published"]:
                _note_published(node, incident, lease)
            if binding is not None and binding.done():
                _note_bound(node, incident, lease, plan, binding)
                binding = None
            if (incident.details["published"] and binding is None) or time.monotonic() >= deadline:
                break
            time.sleep(LOOK_S)
        if binding is not None:
            _note_bound(node, incident, lease, plan, binding)


def _note_published(node: Node, incident: Incident, lease: Lease) -> None:
    if node.edge == Node.NO_EDGE:
        _tell(incident, lease, "", "", {"published": True})
        return
    rows = DnsRecord.objects.filter(instance__key__in=edges.led_by(node), wanted=True, type__in=("A", "AAAA"))
    if rows.filter(zone__isnull=False, published=False).exists():
        return
    publish_s = _since(incident.started_at, timezone.now())
    said = f"Every authoritative server has the new records, {publish_s:.1f} s after the first sign."
    _tell(incident, lease, "Published", said, {"published": True, "publish_s": publish_s})


def _note_bound(
    node: Node, incident: Incident, lease: Lease, plan: rebind.Plan | None, binding: Future[rebind.Done]
) -> None:
    assert plan is not None
    try:
        done = binding.result()
    except RoostError as error:
        log.warning("%s: %s", node.name, error)
        if incident.details.get("rebind_error") != error.message:
            said = f"The machine does not take the address yet: {error.message}"
            _tell(incident, lease, "NotTaken", said, {"rebind_error": error.message})
        return
    rebind.note(node, plan, lease, as_prepared=bool(incident.details.get("as_prepared")))
    rebind_s = _since(incident.started_at, timezone.now())
    what = " and ".join(done.changed) or "nothing that had to change"
    said = f"The machine has taken it: {what} ({done.took_s:.1f} s), {rebind_s:.1f} s after the first sign."
    _tell(incident, lease, "Taken", said, {"rebound": True, "rebind_s": rebind_s})


def _ask_links(node: Node, incident: Incident, lease: Lease) -> None:
    from controlplane.monitoring import links  # it reads incidents itself

    items = links.address_changed(affected(node), incident)
    said = f"{len(items)} federation links are closed one by one and dialled anew."
    _tell(incident, lease, "LinksAsked", said, {"asked": True, "links": len(items)})


def _finish(node: Node, incident: Incident, lease: Lease, age_s: float) -> Next | None:
    from controlplane.monitoring import links

    left = links.unproven(incident)
    details = incident.details
    if left or not (details["rebound"] and details["published"]):
        return Next(SOON_S if age_s < SOON_UNTIL_S else min(60.0, max(LATER_S, age_s / 10)))
    heal_s = _since(incident.started_at, timezone.now())
    pending = len(incident.details.get("peer_pending", []))
    said = f"{details.get('links', 0)} federation links are proven, {heal_s:.1f} s after the first sign."
    if pending:
        said += f" {pending} of them wait for the other server's own half."
    with transaction.atomic():
        leases.hold(lease)
        incidents.end_incident(subject_of(node.name), said, {"heal_s": heal_s})
    return None


def _tell(incident: Incident, lease: Lease, type: str, message: str, details: Mapping[str, Any]) -> None:
    """Into the timeline, if there is something to say, and among the details; ``LeaseLost`` if it is another's now."""
    with transaction.atomic():
        leases.hold(lease)
        if type:
            incidents.tell(incident, type, message, details)
            return
        row = Incident.objects.select_for_update().get(pk=incident.pk)
        row.details = {**row.details, **details}
        row.save(update_fields=["details"])
    incident.details = row.details


def _since(start: datetime.datetime, end: datetime.datetime) -> float:
    return round(max(0.0, (end - start).total_seconds()), 2)
