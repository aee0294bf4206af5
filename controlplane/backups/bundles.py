"""A backup's bundle as one compressed archive, streamed out of its repository: what a tenant takes along."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Generator, Iterator

from controlplane import wiring
from controlplane.backups import places, repositories, requests
from controlplane.backups.models import Backup
from controlplane.drivers.store import base as store
from controlplane.values.errors import RoostError
from tenants.errors import WrongState
from tenants.principal import Principal

log = logging.getLogger(__name__)

TIMEOUT_S = 12 * 3600.0


class Stream:
    """Bytes of a ``.tar.gz``. Its first ones are read when it is made, so that what hinders it is said by an error and
    not by a stream that breaks off. ``close`` ends the program behind it, whoever went away.
    """

    def __init__(self, backup: Backup) -> None:
        self._chunks = _packed(backup)
        self._first = next(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        try:
            yield from self._chunks
        except RoostError:
            log.warning("a bundle broke off", exc_info=True)
            raise

    def close(self) -> None:
        """Also called by Django when the client hangs up."""
        self._chunks.close()


def opened(*, backup: Backup, principal: Principal) -> Stream:
    """The backup's bundle, with an audit event. ``WrongState`` if it is not there."""
    if backup.state != Backup.DONE:
        raise WrongState(f"The backup is {backup.get_state_display()}.", remedy="Choose one that is there.")
    stream = Stream(backup)
    requests.note(backup, principal, "backup.download", "Bundle downloaded")
    return stream


def file_name(backup: Backup) -> str:
    """Letters, digits, dots and hyphens only: it goes into a header."""
    moment = f"{backup.moment:%Y%m%dT%H%M%SZ}" if backup.moment is not None else backup.key
    return f"{backup.repository.domain}-{backup.kind}-{moment}.tar.gz"


def _packed(backup: Backup) -> Generator[bytes, None, None]:
    there = repositories.opened(backup.repository)
    run = places.run_of(backup.repository.place, timeout_s=TIMEOUT_S)
    packed = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # with gzip's head and end
    with contextlib.closing(_tar(backup, there, run)) as chunks:
        for chunk in chunks:
            if data := packed.compress(chunk):
                yield data
    yield packed.flush()


def _tar(backup: Backup, there: store.Repository, run: store.Run) -> Generator[bytes, None, None]:
    with wiring.store_driver().read_tree(there, backup.snapshot, run=run) as chunks:
        yield from chunks
