"""Settings -> driver objects. The only place that chooses; everybody else asks here.

Drivers are made lazily and kept per process, so an import of this module opens nothing.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from controlplane.drivers.dns.base import DnsDriver
from controlplane.drivers.edge.base import EdgeDriver
from controlplane.drivers.engine.base import EngineDriver
from controlplane.drivers.node.base import Line, NodeDriver, NodeTarget
from controlplane.drivers.store.base import StoreDriver
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


@lru_cache(maxsize=256)
def edge_driver(target: NodeTarget, *, socket: str, map_dir: str) -> EdgeDriver:
    """The routing table of the edge on that node, over its line if that is another machine. The paths are there."""
    from controlplane.drivers.edge.haproxy import HaproxyEdge

    return HaproxyEdge(Path(socket), Path(map_dir), None if target.connection == "local" else line(target))


@lru_cache(maxsize=256)
def line(target: NodeTarget) -> Line:
    """The way to a node; kept per process, and the connection behind it is shared by all processes of this user."""
    if target.connection == "local":
        from controlplane.drivers.node.lines import LocalLine

        return LocalLine(target.name)
    from controlplane.drivers.node.ssh import SshLine

    return SshLine(target, Path(settings.ROOST["SSH_DIR"]))


@lru_cache(maxsize=1)
def node_driver() -> NodeDriver:
    """How nodes are changed."""
    from controlplane.drivers.node.ansible import AnsibleNode

    return AnsibleNode(Path(settings.ROOST["ANSIBLE_DIR"]), Path(settings.ROOST["SSH_DIR"]))


@lru_cache(maxsize=1)
def store_driver() -> StoreDriver:
    """How repositories of backups are kept. Several users of this machine may have one each."""
    from controlplane.drivers.store.restic import Restic

    cache = settings.ROOST["RESTIC_CACHE_DIR"]
    return Restic(Path(cache) if cache else None, ways=Path(f"/dev/shm/roost-store-{os.geteuid()}"))  # noqa: S108


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
