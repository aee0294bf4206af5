"""What a pass over an instance works on: the row, and what is derived from it, each made once per pass.

Builds the typed spec and the bundle; the engines' drivers render, the node's driver carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath

from django.conf import settings
from django.db.models import Exists, OuterRef, Subquery

from controlplane import wiring
from controlplane.certificates import services as certificates
from controlplane.certificates import trust
from controlplane.certificates.models import Certificate
from controlplane.drivers.engine.base import EngineControl, EngineDriver
from controlplane.fleet import routes
from controlplane.fleet.models import EdgeRoute, Node, Placement
from controlplane.fleet.services import target_of
from controlplane.provisioning.models import ProbeAccount, Walk
from controlplane.reconcile import conditions
from controlplane.reconcile.models import Condition
from controlplane.turn import services as turn
from controlplane.turn.models import TurnCredential
from controlplane.values.bundle import ABSENT, Adoption, Bundle, ManagedFile, Program
from controlplane.values.errors import Unavailable
from controlplane.values.names import DomainName, Jid
from controlplane.values.spec import Components, Contact, InstanceSpec, Limits, Listen, Paths
from tenants.models import Instance, Plan

MIB = 1024 * 1024
#: Before an instance's key in the name of its unix user.
USER_PREFIX = "r-"
#: How long a node may take to answer whoever doubts that it is reached.
LINE_S = 8.0


class Subject:
    """An instance with its placement, spec, engine and bundle. ``forget`` drops what a step has changed.

    Each row is read once; a step that writes one puts what it wrote here.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        #: ``edge_addresses`` as DNS has them, once this pass has seen that it does.
        self.published_addresses: tuple[str, ...] | None = None

    @classmethod
    def load(cls, key: str) -> Subject | None:
        """The instance with all that a pass looks at in any case, by two queries; None if it is gone.

        Call it under the instance's lease: what only its holder writes stays so until the pass ends. What others
        write, they touch the instance for, and another pass follows.
        """
        # First: whoever writes the certificate's condition has written the certificate before.
        known = conditions.of_kinds(("Instance", "Certificate"), key)
        rows = Instance.objects.whole().select_related(
            "placement__node", "certificate", "turn_credential", "walk", "probe_account"
        )
        away = _is_away(OuterRef("placement__node__name"))
        rows = rows.annotate(node_is_away=away, ca_roots=Subquery(trust.own_roots_query()[:1]))
        instance = rows.filter(key=key).first()
        if instance is None:
            return None
        subject = cls(instance)
        subject.conditions = known
        subject.ca_roots = instance.ca_roots or ""
        subject.certificate = getattr(instance, "certificate", None)
        subject.turn_credential = getattr(instance, "turn_credential", None)
        subject.walk = getattr(instance, "walk", None)
        subject.probe_account = getattr(instance, "probe_account", None)
        subject.placement = getattr(instance, "placement", None)
        if subject.placement is not None:
            subject.placement.node_is_away = instance.node_is_away
        return subject

    @cached_property
    def conditions(self) -> dict[str, dict[str, Condition]]:
        """Kind (Instance, Certificate) -> type -> row."""
        return conditions.of_kinds(("Instance", "Certificate"), self.instance.key)

    @property
    def certificate_condition(self) -> Condition | None:
        """What the certificate's own pass found last."""
        return self.conditions["Certificate"].get(certificates.ISSUED)

    @cached_property
    def certificate(self) -> Certificate | None:
        return Certificate.objects.filter(instance=self.instance).first()

    @cached_property
    def turn_credential(self) -> TurnCredential | None:
        return TurnCredential.objects.filter(instance=self.instance).first()

    @cached_property
    def walk(self) -> Walk | None:
        return Walk.objects.filter(instance=self.instance).first()

    @cached_property
    def probe_account(self) -> ProbeAccount | None:
        return ProbeAccount.objects.filter(instance=self.instance).first()

    @cached_property
    def ca_roots(self) -> str:
        """The roots that the CA published, PEM; empty if there are none."""
        return trust.own_roots()

    @cached_property
    def domain(self) -> DomainName:
        return DomainName(self.instance.domain.name)

    @cached_property
    def components(self) -> Components:
        return Components.below(self.domain)

    @property
    def server_names(self) -> tuple[DomainName, ...]:
        return (self.domain, *self.components.all())

    @cached_property
    def placement(self) -> Placement | None:
        """With its node, and whether that is out of reach (``node_is_away``); one query."""
        rows = Placement.objects.select_related("node").annotate(node_is_away=_is_away(OuterRef("node__name")))
        return rows.filter(instance=self.instance).first()

    @property
    def node_is_away(self) -> bool:
        """True if its node is not reached, as the node's own pass found."""
        return bool(getattr(self.placement, "node_is_away", False))

    @cached_property
    def engine(self) -> EngineDriver:
        return wiring.engine_driver(self.instance.engine)

    @cached_property
    def spec(self) -> InstanceSpec:
        """Raises ``Unavailable`` before the instance has a node."""
        edges = (*self.edges, *self.outgoing_edges)
        return build_spec(self.instance, self._placed(), edges, self.turn_credential)

    def _placed(self) -> Placement:
        if self.placement is None:
            raise Unavailable(f"{self.domain} has no node yet.", remedy="Wait for the condition NodeAssigned.")
        return self.placement

    @cached_property
    def edges(self) -> tuple[Node, ...]:
        """The edges that lead to it; none before it has a node."""
        return tuple(routes.edges_of(self.placement.node)) if self.placement is not None else ()

    @cached_property
    def outgoing_edges(self) -> tuple[Node, ...]:
        """Edges that forward to it until the ones that lead to it now have taken over."""
        return tuple(routes.outgoing(self.edges, self.edge_routes))

    @property
    def edge_addresses(self) -> tuple[str, ...]:
        """Where the world finds it: the public addresses of its edges."""
        return routes.addresses_of(self.edges, self.edge_routes)

    @cached_property
    def edge_routes(self) -> list[EdgeRoute]:
        """Its routes at its edges, read once; the step that changes them puts the new ones here."""
        return routes.rows_of(self.instance)

    @cached_property
    def control(self) -> EngineControl:
        """The engine's control channel; it is opened by its first command.

        Raises what the line to the node raises, if that is another machine and not reached.
        """
        node = self._placed().node
        if node.connection == "local":
            return self.engine.control(self.spec)
        line = wiring.line(target_of(node))
        return self.engine.control(self.spec, line.socket(str(self.spec.paths.control_socket)))

    def check_line(self) -> None:
        """Raises what the line to the node raises; nothing if it is reached at this moment."""
        wiring.line(target_of(self._placed().node)).run(["true"], timeout_s=LINE_S)

    @cached_property
    def material(self) -> tuple[ManagedFile, ...]:
        """Chain, key and trust; empty before a certificate is issued."""
        issued = certificates.material(self.instance, self.certificate)
        if issued is None:
            return ()
        chain, key = issued
        # A file without any certificate is refused: the instance's own chain in it adds no trust to a peer's.
        by_itself = self.spec.trust_system and self.engine.reads_system_trust
        own = self.ca_roots
        roots = (trust.special_roots(own) or chain) if by_itself else trust.all_roots(own)
        return (
            ManagedFile("certs/chain.pem", chain.encode(), on_change="reload"),
            ManagedFile("certs/key.pem", key.reveal().encode(), on_change="reload"),
            ManagedFile("certs/trust.pem", roots.encode(), on_change="reload"),
        )

    def bundle(self, state: str) -> Bundle:
        """The instance as its node should have it."""
        placement = self._placed()
        node = placement.node
        root = f"{node.root}/{self.instance.key}"
        user = f"{USER_PREFIX}{self.instance.key}"
        if state == ABSENT:
            return Bundle(self.instance.key, user, root, node.control_group, Program(("/bin/false",)), state=ABSENT)
        return Bundle(
            key=self.instance.key,
            user=user,
            root=root,
            control_group=node.control_group,
            program=self.engine.program(self.spec),
            files=(*self.engine.files(self.spec), *self.material),
            state=state,
            adopt=adoption_of(placement),
            kept=placement.kept,
        )

    def forget(self, *names: str) -> None:
        """Drop cached values by attribute name, so that they are read again."""
        for name in names:
            self.__dict__.pop(name, None)


