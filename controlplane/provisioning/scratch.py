"""A scratch as its node should have it: the instance's engine once more, with its names, and cut off from everybody.

No other server is talked with, nothing leads to it, and its ports take connections from its own address only, so who
wants to look at it as a client comes over the line to its node (``doors``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from django.db import transaction

from controlplane import wiring
from controlplane.certificates import services as certificates
from controlplane.certificates.trust import all_roots
from controlplane.drivers.engine.base import EngineControl
from controlplane.fleet import scratches
from controlplane.fleet.models import Placement, Scratch
from controlplane.fleet.services import target_of
from controlplane.provisioning.subject import USER_PREFIX, limits_of
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.values.bundle import ABSENT, RUNNING, Bundle, ManagedFile, Program
from controlplane.values.errors import Unavailable
from controlplane.values.names import DomainName, Jid
from controlplane.values.outcome import Wait
from controlplane.values.spec import Components, InstanceSpec, Listen, Paths
from tenants.models import Instance

#: Nothing expires while it is looked at, and no upload is too many.
FOREVER_DAYS, PLENTY_BYTES = 36_500, 1 << 50
LOOK_AGAIN_S = 20.0


def spec_of(scratch: Scratch) -> InstanceSpec:
    """The instance's spec where the scratch is, without everything that leads elsewhere."""
    instance = scratch.instance
    domain = DomainName(instance.domain.name)
    unbounded = {"archive_days": FOREVER_DAYS, "upload_days": FOREVER_DAYS, "upload_quota_bytes": PLENTY_BYTES}
    return InstanceSpec(
        key=scratch.key,
        engine=scratch.engine,
        domain=domain,
        components=Components.below(domain),
        listen=Listen(scratch.address, scratch.base_port, 0),
        paths=Paths(PurePosixPath(scratch.node.root) / scratch.key),
        turn=None,
        limits=replace(limits_of(instance.plan), **unbounded),
        display_name=instance.display_name or instance.organisation.name,
        language=instance.language,
        admins=tuple(Jid.parse(jid) for jid in instance.admins),
        edge_addresses=(scratch.address,),
        isolated=True,
    )


def bundle_of(scratch: Scratch, state: str) -> Bundle:
    """``Unavailable`` before the instance has a certificate."""
    root, user = f"{scratch.node.root}/{scratch.key}", f"{USER_PREFIX}{scratch.key}"
    if state == ABSENT:
        return Bundle(scratch.key, user, root, scratch.node.control_group, Program(("/bin/false",)), state=ABSENT)
    spec, engine = spec_of(scratch), wiring.engine_driver(scratch.engine)
    return Bundle(
        key=scratch.key,
        user=user,
        root=root,
        control_group=scratch.node.control_group,
        program=engine.program(spec),
        files=(*engine.files(spec), *_material(scratch.instance)),
        state=state,
    )


def _material(instance: Instance) -> tuple[ManagedFile, ...]:
    issued = certificates.material(instance, None)
    if issued is None:
        raise Unavailable(f"{instance.domain.name} has no certificate yet.", remedy="Wait until it is Ready.")
    chain, key = issued
    return (
        ManagedFile("certs/chain.pem", chain.encode(), on_change="reload"),
        ManagedFile("certs/key.pem", key.reveal().encode(), on_change="reload"),
        ManagedFile("certs/trust.pem", (all_roots() or chain).encode(), on_change="reload"),
    )


def control_of(scratch: Scratch) -> EngineControl:
    """Its control channel; raises what the line to its node raises."""
    spec, engine = spec_of(scratch), wiring.engine_driver(scratch.engine)
    if scratch.node.connection == "local":
        return engine.control(spec)
    return engine.control(spec, wiring.line(target_of(scratch.node)).socket(str(spec.paths.control_socket)))


def bring_to(scratch: Scratch, state: str, lease: Lease) -> Wait | None:
    """Ask its node for ``state``; None once it is so (and, if it is to run, once it answers)."""
    digest = bundle_of(scratch, state).digest()
    scratches.want(scratch, digest=digest, state=state, lease=lease)
    if scratch.applied_digest != digest:
        if scratch.error:
            said = f"{scratch.node.name} could not apply the scratch: {scratch.error}"
            return Wait("ConvergeFailed", said, LOOK_AGAIN_S, failed=True)
        return Wait("Converging", f"{scratch.node.name} makes the scratch {state}.", LOOK_AGAIN_S)
    if state == RUNNING:
        try:
            control_of(scratch).health()
        except Unavailable as error:
            return Wait("Starting", f"The scratch starts: {error.message}", 1.0)
    return None


def remove(scratch: Scratch, lease: Lease) -> Wait | None:
    """Take it off its node, then its row; None once both are done."""
    if scratch.wanted_digest or scratch.applied_digest:
        waits = bring_to(scratch, ABSENT, lease)
        if waits is not None:
            return waits
    scratches.release(scratch, lease)
    return None


@transaction.atomic
def forget_aside(instance: Instance, adoption: str) -> bool:
    """What an instance had before this take-over is needed no more; its node removes it. False: nothing is kept."""
    rows = Placement.objects.filter(instance=instance, kept=adoption)
    if not rows.update(kept="", adopt_id="", adopt_key=""):
        return False
    watch.touch("Instance", instance.key)
    return True
