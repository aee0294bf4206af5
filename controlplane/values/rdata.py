"""One spelling for rdata, so that what was wanted, written and seen can be compared as text.

Servers answer in their own spelling (``2001:DB8::0:1``, names in capitals, TXT with other escapes); everything
that reads records passes it through here. Pure: dnspython parses, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Iterable

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT

from controlplane.values.records import TYPES, RecordSet, txt_octet

_NAMES_INSIDE = ("CNAME", "SRV")


def canonical(type: str, text: str) -> str:
    """The rdata in presentation format (RFC 1035 §5.1): host names absolute and lower case, addresses short.

    Raises ``ValueError`` for text that is no rdata of this type.
    """
    if type not in TYPES:
        raise ValueError(f"not a type that Roost writes: {type}")
    try:
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, dns.rdatatype.from_text(type), text, origin=dns.name.root, relativize=False
        )
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"not {type} rdata: {text!r} ({error})") from error
    return of_rdata(type, rdata)


def of_rdata(type: str, rdata: dns.rdata.Rdata) -> str:
    """The canonical text of a parsed rdata."""
    if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return " ".join('"' + "".join(txt_octet(o) for o in string) + '"' for string in rdata.strings)
    shown = rdata.to_text()
    return shown.lower() if type in _NAMES_INSIDE else shown


def record_set(name: str, type: str, ttl_s: int, rdatas: Iterable[str]) -> RecordSet:
    """A record set in canonical spelling. Raises ``ValueError`` as ``canonical`` and ``RecordSet.of`` do."""
    return RecordSet.of(name, type, ttl_s, (canonical(type, text) for text in rdatas))


def txt_value(text: str) -> bytes:
    """The octets of a TXT rdata, its strings joined: the reverse of ``records.txt``."""
    rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text)
    return b"".join(rdata.strings)  # type: ignore[attr-defined]