def _is_away(node_name: OuterRef) -> Exists:
    """Whether the node of this name is out of reach, as its own pass found."""
    return Exists(Condition.objects.filter(kind="Node", object_id=node_name, type="Reachable", status="False"))


def adoption_of(placement: Placement) -> Adoption | None:
    """Whose data the instance takes over before its next start, if anybody's."""
    if not placement.adopt_id:
        return None
    key = placement.adopt_key
    return Adoption(id=placement.adopt_id, key=key, user=f"{USER_PREFIX}{key}", root=f"{placement.node.root}/{key}")


def build_spec(
    instance: Instance, placement: Placement, edges: Sequence[Node], credential: TurnCredential | None = None
) -> InstanceSpec:
    """Rows -> the value that configurations are rendered from. No secret but TURN's is in it."""
    domain = DomainName(instance.domain.name)
    conf = settings.ROOST
    return InstanceSpec(
        key=instance.key,
        engine=instance.engine,
        domain=domain,
        components=Components.below(domain),
        listen=Listen(placement.address, placement.base_port, placement.proxy65_port),
        paths=Paths(PurePosixPath(placement.node.root) / instance.key),
        turn=turn.announcement(instance, credential),
        limits=limits_of(instance.plan, instance),
        display_name=instance.display_name or instance.organisation.name,
        language=instance.language,
        contacts=tuple(Contact(c["kind"], c["uri"]) for c in instance.contacts),
        admins=tuple(Jid.parse(jid) for jid in instance.admins),
        s2s_blocked=tuple(DomainName(name) for name in instance.s2s_blocked),
        publish_links=instance.publish_links,
        trust_system=conf["TRUST_SYSTEM"],
        resolver=wiring.resolver(),
        edge_addresses=routes.sources_of(placement, edges),
        outage_url=f"{conf['STATUS_URL']}/status/{domain.ascii}/outage.json",
    )


def limits_of(plan: Plan, instance: Instance | None = None) -> Limits:
    """A plan's quotas in the units of the spec; an instance may keep things for less long."""
    archive_days = instance.archive_days if instance is not None else 0
    upload_days = instance.upload_days if instance is not None else 0
    return Limits(
        memory_bytes=plan.memory_mib * MIB,
        upload_max_bytes=plan.upload_max_mib * MIB,
        upload_quota_bytes=plan.upload_quota_mib * MIB,
        upload_days=min(upload_days or plan.upload_days, plan.upload_days),
        archive_days=min(archive_days or plan.archive_days, plan.archive_days),
    )
