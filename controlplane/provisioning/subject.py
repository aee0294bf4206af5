"""What a pass over an instance works on: the row, and what is derived from it, each made once per pass.

Builds the typed spec and the bundle; the engines' drivers render, the node's driver carries.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath

from django.conf import settings

from controlplane import wiring
from controlplane.certificates import services as certificates
from controlplane.certificates.trust import all_roots, special_roots
from controlplane.drivers.engine.base import EngineControl, EngineDriver
from controlplane.fleet.models import Placement
from controlplane.turn import services as turn
from controlplane.values.bundle import ABSENT, Bundle, ManagedFile, Program
from controlplane.values.errors import Unavailable
from controlplane.values.names import DomainName, Jid
from controlplane.values.spec import Components, Contact, InstanceSpec, Limits, Listen, Paths
from tenants.models import Instance, Plan

MIB = 1024 * 1024


class Subject:
    """An instance with its placement, spec, engine and bundle. ``forget`` drops what a step has changed."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

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
        return Placement.objects.select_related("node").filter(instance=self.instance).first()

    @cached_property
    def engine(self) -> EngineDriver:
        return wiring.engine_driver(self.instance.engine)

    @cached_property
    def spec(self) -> InstanceSpec:
        """Raises ``Unavailable`` before the instance has a node."""
        return build_spec(self.instance, self._placed())

    def _placed(self) -> Placement:
        if self.placement is None:
            raise Unavailable(f"{self.domain} has no node yet.", remedy="Wait for the condition NodeAssigned.")
        return self.placement

    @cached_property
    def control(self) -> EngineControl:
        """The engine's control channel; it is opened by its first command."""
        return self.engine.control(self.spec)

    @cached_property
    def material(self) -> tuple[ManagedFile, ...]:
        """Chain, key and trust; empty before a certificate is issued."""
        issued = certificates.material(self.instance)
        if issued is None:
            return ()
        chain, key = issued
        roots = all_roots()
        if self.spec.trust_system and self.engine.reads_system_trust:
            # A file without any certificate is refused: the instance's own chain in it adds no trust to a peer's.
            roots = special_roots() or chain
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
        user = f"r-{self.instance.key}"
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
        )

    def forget(self, *names: str) -> None:
        """Drop cached values by attribute name, so that they are read again."""
        for name in names:
            self.__dict__.pop(name, None)


def build_spec(instance: Instance, placement: Placement) -> InstanceSpec:
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
        turn=turn.announcement(instance),
        limits=limits_of(instance.plan),
        display_name=instance.display_name or instance.organisation.name,
        language=instance.language,
        contacts=tuple(Contact(c["kind"], c["uri"]) for c in instance.contacts),
        admins=tuple(Jid.parse(jid) for jid in instance.admins),
        s2s_blocked=tuple(DomainName(name) for name in instance.s2s_blocked),
        trust_system=conf["TRUST_SYSTEM"],
        resolver=wiring.resolver(),
        edge_addresses=tuple(conf["EDGE_SOURCES"]),
    )


def limits_of(plan: Plan) -> Limits:
    """A plan's quotas in the units of the spec."""
    return Limits(
        memory_bytes=plan.memory_mib * MIB,
        upload_max_bytes=plan.upload_max_mib * MIB,
        upload_quota_bytes=plan.upload_quota_mib * MIB,
        upload_days=plan.upload_days,
        archive_days=plan.archive_days,
    )
