"""Looks through the resolver whether a customer has published what the plan asks for. Never writes a zone.

What is published may differ from what was asked and still do: addresses instead of a CNAME, our CA among others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils import timezone

from controlplane import wiring
from controlplane.probes import recordsets
from controlplane.values.records import RecordSet
from controlplane.zones import plan
from controlplane.zones.models import DnsRecord
from tenants.models import Instance


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ok``: it does what it should; ``harmful``: it is there and breaks something; ``problem``: a clause."""

    ok: bool
    problem: str = ""
    harmful: bool = False


def check(instance: Instance, edge_addresses: Sequence[str]) -> None:
    """Compare each of the customer's record sets and note the result. Raises ``Unavailable``.

    ``edge_addresses``: where names that need not be a CNAME may lead instead.
    """
    rows = list(instance.dns_records.filter(publisher=plan.CUSTOMER, wanted=True))
    if not rows:
        return
    seen = recordsets.at_resolver(wiring.resolver(), [row.key for row in rows])
    places = [row.name for row in rows if row.type == "CNAME" and row.key not in seen]
    edge = frozenset(edge_addresses)
    led = recordsets.addresses(wiring.resolver(), places)
    for row in rows:
        _note(row, judge(row.record_set(), seen.get(row.key), led.get(row.name, frozenset()), edge), seen)


def judge(
    wanted: RecordSet,
    seen: RecordSet | None,
    addresses: frozenset[str] = frozenset(),
    edge: frozenset[str] = frozenset(),
) -> Verdict:
    """Whether what is seen serves the purpose of what is wanted.

    ``addresses``: where a name without the wanted CNAME leads; ``edge``: where it should.
    """
    if wanted.same_data(seen):
        return Verdict(True)
    if wanted.type == "CNAME" and seen is None and addresses:
        if addresses <= edge:
            return Verdict(True)
        return Verdict(False, f"leads to {', '.join(sorted(addresses))}")
    if seen is None:
        return Verdict(False, "not there yet")
    if wanted.type in ("TXT", "CAA") and wanted.rdatas <= seen.rdatas:
        return Verdict(True)
    if wanted.type == "CAA":
        return Verdict(
            False, f"the CAA records {', '.join(sorted(seen.rdatas))} forbid the provider's CA", harmful=True
        )
    return Verdict(False, f"found {', '.join(sorted(seen.rdatas))}")


def _note(row: DnsRecord, verdict: Verdict, seen: Mapping[tuple[str, str], RecordSet]) -> None:
    there = seen.get(row.key)
    DnsRecord.objects.filter(pk=row.pk, revision=row.revision).update(
        published=verdict.ok,
        conflict=verdict.harmful,
        problem=verdict.problem,
        seen=sorted(there.rdatas) if there is not None else [],
        checked_at=timezone.now(),
    )
