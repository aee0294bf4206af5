"""What goes if a machine goes: its instances, the organisations that then have none left, and what its edge leads to.

Read before something is placed, drained or retired; nothing is decided or written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from django.db.models import Count, Q, Sum

from controlplane.fleet import placing
from controlplane.fleet.edges import led_by, left_alone_by
from controlplane.fleet.models import Node, Placement
from controlplane.fleet.placing import Candidate
from controlplane.values.errors import InvalidInput
from tenants import validators
from tenants.models import ENGINES, Organisation, Plan


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """Of one node. ``wholly``: organisations that have all of their placed instances there; ``accounts``: what their
    plans allow at most; ``led``: instances that its edge leads to, ``only_here``: those that no other edge leads to.
    """

    node: str
    instances: int
    organisations: Sequence[str]
    wholly: Sequence[str]
    accounts: int
    memory_mib: int
    led: int
    only_here: int

    def with_one_more(self, organisation: str, plan: Plan, *, wholly: bool, led: int, alone: int) -> BlastRadius:
        """As it would be with one more instance there."""
        others = [slug for slug in self.wholly if slug != organisation]
        return replace(
            self,
            instances=self.instances + 1,
            organisations=sorted({*self.organisations, organisation}),
            wholly=sorted([*others, organisation]) if wholly else others,
            accounts=self.accounts + plan.max_accounts,
            memory_mib=self.memory_mib + plan.memory_mib,
            led=self.led + led,
            only_here=self.only_here + alone,
        )


@dataclass(frozen=True, slots=True)
class Preview:
    """Where an instance would go now, why, and what that does to the node; None where no node fits."""

    node: Node | None
    explanation: str
    remedy: str
    candidates: Sequence[Candidate]
    before: BlastRadius | None
    after: BlastRadius | None


def blast_radius(node: Node) -> BlastRadius:
    """Counted now; a handful of queries, however many instances there are."""
    here = Count("pk", filter=Q(node=node))
    rows = Placement.objects.order_by().values("instance__organisation__slug").annotate(here=here, all=Count("pk"))
    found = {row["instance__organisation__slug"]: row for row in rows.filter(here__gt=0)}
    sums = node.placements.aggregate(
        count=Count("pk"), accounts=Sum("instance__plan__max_accounts"), memory=Sum("instance__plan__memory_mib")
    )
    return BlastRadius(
        node=node.name,
        instances=sums["count"],
        organisations=sorted(found),
        wholly=sorted(slug for slug, row in found.items() if row["here"] == row["all"]),
        accounts=sums["accounts"] or 0,
        memory_mib=sums["memory"] or 0,
        led=len(led_by(node)),
        only_here=left_alone_by(node),
    )


def preview(
    *, organisation: Organisation | None, plan: Plan, engine: str, labels: Mapping[str, str] | None = None
) -> Preview:
    """What placing one more instance would choose, without placing it. ``organisation`` None: one that is new."""
    if engine not in dict(ENGINES):
        raise InvalidInput("engine", "There is no such engine.", remedy=f"Use {' or '.join(dict(ENGINES))}.")
    wanted = validators.labels(labels or {}, field="node_labels")
    nodes = list(Node.objects.order_by("pk"))
    choice = placing.choose(organisation, plan=plan, labels=wanted, nodes=nodes)
    node = choice.chosen
    if node is None:
        remedy = placing.refusal(choice, plan, wanted).remedy
        return Preview(None, choice.explanation, remedy, choice.candidates, None, None)
    before = blast_radius(node)
    elsewhere = Placement.objects.exclude(node=node).filter(instance__organisation=organisation).exists()
    own = node.edge == Node.OWN_EDGE
    shared = node.edge == Node.SHARED_EDGE
    others = any(one.pk != node.pk and one.edge == Node.SHARED_EDGE and one.standing != Node.RETIRED for one in nodes)
    after = before.with_one_more(
        organisation.slug if organisation is not None else "(a new one)",
        plan,
        wholly=organisation is None or not elsewhere,
        led=int(own or shared),
        alone=int(own or (shared and not others)),
    )
    return Preview(node, choice.explanation, "", choice.candidates, before, after)
