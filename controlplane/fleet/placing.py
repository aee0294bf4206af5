"""Chooses the node of an instance: rules out with a reason each, prefers what spreads an organisation, then room.

Addresses and ports are ``reservation``'s. A placement is written once; moving an instance will write another.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Q, Sum

from controlplane.fleet.edges import is_new, touch_instances
from controlplane.fleet.models import Node, Placement, Scratch
from controlplane.fleet.reservation import free_proxy65_port, free_seat, seats
from controlplane.reconcile.lease import Lease, holding
from controlplane.reconcile.models import Condition
from controlplane.values.errors import Rejected, Unavailable
from tenants.errors import QuotaExceeded
from tenants.models import Instance, Organisation, Plan

#: Labels over whose values an organisation's instances are spread, the most important first; then over the nodes.
SPREAD = ("provider", "region")
#: Why a node is ruled out -> how several of them are counted, in the order in which it is looked at.
RULED_OUT = {
    "Retired": "retired",
    "Draining": "to be emptied",
    "Cordoned": "cordoned",
    "EdgeOnly": "for no instances",
    "Labels": "with other labels",
    "NotPrepared": "not prepared yet",
    "Unreachable": "not reached",
    "Unrouted": "without an edge",
    "NoMemory": "without the memory",
    "NoAddress": "without a free address",
}
#: Those that pass by themselves.
_PASSING = ("NotPrepared", "Unreachable")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as a place for one instance. ``reason``: of ``RULED_OUT``, empty if it fits; ``message`` in words.

    ``beside``: instances of the same organisation that are there: (by provider, by region, on the node itself).
    ``last_address``: the highest that an instance has there.
    """

    node: Node
    free_mib: int
    instances: int
    beside: tuple[int, ...]
    last_address: str | None = None
    reason: str = ""
    message: str = ""

    @property
    def preference(self) -> tuple[object, ...]:
        """The smallest is chosen."""
        return (self.beside, -self.free_mib, self.node.name)


@dataclass(frozen=True, slots=True)
class Choice:
    """All nodes, those that fit first and the chosen one before them; why in words.

    ``last_proxy65_port``: the highest that an instance of the fleet has.
    """

    candidates: Sequence[Candidate]
    explanation: str
    last_proxy65_port: int | None = None

    @property
    def best(self) -> Candidate | None:
        first = self.candidates[0] if self.candidates else None
        return first if first is not None and not first.reason else None

    @property
    def chosen(self) -> Node | None:
        return self.best.node if self.best is not None else None


class Used(NamedTuple):
    """Of a node's instances: memory in MiB, how many, how many of the organisation; highest address and port."""

    memory_mib: int = 0
    instances: int = 0
    ours: int = 0
    last_address: str | None = None
    last_proxy65_port: int | None = None


def wanted_labels(plan: Plan, own: Mapping[str, str]) -> dict[str, str]:
    """What a node has to have: what the plan wants, and the instance."""
    return {**plan.node_labels, **own}


def choose(
    organisation: Organisation | None, *, plan: Plan, labels: Mapping[str, str], nodes: Sequence[Node]
) -> Choice:
    """Judge all of ``nodes`` for one more instance of the organisation (None: of a new one). Four queries at most."""
    used = _used(organisation)
    away = _away()
    is_led = any(node.edge == Node.SHARED_EDGE and node.standing != Node.RETIRED for node in nodes)
    found = []
    for node in nodes:
        there = used.get(node.pk, Used())
        free_mib = node.capacity_mib - there.memory_mib
        bare = Candidate(node, free_mib, there.instances, _beside(node, nodes, used), there.last_address)
        found.append(_judge(bare, wanted_labels(plan, labels), plan.memory_mib, away, is_led=is_led))
    fitting = sorted((c for c in found if not c.reason), key=lambda c: c.preference)
    others = sorted((c for c in found if c.reason), key=lambda c: (list(RULED_OUT).index(c.reason), c.node.name))
    explanation = _explain(fitting, others, organisation, plan, labels) if fitting else _none_fits(others, plan)
    ports = [there.last_proxy65_port for there in used.values() if there.last_proxy65_port is not None]
    return Choice([*fitting, *others], explanation, max(ports, default=None))


def _used(organisation: Organisation | None) -> dict[int, Used]:
    """What is taken of each node, in two queries. A scratch takes memory and an address, and is nobody's neighbour."""
    rows = Placement.objects.order_by().values("node_id")
    rows = rows.annotate(
        memory=Sum("instance__plan__memory_mib"),
        count=Count("pk"),
        ours=Count("pk", filter=Q(instance__organisation=organisation)),
        last_address=Max("address"),
        last_proxy65_port=Max("proxy65_port"),
    )
    used = {
        row["node_id"]: Used(row["memory"], row["count"], row["ours"], row["last_address"], row["last_proxy65_port"])
        for row in rows
    }
    aside = Scratch.objects.order_by().values("node_id")
    for node, memory, number, last in aside.annotate(
        taken=Sum("memory_mib"), number=Count("pk"), last=Max("address")
    ).values_list("node_id", "taken", "number", "last"):
        there = used.get(node, Used())
        used[node] = there._replace(
            memory_mib=there.memory_mib + memory,
            instances=there.instances + number,
            last_address=max(there.last_address or last, last, key=ipaddress.ip_address),
        )
    return used


