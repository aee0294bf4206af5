"""Sends one message and tells how: run in the virtual environment by ``./roost send``, which writes to its input.

It is a stranger's view: names by the resolver, trust by the roots, nothing from the control plane's database.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from controlplane.probes.client import deliver
from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, Lookup
from controlplane.values.errors import RoostError
from controlplane.values.secret import Secret


def main() -> int:
    sender, password, receiver, other, text, resolver, roots = sys.stdin.buffer.read().decode().split("\0")
    try:
        seconds = deliver(
            sender, Secret(password), receiver, Secret(other), text, resolver=resolver, trust_roots=roots, timeout_s=20
        )
        found = [_found(resolver, domain, services) for domain, services in _questions(sender, receiver)]
    except RoostError as error:
        print(f"Not delivered: {error}", file=sys.stderr)
        return 1
    print(f"Delivered in {seconds * 1000:.0f} ms: {sender} -> {receiver}: {text}")
    for line in found:
        print(f"  {line}")
    print("  Both clients checked the servers' certificates for the domains' names and logged in by SCRAM.")
    return 0


def _questions(sender: str, receiver: str) -> list[tuple[str, Sequence[str]]]:
    """What was asked of the DNS: the sender's client, the sender's server, the receiver's client."""
    home, away = (jid.partition("@")[2] for jid in (sender, receiver))
    return [(home, CLIENT_SERVICES), (away, SERVER_SERVICES), (away, CLIENT_SERVICES)]


def _found(resolver: str, domain: str, services: Sequence[str]) -> str:
    endpoints = asyncio.run(Lookup(resolver, timeout_s=5.0).endpoints(domain, services))
    where = ", ".join(f"{endpoint} ({endpoint.service})" for endpoint in endpoints)
    return f"{domain}, by SRV: {where or 'nothing'}"


if __name__ == "__main__":
    sys.exit(main())
