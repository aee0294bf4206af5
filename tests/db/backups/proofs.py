"""Real engines, a real repository, and backups of the one for drills and restores into the other."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.utils import timezone

from controlplane import wiring
from controlplane.backups import exporting, oracle, places, repositories
from controlplane.backups.models import Backup, Place, Repository
from controlplane.backups.sites import Site
from controlplane.drivers.engine.base import Upload
from controlplane.drivers.node.base import NodeTarget
from controlplane.drivers.node.lines import LocalLine
from controlplane.drivers.store.base import Run
from controlplane.portable.manifest import About
from controlplane.portable.sinks import Directory
from controlplane.portable.writer import Writer
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import ALL_SCOPES, Principal
from tests.servers.engine import Instance as Engine

OPERATOR = Principal(name="olga", is_operator=True, scopes=ALL_SCOPES)
RUN = Run(timeout_s=300)


class PlainFiles:
    """An engine's files by root's rights: what tenants' users may is tested with the node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open(self, upload: Upload) -> Iterator[bytes] | None:
        path = self._engine.root / upload.path
        return iter([path.read_bytes()]) if path.is_file() else None

    def write(self, path: str, chunks: Iterable[bytes], *, at: float) -> None:
        target = self._engine.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"".join(chunks))
        for made in (target, *target.parents):
            if made == self._engine.root:
                break
            self._engine.own(made, user=self._engine.uid)


@dataclass(frozen=True)
class EngineSite(Site):
    """A site as ``sites`` makes them, of an engine that no node carries."""

    own: Engine | None = None

    @contextlib.contextmanager
    def files(self) -> Iterator[Any]:
        assert self.own is not None
        yield PlainFiles(self.own)


def site_of(engine: Engine) -> Site:
    target = NodeTarget("here", "local", "supervisor", "", "/nowhere", "/nowhere")
    return EngineSite(
        control=engine.control,
        engine=engine.driver.name,
        line=LocalLine("here"),
        target=target,
        user="nobody",
        root=engine.spec.paths.root,
        address=engine.spec.listen.address,
        base_port=engine.spec.listen.base_port,
        own=engine,
    )


def isolate(engine: Engine) -> None:
    """As a scratch is: no other server, and connections from its own address only."""
    engine.change(isolated=True, edge_addresses=(engine.spec.listen.address,), turn=None)


def instance_of(domain: str, *, engine: str = "prosody", slug: str = "acme") -> Instance:
    plan = tenants.create_plan(slug=f"plan-{slug}", name="Basic", max_instances=3, principal=OPERATOR)
    organisation = tenants.create_organisation(slug=slug, name=slug.title(), principal=OPERATOR)
    return tenants.create_instance(
        organisation=organisation, domain=domain, engine=engine, plan=plan, principal=OPERATOR
    )


def repository_of(instance: Instance, directory: Path) -> Repository:
    if not Place.objects.exists():
        places.create_place(name="here", url=str(directory / "places"), principal=OPERATOR)
    repository = repositories.ensure(instance)
    repositories.make(repository, run=RUN)
    return repository


def backup_of(
    repository: Repository,
    engine: Engine,
    directory: Path,
    *,
    scope: tuple[str, ...] = exporting.FULL,
    tamper: Callable[[Path], None] = lambda _: None,
) -> Backup:
    """A backup of the running engine, as ``saving`` makes it. ``tamper``: with the bundle, after it was counted."""
    kind = Backup.FULL if scope == exporting.FULL else Backup.MEMBERS
    backup = Backup.objects.create(repository=repository, kind=kind, trigger=Backup.MANUAL)
    place = directory / f"made-{backup.key}"
    moments: dict[str, str] = {}
    at = datetime.datetime.now(datetime.UTC)
    about = About(
        domain=engine.domain,
        made_at=exporting.stamp(at),
        components={"muc": engine.spec.components.muc.ascii, "upload": engine.spec.components.upload.ascii},
        engine={"name": engine.driver.name, "version": "?"},
        scope=scope,
        moments=moments,
    )
    place.mkdir()
    with (
        oracle.tally(repository, place / "oracle.sqlite") as tally,
        Writer(Directory(place / "bundle"), about) as writer,
    ):
        exporting.export(
            engine.control, writer, at=at, moments=moments, scope=scope, files=PlainFiles(engine), tally=tally
        )
    oracle.store(backup, place / "oracle.sqlite")
    tamper(place / "bundle")
    saved = wiring.store_driver().save_directory(
        repositories.opened(repository), place / "bundle", host=repository.instance_key, tags=[kind], run=RUN
    )
    shutil.rmtree(place)
    now = timezone.now()
    Backup.objects.filter(pk=backup.pk).update(
        state=Backup.DONE,
        snapshot=saved.snapshot,
        moment=at,
        finished_at=now,
        bytes=saved.bytes,
        engine={"name": engine.driver.name, "version": "?"},
    )
    return Backup.objects.select_related("repository__place").get(pk=backup.pk)


def leased(kind: str, key: str) -> Lease:
    """The lease of a work item, claimed as a worker claims it."""
    watch.touch(kind, key)
    leases.claim(["backup"], holder="others", limit=0)
    for lease in leases.claim(["backup"], holder="test", limit=50):
        if (lease.kind, lease.object_id) == (kind, key):
            return lease
    raise AssertionError(f"{kind} {key} cannot be claimed")