def _away() -> dict[str, str]:
    """Node -> what its own pass says of why it is not reached."""
    rows = Condition.objects.filter(kind="Node", type="Reachable", status="False")
    return dict(rows.values_list("object_id", "message"))


def _beside(node: Node, nodes: Sequence[Node], used: Mapping[int, Used]) -> tuple[int, ...]:
    def ours(some: Sequence[Node]) -> int:
        return sum(used[one.pk].ours for one in some if one.pk in used)

    alike = [[one for one in nodes if one.labels.get(label) == node.labels.get(label)] for label in SPREAD]
    return (*(ours(some) for some in alike), ours([node]))


def _judge(
    bare: Candidate, labels: Mapping[str, str], memory_mib: int, away: Mapping[str, str], *, is_led: bool
) -> Candidate:
    """The candidate with the first reason against it."""
    node = bare.node
    standing = {Node.RETIRED: "Retired", Node.DRAINING: "Draining", Node.CORDONED: "Cordoned"}.get(node.standing)
    missing = [f"{name}={value}" for name, value in labels.items() if node.labels.get(name) != value]
    if standing:
        return replace(bare, reason=standing, message=f"It {node.get_standing_display()}.")
    if not node.carries_instances:
        return replace(bare, reason="EdgeOnly", message="It is an edge and carries no instances.")
    if missing:
        return replace(bare, reason="Labels", message=f"It has not the label {', '.join(missing)}.")
    if is_new(node):
        return replace(bare, reason="NotPrepared", message="Roost has not prepared it yet.")
    if node.name in away:
        return replace(bare, reason="Unreachable", message=away[node.name] or "It is not reached.")
    if node.edge == Node.NO_EDGE and not is_led:
        return replace(bare, reason="Unrouted", message="It has no edge, and there is no shared one.")
    if bare.free_mib < memory_mib:
        said = f"{max(0, bare.free_mib)} MiB of memory are free, {memory_mib} wanted."
        return replace(bare, reason="NoMemory", message=said)
    if bare.instances >= seats(node):
        return replace(bare, reason="NoAddress", message=f"All of {node.instance_network} is taken.")
    return bare


def _explain(
    fitting: Sequence[Candidate],
    others: Sequence[Candidate],
    organisation: Organisation | None,
    plan: Plan,
    labels: Mapping[str, str],
) -> str:
    """Why the first of ``fitting``. Tenants read it too, so other nodes are counted and not named."""
    first = fitting[0]
    has = [f"{first.free_mib} MiB of memory free, {plan.memory_mib} wanted"]
    wanted = wanted_labels(plan, labels)
    if wanted:
        has.append(f"with {', '.join(f'{name}={value}' for name, value in wanted.items())} as wanted")
    text = f"{first.node.name} {_why(fitting, organisation)}; {', '.join(has)}."
    if others:
        text += f" Ruled out: {_counted(others)}."
    return text


def _why(fitting: Sequence[Candidate], organisation: Organisation | None) -> str:
    """What set the first apart from the next."""
    first, number = fitting[0], len(fitting)
    if number == 1:
        return "is the only node that fits"
    following = fitting[1]
    for index, count in enumerate(first.beside):
        if count != following.beside[index]:
            name = organisation.slug if organisation is not None else "the organisation"
            where = "it"
            if index < len(SPREAD):
                where = f"{SPREAD[index]} {first.node.labels.get(SPREAD[index], 'unknown')}"
            return f"was taken of {number} that fit, since {name} has fewest instances on {where} ({count})"
    if first.free_mib != following.free_mib:
        return f"had the most memory free of {number} that fit equally"
    return f"comes first by name of {number} that fit equally"


def _counted(others: Sequence[Candidate]) -> str:
    counts = Counter(candidate.reason for candidate in others)
    return ", ".join(f"{counts[reason]} {words}" for reason, words in RULED_OUT.items() if counts[reason])


def _none_fits(others: Sequence[Candidate], plan: Plan) -> str:
    if not others:
        return "There is no node."
    text = f"No node fits: {_counted(others)}."
    short = [candidate.free_mib for candidate in others if candidate.reason == "NoMemory"]
    return f"{text} {plan.memory_mib} MiB are wanted, at most {max(0, *short)} are free." if short else text


