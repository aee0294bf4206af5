"""Asks name servers for whole record sets: the authoritative ones without a cache, or a resolver as the world does.

It tells what is there and judges nothing; what should be there is the ``zones`` room's business. Many questions
run at once, since a zone's full check may have thousands.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from controlplane.values.errors import Unavailable
from controlplane.values.rdata import of_rdata
from controlplane.values.records import RecordSet

Key = tuple[str, str]
Server = tuple[str, int]

TIMEOUT_S = 2.0
TRIES = 2
AT_ONCE = 32


def at_server(server: Server, keys: Iterable[Key]) -> dict[Key, RecordSet]:
    """The sets of these (name, type) keys that this authoritative server has. Raises ``Unavailable``.

    A CNAME is not followed. An answer without authority (a lame delegation) counts as none.
    """
    return _exact(server, list(dict.fromkeys(keys)), authoritative=True)


def at_resolver(resolver: str | None, keys: Iterable[Key]) -> dict[Key, RecordSet]:
    """The sets of these keys as a resolver ("address", "address@port", None: the system's) gives them.

    A CNAME is not followed. Raises ``Unavailable``.
    """
    return _exact(system_resolver(resolver), list(dict.fromkeys(keys)), authoritative=False)


def addresses(resolver: str | None, names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Name -> every IPv4 and IPv6 address it leads to, through CNAMEs too. Raises ``Unavailable``."""
    unique = list(dict.fromkeys(names))
    keys = [(name, type) for name in unique for type in ("A", "AAAA")]
    found: dict[str, set[str]] = {name: set() for name in unique}
    for (name, type), answer in _ask_all(system_resolver(resolver), keys, authoritative=False).items():
        wanted = dns.rdatatype.from_text(type)
        for rrset in answer.answer:
            if rrset.rdtype == wanted:
                found[name] |= {of_rdata(type, rdata) for rdata in rrset}
    return {name: frozenset(values) for name, values in found.items()}


def nameservers(zone: str, resolver: str | None) -> tuple[Server, ...]:
    """Addresses of the zone's name servers, by its NS records. Raises ``Unavailable`` if there are none."""
    answers = _ask_all(system_resolver(resolver), [(zone, "NS")], authoritative=False)
    hosts = sorted(
        rdata.target.to_text(omit_final_dot=True)
        for rrset in answers[zone, "NS"].answer
        if rrset.rdtype == dns.rdatatype.NS
        for rdata in rrset
    )
    found = addresses(resolver, hosts)
    servers = tuple((address, 53) for host in hosts for address in sorted(found[host]))
    if not servers:
        raise Unavailable(
            f"The name servers of {zone} cannot be found.",
            remedy="Check its delegation, or name the servers in ROOST_DNS_AUTHORITATIVE.",
        )
    return servers


def _exact(server: Server, keys: Sequence[Key], *, authoritative: bool) -> dict[Key, RecordSet]:
    found = {}
    for (name, type), answer in _ask_all(server, keys, authoritative=authoritative).items():
        owner, wanted = dns.name.from_text(name + "."), dns.rdatatype.from_text(type)
        for rrset in answer.answer:
            if rrset.name == owner and rrset.rdtype == wanted:
                found[name, type] = RecordSet.of(name, type, rrset.ttl, (of_rdata(type, rdata) for rdata in rrset))
    return found


def _ask_all(server: Server, keys: Sequence[Key], *, authoritative: bool) -> dict[Key, dns.message.Message]:
    async def run() -> list[dns.message.Message]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(key: Key) -> dns.message.Message:
            async with gate:
                return await _ask(server, key, authoritative=authoritative)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(key)) for key in keys]
        return [task.result() for task in tasks]

    if not keys:
        return {}
    try:
        return dict(zip(keys, asyncio.run(run()), strict=True))
    except* Unavailable as failures:
        first = failures.exceptions[0]
        assert isinstance(first, Unavailable)
        raised = first
    raise raised


async def _ask(server: Server, key: Key, *, authoritative: bool) -> dns.message.Message:
    question = dns.message.make_query(key[0] + ".", key[1])
    if authoritative:
        question.flags &= ~dns.flags.RD
    shown = f"{server[0]}:{server[1]}"
    for tried in range(1, TRIES + 1):
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(question, server[0], timeout=TIMEOUT_S, port=server[1])
            break
        except (dns.exception.DNSException, OSError, EOFError) as error:
            if tried == TRIES:
                raise Unavailable(
                    f"The name server {shown} does not answer.",
                    remedy="Check that it runs and can be reached from here.",
                ) from error
    rcode = answer.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Unavailable(f"The name server {shown} answers {dns.rcode.to_text(rcode)} for {key[0]} {key[1]}.")
    if authoritative and not answer.flags & dns.flags.AA:
        raise Unavailable(
            f"The name server {shown} has no authority over {key[0]}.", remedy="Check that it serves the zone."
        )
    return answer


def system_resolver(resolver: str | None) -> Server:
    """(address, port) of this resolver ("address", "address@port"); None: of the system's first. ``Unavailable``."""
    if resolver is None:
        for address in dns.resolver.get_default_resolver().nameservers:
            text = str(address)
            try:
                ipaddress.ip_address(text)
            except ValueError:
                continue
            return text, 53
        raise Unavailable("This system has no resolver.", remedy="Set ROOST_RESOLVER.")
    address, _, port = resolver.partition("@")
    return address, int(port or 53)
