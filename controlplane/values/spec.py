"""What an instance should be, as the engine drivers see it: everything a configuration is rendered from.

A pure function of the database's rows builds it (``provisioning.spec``); drivers only read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from controlplane.values.names import DomainName, Jid
from controlplane.values.secret import Secret

#: The reserved account that Roost's own checks log in with. People cannot have this name; lists leave it out.
PROBE_ACCOUNT = "roost-probe"

#: Offsets from an instance's ``base_port``. The edge forwards the standard ports to them.
SERVICE_OFFSETS = {"c2s": 0, "c2s_tls": 1, "s2s": 2, "s2s_tls": 3, "https": 4}


@dataclass(frozen=True, slots=True)
class Components:
    """The service domains of an instance; each has its own name in the certificate (XEP-0045, -0363, -0065)."""

    muc: DomainName
    upload: DomainName
    proxy: DomainName

    @classmethod
    def below(cls, domain: DomainName) -> Components:
        return cls(domain.child("conference"), domain.child("upload"), domain.child("proxy"))

    def all(self) -> tuple[DomainName, ...]:
        return (self.muc, self.upload, self.proxy)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the engine listens on its node, behind the edge.

    Every port of ``SERVICE_OFFSETS`` expects a PROXY protocol v2 header first (the edge sends it).
    ``proxy65_port`` is the port that the edge offers to the world too, without a PROXY header.
    """

    address: str
    base_port: int
    proxy65_port: int

    def port(self, service: str) -> int:
        return self.base_port + SERVICE_OFFSETS[service]


@dataclass(frozen=True, slots=True)
class Paths:
    """Absolute directories of one instance on its node. Everything of a tenant lives below ``root``.

    ``config`` and ``certs`` are readable by the tenant's user and written by root only; ``data``, ``log``
    and ``uploads`` belong to the tenant's user; ``run`` is setgid to the control group (mode 2770) and holds
    the control socket, ``run/control.sock``: who may not enter ``run`` cannot command the engine.
    """

    root: PurePosixPath

    @property
    def config(self) -> PurePosixPath:
        return self.root / "config"

    @property
    def certs(self) -> PurePosixPath:
        return self.root / "certs"

    @property
    def data(self) -> PurePosixPath:
        return self.root / "data"

    @property
    def uploads(self) -> PurePosixPath:
        return self.root / "uploads"

    @property
    def log(self) -> PurePosixPath:
        return self.root / "log"

    @property
    def run(self) -> PurePosixPath:
        return self.root / "run"

    @property
    def control_socket(self) -> PurePosixPath:
        return self.run / "control.sock"

    @property
    def chain_file(self) -> PurePosixPath:
        return self.certs / "chain.pem"

    @property
    def key_file(self) -> PurePosixPath:
        return self.certs / "key.pem"

    @property
    def trust_file(self) -> PurePosixPath:
        """CA certificates that this instance accepts from peers, PEM."""
        return self.certs / "trust.pem"


@dataclass(frozen=True, slots=True)
class Turn:
    """The TURN service to announce by XEP-0215, with this tenant's own secret (TURN REST credentials)."""

    host: DomainName
    port: int
    secret: Secret
    label: str  # goes into the user name, "expiry:label": quotas and accounting follow it
    tls_port: int | None = None
    ttl_s: int = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one instance. Sizes in bytes."""

    memory_bytes: int = 512 * 1024 * 1024
    open_files: int = 4096
    upload_max_bytes: int = 50 * 1024 * 1024  # one file
    upload_quota_bytes: int = 2 * 1024**3  # all files of one account where the engine has it, else all of the instance
    upload_days: int = 90
    archive_days: int = 365
    c2s_bytes_per_s: int = 100_000
    s2s_bytes_per_s: int = 300_000


@dataclass(frozen=True, slots=True)
class Contact:
    """One contact address (XEP-0157): ``kind`` is abuse, admin, feedback, sales, security, status or support."""

    kind: str
    uri: str  # mailto:, xmpp: or https:


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """The typed whole that a configuration is rendered from.

    ``key``: 8 of ``[a-z0-9]``, first a letter; unique; names the unix user, directory, and process.
    """

    key: str
    engine: str  # "prosody" | "ejabberd"
    domain: DomainName
    components: Components
    listen: Listen
    paths: Paths
    turn: Turn | None
    limits: Limits
    display_name: str
    language: str = "en"  # BCP 47, the default of new rooms
    contacts: tuple[Contact, ...] = ()
    admins: tuple[Jid, ...] = ()
    s2s_blocked: tuple[DomainName, ...] = ()
    trust_system: bool = False  # the node's own roots are trusted too, beside those in ``Paths.trust_file``
    resolver: str | None = None  # "address" or "address@port"; None: the node's own
    edge_addresses: tuple[str, ...] = ()  # who may send a PROXY header
    public_https_port: int = 443
    outage_url: str = ""  # where clients read of outages (XEP-0455), never on this server; empty: not announced
    publish_links: bool = False  # tells everybody which servers it talks with (XEP-0485)
    isolated: bool = False  # talks to no other server and offers no proxy for files: a copy that nobody is to notice
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def server_names(self) -> tuple[DomainName, ...]:
        """Every name that a client or a peer may ask for, the certificate's subject alternative names."""
        return (self.domain, *self.components.all())
