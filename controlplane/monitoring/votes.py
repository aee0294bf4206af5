"""Which public addresses of one family a node has, by what several sources say. Pure: it asks and writes nothing.

The node's own interfaces are one source, each STUN server and each echo URL is another. A majority of those that
answered decides, and never one of them alone.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: With one source outside, the same has to be seen again after this time.
CONFIRM_S = 2.0
#: A family that nobody sees any more is withdrawn after this time.
WITHDRAW_S = 10.0
#: So much of an IPv6 address is the network's; privacy extensions change the rest (RFC 8981).
PREFIX = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found in one family. ``interface``: public addresses of the machine's own interfaces.

    ``outside``: source -> the address it named. ``configured``: how many sources outside there are to ask.
    """

    interface: tuple[str, ...] = ()
    outside: Mapping[str, str] | None = None
    configured: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``addresses``: what the family should be, None if it stays as it is. ``candidate``: what has to be seen again.

    ``again_s``: look again then. ``settled``: the sources agree that it is so. ``why``: a sentence.
    """

    why: str
    addresses: tuple[str, ...] | None = None
    candidate: tuple[str, ...] | None = None
    again_s: float | None = None
    settled: bool = False


def judge(
    current: Sequence[str],
    seen: Seen,
    *,
    candidate: Sequence[str] | None = None,
    candidate_age_s: float = 0.0,
    withdraw: bool = False,
) -> Verdict:
    """Whether these ``current`` addresses stay.

    ``candidate``: what was to be seen again, and since when. ``withdraw``: the machine had its address on an interface
    (so there is no translator that may only be silent), and would keep addresses of the other family.
    """
    outside = seen.outside or {}
    if current and set(current) <= set(seen.interface):
        return Verdict("The machine still has it.", settled=True)
    if not seen.interface and not outside:
        return _nobody(current, candidate, candidate_age_s, withdraw=withdraw)
    tally: Counter[str] = Counter({_key(one): 1 for one in seen.interface})
    tally.update(_key(one) for one in outside.values())
    voters = len(outside) + bool(seen.interface)
    best = max(tally, key=lambda key: (tally[key], key in {_key(one) for one in outside.values()}))
    votes = f"{tally[best]} of {voters} sources"
    if tally[best] < 2:
        return Verdict(f"{_said(seen)}: one source alone is not believed.")
    if tally[best] * 2 <= voters:
        return Verdict(f"{_said(seen)}: only {votes} agree.")
    inside = [one for one in seen.interface if _key(one) == best]
    if seen.interface and not inside:
        return Verdict(f"{_said(seen)}: the sources outside agree on what the machine itself does not have.")
    fresh = inside[:1] or [next(one for one in outside.values() if _key(one) == best)]
    wanted = tuple(dict.fromkeys([*(one for one in current if one in seen.interface), *fresh]))
    if set(wanted) == set(current):
        return Verdict(f"{votes} say so.", settled=True)
    if seen.configured >= 2:
        return Verdict(f"{votes} say so.", addresses=wanted)
    if not inside:
        return Verdict(f"{_said(seen)}: one source outside is not believed about what the machine does not see itself.")
    if candidate is not None and tuple(candidate) == wanted and candidate_age_s >= CONFIRM_S:
        return Verdict(f"{votes} say so, twice.", addresses=wanted)
    return Verdict("It is looked at once more.", candidate=wanted, again_s=CONFIRM_S + 0.05)


def _nobody(
    current: Sequence[str], candidate: Sequence[str] | None, candidate_age_s: float, *, withdraw: bool
) -> Verdict:
    if not current:
        return Verdict("None is seen.")
    if not withdraw:
        return Verdict("No source answers.")
    if candidate is not None and not candidate and candidate_age_s >= WITHDRAW_S:
        return Verdict("The machine has none any more.", addresses=())
    return Verdict("The machine has none any more; it is looked at again.", candidate=(), again_s=WITHDRAW_S / 2)


def _key(text: str) -> str:
    """What has to be the same: an IPv4 address, or the network of an IPv6 address."""
    address = ipaddress.ip_address(text)
    return text if address.version == 4 else str(ipaddress.ip_network((text, PREFIX), strict=False))


def _said(seen: Seen) -> str:
    parts = [f"the interfaces say {', '.join(seen.interface)}"] if seen.interface else []
    parts += [f"{source} says {address}" for source, address in (seen.outside or {}).items()]
    return "; ".join(parts)[:600]
