"""Which record sets an instance needs, and who publishes each: a pure function of names, addresses and settings.

SRV targets are names of the instance in the provider's own zone, so a change of address never touches a
customer's zone. They are never CNAMEs (RFC 2782). Writing and checking is left to the reconciler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from controlplane.values.names import DomainName
from controlplane.values.rdata import record_set
from controlplane.values.records import RecordSet, txt
from controlplane.values.spec import Components

OURS, CUSTOMER = "ours", "customer"
PROVIDER, OWN = "provider", "own"

#: SRV service -> (port, who looks for it). RFC 6120 §3.2.1, XEP-0368.
CLIENT_SERVICES = {"_xmpp-client": 5222, "_xmpps-client": 5223}
SERVER_SERVICES = {"_xmpp-server": 5269, "_xmpps-server": 5270}
PURPOSES = {
    "_xmpp-client": "chat apps find the server (STARTTLS)",
    "_xmpps-client": "chat apps find the server (direct TLS)",
    "_xmpp-server": "other servers find this one (STARTTLS)",
    "_xmpps-server": "other servers find this one (direct TLS)",
}
PRIORITY, WEIGHT = 0, 5

#: Labels of the provider's zone below which the instances' names are; no tenant can have them.
EDGE_LABEL, ACME_LABEL = "edge", "_acme"
PROOF_LABEL = "_roost-challenge"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record set that should exist. ``publisher``: "ours" (in ``zone``) or "customer" (``zone`` is None)."""

    publisher: str
    zone: DomainName | None
    record_set: RecordSet
    purpose: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class TurnService:
    """Where STUN and TURN are: the host's name, its port over UDP and TCP, its port over TLS if it has one."""

    host: DomainName
    port: int
    tls_port: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What the records depend on. ``mode``: "provider" or "own" (see ``tenants.models.Domain``)."""

    key: str
    domain: DomainName
    components: Components
    mode: str
    zone: DomainName
    ttl_s: int
    edge_addresses: Sequence[str]
    turn: TurnService | None = None
    caa_issuer: str = ""
    delegate_acme: bool = True
    proof_token: str = ""
    proven: bool = False

    @property
    def target(self) -> DomainName:
        """The instance's own name in the provider's zone, which SRV records and CNAMEs point to."""
        return self.zone.child(f"{self.key}.{EDGE_LABEL}")

    @property
    def names(self) -> tuple[DomainName, ...]:
        return (self.domain, *self.components.all())


def wanted_records(need: Need) -> tuple[Wanted, ...]:
    """Every record set of the instance, each key once. Raises ``ValueError`` for addresses that are none."""
    records = [*_target(need)]
    records += _provider_records(need) if need.mode == PROVIDER else _own_records(need)
    return tuple(records)


def challenge_targets(need: Need) -> dict[str, list[str]]:
    """Certificate name -> [zone, record name] of its DNS-01 answer (RFC 8555 §8.4), always in the provider's zone."""
    if need.mode == PROVIDER:
        return {name.ascii: [need.zone.ascii, f"_acme-challenge.{name}"] for name in need.names}
    return {name.ascii: [need.zone.ascii, delegated_challenge(need, name).ascii] for name in need.names}


def delegated_challenge(need: Need, name: DomainName) -> DomainName:
    """The name in the provider's zone that ``_acme-challenge.name`` of a customer's zone points to."""
    label = "main" if name == need.domain else name.ascii.removesuffix(f".{need.domain}").replace(".", "-")
    return need.zone.child(f"{label}.{need.key}.{ACME_LABEL}")


def proof_name(domain: DomainName) -> str:
    """Where the token that proves control of a domain is published."""
    return f"{PROOF_LABEL}.{domain}"


def _target(need: Need) -> Iterator[Wanted]:
    for addresses in _addresses(need, need.target, "the edge's addresses: every SRV record points here"):
        yield _ours(need, addresses[0], addresses[1])
    if need.caa_issuer and need.mode == OWN:
        # A CA that follows a customer's CNAME looks for CAA where it leads (RFC 8659 §3).
        yield _ours(need, _caa(need, need.target), "only this CA may issue")


