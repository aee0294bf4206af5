"""What a backup has to contain, kept outside of its repository: a tally in the database, compressed, in pieces.

Whoever restores compares with it; whoever tampers with the repository cannot tamper with it too.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import transaction

from controlplane.backups import repositories
from controlplane.backups.models import Backup, OraclePart, Repository
from controlplane.portable.tally import Tally
from controlplane.values.errors import Rejected

PIECE_BYTES = 1 << 20


def tally(repository: Repository, path: Path | None = None) -> Tally:
    """An empty one that can be compared with the oracles of this repository: same key, messages by days."""
    return Tally(path, key=repositories.oracle_key(repository), rolled=True)


def store(backup: Backup, path: Path) -> None:
    """Keep the tally in the file ``path`` (closed) as the backup's oracle, in place of any it had."""
    with transaction.atomic():
        OraclePart.objects.filter(backup=backup).delete()
        for number, piece in enumerate(_pieces(path)):
            OraclePart.objects.create(backup=backup, number=number, content=piece)


@contextmanager
def opened(backup: Backup) -> Iterator[Tally]:
    """The backup's oracle. ``Rejected`` if it has none, or not a whole one."""
    with tempfile.TemporaryDirectory(prefix="roost-oracle-") as directory:
        path = Path(directory) / "oracle.sqlite"
        _load(backup, path)
        with tally(backup.repository, path) as found:
            yield found


def _load(backup: Backup, path: Path) -> None:
    unpacked = zlib.decompressobj()
    with path.open("wb") as file:
        for content in backup.oracle_parts.order_by("number").values_list("content", flat=True).iterator(chunk_size=1):
            file.write(unpacked.decompress(bytes(content)))
        file.write(unpacked.flush())
    if not unpacked.eof:
        raise Rejected(f"The backup {backup.key} has no oracle.", remedy="Take another backup.")


def _pieces(path: Path) -> Iterator[bytes]:
    packed = zlib.compressobj(6)
    held = b""
    with path.open("rb") as file:
        while chunk := file.read(PIECE_BYTES):
            held += packed.compress(chunk)
            while len(held) >= PIECE_BYTES:
                yield held[:PIECE_BYTES]
                held = held[PIECE_BYTES:]
    yield held + packed.flush()