def refusal(choice: Choice, plan: Plan, labels: Mapping[str, str]) -> Unavailable | Rejected:
    """The error of a choice without a node: waiting helps, or what has to be added."""
    reasons = [candidate.reason for candidate in choice.candidates]
    passing = next((reason for reason in _PASSING if reason in reasons), "")
    if passing:
        return Unavailable(choice.explanation, remedy="Wait, or see `./roost node list` for what keeps a node away.")
    wanted = wanted_labels(plan, labels)
    asked = f" with the labels {', '.join(f'{k}={v}' for k, v in wanted.items())}" if wanted else ""
    nearest = max(reasons, key=list(RULED_OUT).index, default="")
    remedy = {
        "NoMemory": f"Enrol a node{asked} with {plan.memory_mib} MiB for instances, raise memory_mib of one, "
        "or remove instances.",
        "NoAddress": f"Enrol a node{asked}, or remove instances.",
        "Unrouted": "Enrol a shared edge, or give the node an edge of its own.",
        "Labels": f"Enrol a node{asked}, give one these labels, or want others.",
        "Cordoned": f"Uncordon a node, or enrol one{asked}.",
    }.get(nearest, f"Enrol a node{asked}.")
    return Rejected(choice.explanation, remedy=remedy)


def place(instance: Instance, lease: Lease) -> Placement:
    """Choose a node and reserve an address and ports on it; the one chosen before if there is one.

    ``Rejected`` if no node fits: the remedy says what to add. ``Unavailable`` if one will by itself.
    """
    plan, labels = instance.plan, instance.node_labels
    try:
        with holding(lease):
            # The nodes are locked in one order: two placements at once cannot take the same memory, address or port.
            nodes = list(Node.objects.select_for_update(no_key=True).order_by("pk"))
            choice = choose(instance.organisation, plan=plan, labels=labels, nodes=nodes)
            best = choice.best
            seat = free_seat(best.node, last_address=best.last_address) if best is not None else None
            if best is None or seat is None:
                raise refusal(choice, plan, labels)
            return Placement.objects.create(
                instance=instance,
                node=best.node,
                address=seat.address,
                base_port=seat.base_port,
                proxy65_port=free_proxy65_port(last=choice.last_proxy65_port),
                explanation=choice.explanation,
            )
    except IntegrityError as error:
        present = Placement.objects.select_related("node").filter(instance=instance).first()
        if present is not None:
            return present
        raise Unavailable("The address was taken meanwhile; another is tried by itself.") from error


def told(placement: Placement, plan: Plan, labels: Mapping[str, str]) -> str:
    """The explanation, and whether the node still is as wanted: it stays in any case."""
    has = placement.node.labels
    missing = [f"{name}={value}" for name, value in wanted_labels(plan, labels).items() if has.get(name) != value]
    if not missing:
        return placement.explanation
    return f"{placement.explanation} It stays there, although {', '.join(missing)} is wanted now."


@transaction.atomic
def release_placement(instance: Instance) -> None:
    """Give address and ports back; only after the node has removed the instance. Whoever waits for room is woken."""
    Placement.objects.filter(instance=instance).delete()
    wake_waiting()


def wake_waiting() -> None:
    """Have instances looked at that wait for a node. In the transaction that may have made room."""
    waiting = Instance.objects.filter(placement=None, deletion_requested_at=None)
    touch_instances(waiting.values_list("key", flat=True))


def memory_used_mib(node: Node) -> int:
    """Sum of the plans' memory of all instances placed there, and of scratches."""
    used = node.placements.aggregate(used=Sum("instance__plan__memory_mib"))["used"]
    return int(used or 0) + int(node.scratches.aggregate(used=Sum("memory_mib"))["used"] or 0)


def check_room(instance: Instance, plan: Plan) -> None:
    """``QuotaExceeded`` if the instance's node has not the memory that ``plan`` wants more; one unplaced has room.

    Call it in the transaction that changes the plan: the node stays locked, so no other takes that memory.
    """
    rows = Node.objects.select_for_update(of=("self",), no_key=True)
    node = rows.filter(placements__instance=instance).first()
    if node is None:
        return
    present = Instance.objects.values_list("plan__memory_mib", flat=True).get(pk=instance.pk)
    more, free = plan.memory_mib - present, node.capacity_mib - memory_used_mib(node)
    if more > max(0, free):
        raise QuotaExceeded(
            "plan",
            f"The plan {plan.slug} takes {more} MiB more memory, and the instance's machine has not as much free.",
            remedy="Choose a plan with less memory, or ask the provider for room.",
        )


def check_rooms(plan: Plan, memory_mib: int) -> None:
    """The same for all instances on a plan whose memory is to change, node by node; in that transaction, too."""
    more = memory_mib - plan.memory_mib
    if more <= 0:
        return
    nodes = list(Node.objects.select_for_update(no_key=True).order_by("pk"))
    on_plan = Count("pk", filter=Q(instance__plan=plan))
    rows = Placement.objects.order_by().values("node_id")
    rows = rows.annotate(memory=Sum("instance__plan__memory_mib"), ours=on_plan)
    used = {row["node_id"]: (row["memory"], row["ours"]) for row in rows}
    for node in nodes:
        memory, count = used.get(node.pk, (0, 0))
        free = max(0, node.capacity_mib - memory)
        if more * count > free:
            raise QuotaExceeded(
                "memory_mib",
                f"The instances on {node.name} would take {more * count} MiB more, and {free} MiB are free.",
                remedy="Give the node more memory, or make a new plan and put instances on it one by one.",
            )
