"""Settings -> driver objects. The only place that chooses; everybody else asks here.

Drivers are made lazily and kept per process, so an import of this module opens nothing.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from controlplane.drivers.dns.base import DnsDriver
from controlplane.drivers.edge.base import EdgeDriver
from controlplane.drivers.engine.base import EngineDriver
from controlplane.drivers.node.base import NodeDriver
from controlplane.drivers.turn.base import TurnDriver
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret


def engine_driver(name: str) -> EngineDriver:
    """The driver of an engine by its name in the database."""
    if name == "prosody":
        from controlplane.drivers.engine.prosody import driver as prosody

        return prosody
    if name == "ejabberd":
        from controlplane.drivers.engine.ejabberd import driver as ejabberd

        return ejabberd
    raise ImproperlyConfigured(f"There is no engine {name!r}.")


@lru_cache(maxsize=1)
def dns_driver() -> DnsDriver:
    """The driver that writes the provider's zone (ROOST_DNS_DRIVER)."""
    conf = settings.ROOST
    match conf["DNS_DRIVER"]:
        case "powerdns":
            from controlplane.drivers.dns.powerdns import PowerDns

            return PowerDns(conf["POWERDNS_URL"], Secret(conf["POWERDNS_API_KEY"]))
        case "rfc2136":
            from controlplane.drivers.dns.rfc2136 import Rfc2136

            return Rfc2136(
                conf["RFC2136_SERVER"],
                key_name=conf["RFC2136_TSIG_NAME"],
                key_secret=Secret(conf["RFC2136_TSIG_SECRET"]),
                algorithm=conf["RFC2136_TSIG_ALGORITHM"],
            )
        case "lexicon":
            from controlplane.drivers.dns.lexicon import Lexicon

            return Lexicon(conf["LEXICON_PROVIDER"], {k: Secret(str(v)) for k, v in conf["LEXICON_AUTH"].items()})
        case "manual":
            from controlplane.drivers.dns.manual import Manual

            return Manual(resolver())
    raise ImproperlyConfigured(f"ROOST_DNS_DRIVER={conf['DNS_DRIVER']!r}: use powerdns, rfc2136, lexicon or manual.")


@lru_cache(maxsize=1)
def turn_driver() -> TurnDriver | None:
    """The TURN server's secrets; None if no TURN service is configured."""
    conf = settings.ROOST
    if not conf["TURN_DATABASE"]:
        return None
    from controlplane.drivers.turn.coturn import Coturn

    return Coturn(Path(conf["TURN_DATABASE"]), conf["TURN_REALM"])


@lru_cache(maxsize=1)
def edge_driver() -> EdgeDriver:
    """The edge's routing table."""
    conf = settings.ROOST
    from controlplane.drivers.edge.haproxy import HaproxyEdge

    return HaproxyEdge(Path(conf["EDGE_SOCKET"]), Path(conf["EDGE_MAP_DIR"]))


@lru_cache(maxsize=1)
def node_driver() -> NodeDriver:
    """How nodes are changed."""
    from controlplane.drivers.node.ansible import AnsibleNode

    return AnsibleNode(Path(settings.ROOST["ANSIBLE_DIR"]))


def provider_zone() -> DomainName:
    return DomainName.parse(settings.ROOST["PROVIDER_ZONE"], field="ROOST_PROVIDER_ZONE")


def resolver() -> str | None:
    """``address@port`` of the resolver that checks ask; None: the system's."""
    return settings.ROOST["RESOLVER"] or None


def authoritative_servers() -> tuple[tuple[str, int], ...]:
    """The configured servers to verify publication at; empty: found by NS records."""
    pairs = []
    for text in settings.ROOST["DNS_AUTHORITATIVE"]:
        address, _, port = text.partition("@")
        pairs.append((address, int(port or 53)))
    return tuple(pairs)


def edge_addresses() -> tuple[str, ...]:
    """Public addresses of the edge, IPv4 and IPv6."""
    return tuple(settings.ROOST["EDGE_ADDRESSES"])
