"""DNS record sets as values (RFC 2181 §5): a name, a type, one TTL, a set of rdata texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Types that Roost writes. Anything else in a zone is not ours to touch.
TYPES = ("A", "AAAA", "CAA", "CNAME", "SRV", "TXT")


@dataclass(frozen=True, slots=True, order=True)
class RecordSet:
    """All records of one name and type.

    ``name``: lower-case ASCII without the final dot (underscore labels allowed). ``ttl_s``: seconds.
    ``rdatas``: presentation format as RFC 1035 §5.1 has it; host names in them end with a dot, TXT
    strings are quoted.
    """

    name: str
    type: str
    ttl_s: int
    rdatas: frozenset[str]

    @classmethod
    def of(cls, name: str, type: str, ttl_s: int, rdatas: Iterable[str]) -> RecordSet:
        """Build one; raises ``ValueError`` for an unknown type or an empty set."""
        values = frozenset(rdatas)
        if type not in TYPES or not values or ttl_s < 0:
            raise ValueError(f"not a record set: {name} {type} {ttl_s} {sorted(values)}")
        return cls(str(name).rstrip(".").lower(), type, ttl_s, values)

    @property
    def key(self) -> tuple[str, str]:
        return (self.name, self.type)

    def same_data(self, other: RecordSet | None) -> bool:
        """Equal but for the TTL, which resolvers count down."""
        return other is not None and self.key == other.key and self.rdatas == other.rdatas


@dataclass(frozen=True, slots=True)
class Change:
    """One wanted change of a zone.

    ``upsert`` replaces the whole set, ``delete`` removes the set of that key (whatever its data is), ``create``
    is an ``upsert`` that must find nothing there: where the protocol can check it, other data is a ``Conflict``.
    """

    action: str  # "upsert" | "create" | "delete"
    record_set: RecordSet


def txt(value: str) -> str:
    """Quote a text as TXT rdata: strings of at most 255 octets, backslash and quote escaped (RFC 1035 §5.1)."""
    data = value.encode()
    chunks = [data[i : i + 255] for i in range(0, len(data), 255)] or [b""]
    return " ".join('"' + "".join(txt_octet(o) for o in chunk) + '"' for chunk in chunks)


def txt_octet(octet: int) -> str:
    """One octet inside a quoted string (RFC 1035 §5.1)."""
    if octet in (0x22, 0x5C):
        return "\\" + chr(octet)
    return chr(octet) if 0x20 <= octet < 0x7F else f"\\{octet:03d}"
