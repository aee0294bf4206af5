"""The walk's first step: the SRV sets that lead a stranger to the server, and the addresses behind them.

Clients' and servers' sets of the domain (RFC 6120 §3.2.1, XEP-0368), the servers' set of each component.
Whether anything answers at those addresses is left to ``probes.tls``.
"""

from __future__ import annotations

import asyncio

from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, SrvRecord
from controlplane.probes.report import Failed, Finding
from controlplane.probes.subject import Journey


async def resolve(journey: Journey) -> Finding:
    """All sets and all targets, or ``Failed`` with every one that is missing."""
    subject = journey.subject
    # A component's direct TLS set is looked up too; it may be missing, since peers fall back to STARTTLS.
    wanted = [(journey.domain, service, True) for service in (*CLIENT_SERVICES, *SERVER_SERVICES)]
    for component in subject.components.all():
        wanted += [(component.ascii, "xmpp-server", True), (component.ascii, "xmpps-server", False)]
    sets = await asyncio.gather(*(journey.lookup.srv(name, service) for name, service, _ in wanted))
    journey.answered = True
    absent, targets, shown = [], set(), {}
    for (name, service, required), records in zip(wanted, sets, strict=True):
        offered = [record for record in records if record.target]
        targets |= {record.target for record in offered}
        shown[f"_{service}._tcp.{name}"] = [_text(record) for record in records]
        if required and not offered:
            absent.append(f"_{service}._tcp.{name}")
    ordered = sorted(targets)
    addresses = dict(zip(ordered, await asyncio.gather(*(journey.lookup.addresses(t) for t in ordered)), strict=True))
    homeless = [target for target, found in addresses.items() if not found]
    details = {"srv": shown, "addresses": {target: list(found) for target, found in addresses.items()}}
    problems = []
    if absent:
        problems.append(f"No SRV record: {', '.join(absent)}.")
    if homeless:
        problems.append(f"No address: {', '.join(homeless)}.")
    if problems:
        raise Failed(
            " ".join(problems),
            remedy="Publish the records; see what the authoritative servers answer.",
            details=details,
        )
    count = sum(len(records) for records in sets)
    return Finding(f"{count} SRV records lead to {', '.join(ordered)}.", details)


def _text(record: SrvRecord) -> str:
    return f"{record.priority} {record.weight} {record.port} {record.target or '.'}"
