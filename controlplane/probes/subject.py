"""Whom a walk looks at, and what the steps of one walk hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.probes import trust
from controlplane.probes.client import ProbeClient
from controlplane.probes.lookup import CLIENT_SERVICES, SERVER_SERVICES, Lookup
from controlplane.probes.report import Blocked
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Components

STEP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class WalkSubject:
    """One domain and the account to log in with (``account`` is the localpart).

    ``resolver``: "address" or "address@port", None for the system's. ``trust_roots``: PEM text or a file's
    path, None for the system's. ``expected_serial``: hexadecimal, of the certificate that every port has to
    serve; None for any that is trusted. ``turn``: whether the server has to announce a TURN service.
    ``peer``: the domain to ping over s2s, None for no such step. ``web``: whether the domain's own address has
    to be the server's, with host-meta at it; None: only if DNS leads there, since a customer's web site may
    have it; False: never. ``timeout_s``: for the whole walk. ``left_out``: addresses of edges that are known to be
    away: clients pass them over (RFC 2782), and so does the walk while a name has others.
    """

    domain: DomainName
    components: Components
    account: str
    password: Secret
    resolver: str | None = None
    trust_roots: str | None = None
    expected_serial: str | None = None
    turn: bool = True
    peer: DomainName | None = None
    https_port: int = 443
    timeout_s: float = 30.0
    web: bool | None = None
    left_out: frozenset[str] = frozenset()


@dataclass(slots=True)
class Journey:
    """What a walk knows so far. Steps read what earlier ones wrote."""

    subject: WalkSubject
    lookup: Lookup
    roots_pem: str | None
    #: whether the resolver answers at all
    answered: bool = False
    #: (name, SRV service or "https") that served a good certificate, and that did not where it should
    trusted: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    client: ProbeClient | None = None
    #: what disco found missing, by the word of the step that needs it
    missing: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, subject: WalkSubject) -> Journey:
        """Raises ``InvalidInput`` for trust roots that cannot be read."""
        return cls(
            subject,
            Lookup(subject.resolver, timeout_s=min(STEP_TIMEOUT_S, subject.timeout_s), left_out=subject.left_out),
            trust.roots_text(subject.trust_roots),
        )

    @property
    def domain(self) -> str:
        return self.subject.domain.ascii

    @property
    def session(self) -> ProbeClient:
        """The logged-in client; raises ``Blocked`` without one."""
        if self.client is None:
            raise Blocked("There is no session.")
        return self.client

    async def has_web(self) -> bool:
        """Whether the domain's own address is to be looked at (see ``WalkSubject.web``)."""
        if self.subject.web is not None:
            return self.subject.web
        own = set(await self.lookup.addresses(self.domain))
        endpoints = await self.lookup.endpoints(self.domain, (*CLIENT_SERVICES, *SERVER_SERVICES))
        return bool(own & {endpoint.address for endpoint in endpoints})

    def needs_dns(self) -> None:
        """Raise ``Blocked`` if the resolver gave no answers."""
        if not self.answered:
            raise Blocked("DNS gave no answer.")

    def needs(self, word: str, what: str) -> None:
        """Raise ``Blocked`` if disco reported already that the server has no such thing."""
        if word in self.missing:
            raise Blocked(f"The server does not announce {what}, as disco says.")
