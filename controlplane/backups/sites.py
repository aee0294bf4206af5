"""Where an engine runs, an instance's own or a scratch's: its control channel, and its files with its own rights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast

from controlplane import wiring
from controlplane.backups.importing import Control
from controlplane.drivers.engine.base import Upload
from controlplane.drivers.node.base import Line, NodeTarget
from controlplane.drivers.node.tenantfiles import TenantFiles
from controlplane.drivers.node.tenantwriting import TenantWriter
from controlplane.fleet.models import Scratch
from controlplane.fleet.services import target_of
from controlplane.provisioning import scratch as scratches
from controlplane.provisioning.engines import control_of
from controlplane.provisioning.subject import USER_PREFIX, Subject
from controlplane.values.errors import Unavailable
from tenants.models import Instance


class SiteFiles:
    """Uploaded files of one engine, to read and to write."""

    def __init__(self, reader: TenantFiles, writer: TenantWriter) -> None:
        self._reader, self._writer = reader, writer

    def open(self, upload: Upload) -> Iterator[bytes] | None:
        return self._reader.read(upload.path)

    def write(self, path: str, chunks: Iterable[bytes], *, at: float) -> None:
        self._writer.write(path, chunks, at=at)


@dataclass(frozen=True, slots=True)
class Site:
    """``engine``: its name. ``address``, ``base_port``: where it listens on its node."""

    control: Control
    engine: str
    line: Line
    target: NodeTarget
    user: str
    root: PurePosixPath
    address: str
    base_port: int

    @contextmanager
    def files(self) -> Iterator[SiteFiles]:
        with (
            TenantFiles(self.line, self.target, user=self.user, root=self.root) as reader,
            TenantWriter(self.line, self.target, user=self.user, root=self.root) as writer,
        ):
            yield SiteFiles(reader, writer)


def of_instance(instance: Instance) -> Site:
    """``Unavailable`` while its server does not run, or is not reached."""
    control = control_of(instance)
    placement = Subject(instance).placement
    if placement is None:
        raise Unavailable(f"{instance.domain.name} has no node yet.")
    target = target_of(placement.node)
    return Site(
        control=cast(Control, control),
        engine=instance.engine,
        line=wiring.line(target),
        target=target,
        user=f"{USER_PREFIX}{instance.key}",
        root=PurePosixPath(placement.node.root) / instance.key,
        address=placement.address,
        base_port=placement.base_port,
    )


def of_scratch(scratch: Scratch) -> Site:
    target = target_of(scratch.node)
    return Site(
        control=cast(Control, scratches.control_of(scratch)),
        engine=scratch.engine,
        line=wiring.line(target),
        target=target,
        user=f"{USER_PREFIX}{scratch.key}",
        root=PurePosixPath(scratch.node.root) / scratch.key,
        address=scratch.address,
        base_port=scratch.base_port,
    )