def _provider_records(need: Need) -> Iterator[Wanted]:
    for made, purpose in _srv(need):
        yield _ours(need, made, purpose)
    for name, purpose in _served_names(need):
        for made, text in _addresses(need, name, purpose):
            yield _ours(need, made, text)
    for made, purpose in _turn(need):
        yield _ours(need, made, purpose)
    if need.caa_issuer:
        yield _ours(need, _caa(need, need.domain), "only this CA may issue")


def _own_records(need: Need) -> Iterator[Wanted]:
    target = f"{need.target}."
    for made, purpose in _srv(need):
        yield Wanted(CUSTOMER, None, made, purpose)
    for name, purpose in _served_names(need):
        needed = name in (need.components.upload, need.components.proxy)
        if name == need.domain:
            purpose += "; where the name cannot be a CNAME, addresses that lead to the same place do as well"
        yield Wanted(CUSTOMER, None, record_set(name.ascii, "CNAME", need.ttl_s, [target]), purpose, not needed)
    if need.delegate_acme:
        for name in need.names:
            to = f"{delegated_challenge(need, name)}."
            made = record_set(f"_acme-challenge.{name}", "CNAME", need.ttl_s, [to])
            yield Wanted(CUSTOMER, None, made, f"the provider may get and renew the certificate for {name}")
    for made, purpose in _turn(need):
        yield Wanted(CUSTOMER, None, made, purpose, True)
    if need.caa_issuer:
        purpose = "needed only where the domain has CAA records: this CA has to be among them"
        yield Wanted(CUSTOMER, None, _caa(need, need.domain), purpose, True)
    if need.proof_token:
        made = record_set(proof_name(need.domain), "TXT", need.ttl_s, [txt(need.proof_token)])
        # Once proven it may go, and until then it is not the only way: see zones.proof.
        yield Wanted(CUSTOMER, None, made, "proves that the domain is yours", need.proven)


def _srv(need: Need) -> Iterator[tuple[RecordSet, str]]:
    for name in need.names:
        services = {**CLIENT_SERVICES, **SERVER_SERVICES} if name == need.domain else SERVER_SERVICES
        for service, port in services.items():
            rdata = f"{PRIORITY} {WEIGHT} {port} {need.target}."
            yield record_set(f"{service}._tcp.{name}", "SRV", need.ttl_s, [rdata]), PURPOSES[service]


def _served_names(need: Need) -> tuple[tuple[DomainName, str], ...]:
    return (
        (need.domain, "host-meta and web chat over HTTPS, and servers that know no SRV"),
        (need.components.muc, "servers that know no SRV find the rooms"),
        (need.components.upload, "files are uploaded and fetched over HTTPS"),
        (need.components.proxy, "direct file transfer between clients"),
    )


def _turn(need: Need) -> Iterator[tuple[RecordSet, str]]:
    """STUN and TURN by DNS (RFC 8489 §8.1, RFC 8656 §7.1) for clients that do not ask by XEP-0215."""
    if need.turn is None:
        return
    services = [("_stun._udp", need.turn.port), ("_turn._udp", need.turn.port), ("_turn._tcp", need.turn.port)]
    if need.turn.tls_port:
        services.append(("_turns._tcp", need.turn.tls_port))
    for service, port in services:
        rdata = f"{PRIORITY} {WEIGHT} {port} {need.turn.host}."
        yield record_set(f"{service}.{need.domain}", "SRV", need.ttl_s, [rdata]), "calls find their relay"


def _addresses(need: Need, name: DomainName, purpose: str) -> Iterator[tuple[RecordSet, str]]:
    by_type: dict[str, list[str]] = {"A": [], "AAAA": []}
    for text in need.edge_addresses:
        address = ip_address(text)
        by_type["A" if address.version == 4 else "AAAA"].append(str(address))
    for type, addresses in by_type.items():
        if addresses:
            yield record_set(name.ascii, type, need.ttl_s, addresses), purpose


def _caa(need: Need, name: DomainName) -> RecordSet:
    return record_set(name.ascii, "CAA", need.ttl_s, [f'0 issue "{need.caa_issuer}"'])


def _ours(need: Need, made: RecordSet, purpose: str) -> Wanted:
    return Wanted(OURS, need.zone, made, purpose)
