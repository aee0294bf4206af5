"""What a zone's pass should do with each record: a pure comparison of what is wanted with what the server holds.

Ownership is decided here and nowhere else: a set that Roost did not make is never changed and never deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.values.records import TYPES, Change, RecordSet
from controlplane.zones.models import DnsRecord

Key = tuple[str, str]


@dataclass(slots=True)
class Verdict:
    """One record: what to change, and what is known of it. ``owned``: made by us, as far as is known now."""

    row: DnsRecord
    change: Change | None = None
    owned: bool = False
    conflict: bool = False
    problem: str = ""
    gone: bool = False
    late: bool = False  # a server does not have it yet, or still has it: waiting helps
    seen: list[str] = field(default_factory=list)

    @property
    def wants_look(self) -> bool:
        """True if the authoritative servers have to be asked about it."""
        return not self.conflict and not self.problem


def keys_to_read(rows: Iterable[DnsRecord]) -> list[Key]:
    """The records themselves, and what could stand beside a CNAME (RFC 1034 §3.6.2)."""
    keys: dict[Key, None] = {}
    for row in rows:
        for type in TYPES if row.type == "CNAME" and row.wanted else (row.type, "CNAME"):
            keys[row.name, type] = None
    return list(keys)


def decide(rows: Sequence[DnsRecord], held: Mapping[Key, RecordSet], *, zone: str, exact_ttl: bool) -> list[Verdict]:
    """A verdict for each row; the deletions are decided first, because they make room for others."""
    leaving = [_leave(row, held.get(row.key)) for row in rows if not row.wanted]
    vanishing = {verdict.row.key for verdict in leaving if verdict.change is not None}
    staying = []
    for row in rows:
        if row.wanted:
            beside = [k for k in held if k[0] == row.name and k != row.key and k not in vanishing]
            clashes = [k for k in beside if row.type == "CNAME" or k[1] == "CNAME"]
            staying.append(_keep(row, held.get(row.key), clashes, zone, exact_ttl))
    return leaving + staying


def _owns(row: DnsRecord, there: RecordSet) -> bool:
    """True if we made it: the row says so, or it is what we were about to create when a pass was cut off."""
    return row.created_by_us or (bool(row.attempted) and there.rdatas == frozenset(row.attempted))


def _leave(row: DnsRecord, there: RecordSet | None) -> Verdict:
    if there is None:
        return Verdict(row, owned=row.created_by_us)
    seen = sorted(there.rdatas)
    if _owns(row, there):
        return Verdict(row, Change("delete", there), owned=True, seen=seen)
    return Verdict(row, gone=True, seen=seen)  # not ours: it stays, and only our wish for it ends


def _keep(row: DnsRecord, there: RecordSet | None, clashes: Sequence[Key], zone: str, exact_ttl: bool) -> Verdict:
    wanted = row.record_set()
    if clashes:
        types = ", ".join(sorted(type for _, type in clashes))
        return Verdict(
            row, conflict=True, problem=f"{row.name} has {types} in the zone {zone}, which excludes {row.type}"
        )
    if there is None:
        return Verdict(row, Change("create", wanted))
    owned, seen = _owns(row, there), sorted(there.rdatas)
    if wanted.same_data(there):
        # Already as wanted: nothing to overwrite, whoever made it. Not ours by that, so never deleted.
        drifted = owned and exact_ttl and wanted.ttl_s != there.ttl_s
        return Verdict(row, Change("upsert", wanted) if drifted else None, owned=owned, seen=seen)
    if owned:
        return Verdict(row, Change("upsert", wanted), owned=True, seen=seen)
    problem = f"the zone {zone} has {', '.join(seen)} there, which Roost did not make"
    return Verdict(row, conflict=True, problem=problem, seen=seen)
