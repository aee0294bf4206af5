"""A backup's bundle out of its repository, onto disk, and looked at: whole, ours, and of that instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controlplane import wiring
from controlplane.backups import places, repositories, spool
from controlplane.backups.models import Backup
from controlplane.drivers.store.base import Damaged, Progress
from controlplane.portable.bundle import Bundle
from controlplane.portable.manifest import Manifest
from controlplane.reconcile import faults
from controlplane.values.errors import InvalidInput, Rejected, Unavailable

TIMEOUT_S = 6 * 3600.0
#: What is left free for others, beside the bundle.
RESERVE_BYTES = 64 << 20


@contextmanager
def bundle_of(
    backup: Backup,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Bundle]:
    """The bundle of a backup that is done, in a directory that goes with the block.

    Raises what the store raises; ``Damaged`` too if a byte of the bundle is not what was written.
    """
    if backup.state != Backup.DONE or not backup.snapshot:
        raise Rejected(f"The backup {backup.key} is not there.", remedy="Choose one that is done.")
    free = spool.free_bytes()
    if free < backup.bytes + RESERVE_BYTES:
        raise Unavailable(
            f"The backup has {backup.bytes >> 20} MiB, and {free >> 20} MiB are free in the spool.",
            remedy="Make room, or set ROOST_SPOOL_DIR to a larger disk.",
        )
    place = backup.repository.place
    with spool.directory("restore") as directory:
        target = directory / "bundle"
        target.mkdir(mode=0o700)
        faults.point("before-fetch")
        wiring.store_driver().restore(
            repositories.opened(backup.repository),
            backup.snapshot,
            target,
            run=places.run_of(place, timeout_s=TIMEOUT_S, cancelled=cancelled, on_progress=on_progress),
        )
        bundle = Bundle(target)
        _whole(bundle, backup)
        faults.point("after-fetch")
        yield bundle


def manifest_of(bundle: Bundle) -> Manifest:
    assert bundle.manifest is not None  # ``bundle_of`` gives no other
    return bundle.manifest


def _whole(bundle: Bundle, backup: Backup) -> None:
    try:
        bundle.check()
    except InvalidInput as error:
        raise Damaged(f"The backup {backup.key} is not what was saved: {error.message}") from error
    domain = manifest_of(bundle).about.domain
    if domain != backup.repository.domain:
        raise Damaged(f"The backup {backup.key} is of {domain[:100]}, and not of {backup.repository.domain}.")
