"""``turnserver.conf`` for a coturn whose secrets live in its SQLite user database, as a pure function of a typed value.

Standard library only and no import from the rest: the launcher calls it before the virtual environment is
there. Who may use the server is left to the secrets (``drivers.turn.coturn``); whom it may relay to is said here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Where a relay has no business: a TURN user could reach the provider's own network, cloud metadata
#: (169.254.169.254) or everybody at once. IANA's special-purpose registries, RFC 6890 and its updates.
DENIED_PEERS = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, cloud metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved and broadcast
    "::1/128",  # loopback; not "::", which coturn takes for every address there is, and refuses as a peer anyway
    "::ffff:0:0/96",  # IPv4 in disguise
    "64:ff9b::/96",  # NAT64
    "64:ff9b:1::/48",  # local NAT64
    "100::/64",  # discard
    "2001::/23",  # protocol assignments, Teredo
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "fc00::/7",  # unique local, cloud metadata
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local, deprecated
    "ff00::/8",  # multicast
)
LOOPBACK = ("127.0.0.0/8", "::1/128")

_REALM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,125}[A-Za-z0-9])?")
_VALUE = re.compile(r"[!-~]+(?: [!-~]+)*")


@dataclass(frozen=True, slots=True)
class TurnServerConfig:
    """One coturn process.

    ``listening_ips``: literal addresses. ``external_ip``: the public address behind 1:1 NAT, "" without.
    ``database``, ``certificate``, ``private_key``, ``pidfile``: absolute paths; no ``tls_port`` (None), no TLS
    and no DTLS. ``allowed_peers``: networks (CIDR) that the operator permits although ``DENIED_PEERS`` holds
    them. ``user_quota``: concurrent allocations of one tenant, since coturn counts by what follows the
    expiry in the user name; ``total_quota``: of all. ``max_bytes_per_s``: of one allocation and direction.
    """

    listening_ips: tuple[str, ...]
    realm: str
    database: str
    pidfile: str
    port: int = 3478
    tls_port: int | None = None
    certificate: str = ""
    private_key: str = ""
    external_ip: str = ""
    min_relay_port: int = 49152
    max_relay_port: int = 65535
    allow_loopback_peers: bool = False
    allowed_peers: tuple[str, ...] = ()
    user_quota: int = 200
    total_quota: int = 4000
    max_bytes_per_s: int = 1_250_000


def render_turnserver_conf(config: TurnServerConfig) -> str:
    """The file's text. Raises ``ValueError`` for a value that the format cannot carry or that makes no sense."""
    return "".join(f"{line}\n" for line in _lines(config))


def _lines(config: TurnServerConfig) -> Iterator[str]:
    yield "# Written by Roost; changes are lost."
    if not config.listening_ips:
        raise ValueError("a TURN server needs an address to listen on")
    for address in config.listening_ips:
        yield option("listening-ip", _address(address))
        yield option("relay-ip", _address(address))
    if config.external_ip:
        yield option("external-ip", _address(config.external_ip))
    yield option("listening-port", _port(config.port))
    yield from _tls(config)
    if not _port(config.min_relay_port) <= _port(config.max_relay_port):
        raise ValueError("the relay ports' range is empty")
    yield option("min-port", config.min_relay_port)
    yield option("max-port", config.max_relay_port)

    if not _REALM.fullmatch(config.realm):
        raise ValueError(f"not a realm: {config.realm!r}")
    yield option("realm", config.realm)
    yield "use-auth-secret"  # TURN REST credentials; the secrets are in the database
    yield option("userdb", config.database)

    yield from _peers(config)

    yield option("user-quota", _count(config.user_quota))
    yield option("total-quota", _count(config.total_quota))
    yield option("max-bps", _count(config.max_bytes_per_s))
    yield "stale-nonce=600"
    yield "fingerprint"
    yield "no-tcp-relay"  # RFC 6062: no XMPP client asks for it, and it reaches more than calls need
    yield "no-rfc5780"  # larger answers than questions, for amplification
    yield "no-software-attribute"
    yield "no-cli"
    yield option("pidfile", config.pidfile)
    yield "log-file=stdout"  # the supervisor keeps it
    yield "new-log-timestamp"


def _tls(config: TurnServerConfig) -> Iterator[str]:
    if config.tls_port is None:
        yield "no-tls"
        yield "no-dtls"
        return
    if not config.certificate or not config.private_key:
        raise ValueError("TLS needs a certificate and its key")
    yield option("tls-listening-port", _port(config.tls_port))
    yield option("cert", config.certificate)
    yield option("pkey", config.private_key)
    yield "no-tlsv1"
    yield "no-tlsv1_1"


def _peers(config: TurnServerConfig) -> Iterator[str]:
    """In coturn an allowed range wins over a denied one that holds it; what is in neither is allowed."""
    if config.allow_loopback_peers:
        yield "allow-loopback-peers"
    yield "no-multicast-peers"
    for network in DENIED_PEERS:
        if not (config.allow_loopback_peers and network in LOOPBACK):
            yield option("denied-peer-ip", peer_range(network))
    for network in config.allowed_peers:
        yield option("allowed-peer-ip", peer_range(network))


def peer_range(network: str) -> str:
    """``first-last`` as coturn writes address ranges, from CIDR notation."""
    found = ipaddress.ip_network(network)
    return f"{found[0]}-{found[-1]}"


def option(name: str, value: object) -> str:
    """One ``name=value`` line. coturn has no quoting: what would be cut or read as something else is refused."""
    text = str(value)
    if not _VALUE.fullmatch(text) or text[0] in "\"'":
        raise ValueError(f"{name} in turnserver.conf cannot be {text!r}")
    return f"{name}={text}"


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError(f"not a port: {number}")
    return number


def _count(number: int) -> int:
    if number < 0:
        raise ValueError(f"a limit cannot be {number}")
    return number
