"""A directory that has a bundle or XEP-0227 files in it: what it is, whether it is whole, and its items.

Checking reads every byte once and compares with the digests that were taken when it was written. Foreign files have
none; for them being well-formed is all there is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from controlplane.portable import manifest
from controlplane.portable import namespaces as ns
from controlplane.portable.documents import CHUNK, USUAL, Limits, root_of
from controlplane.portable.items import Item
from controlplane.portable.paths import checked, opened
from controlplane.portable.reader import Reader, digest_of
from controlplane.values.errors import InvalidInput

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
#: In this order foreign documents are tried: whole servers, hosts, accounts.
_ROOTS = ((ns.SERVER_DATA, f"{{{ns.PIE_OLD}}}server-data"), (ns.HOST,), (ns.USER,))


class Bundle:
    """The files below ``root``. ``manifest`` is None for another program's files."""

    def __init__(self, root: Path, *, limits: Limits = USUAL) -> None:
        self.root = root
        self._limits = limits
        try:
            with opened(root, manifest.NAME) as file:
                data = file.read(manifest.MAX_BYTES + 1)
        except FileNotFoundError:
            if os.path.lexists(root / manifest.SUMS) or os.path.lexists(root / "accounts-000001.xml"):
                raise InvalidInput(
                    "bundle",
                    f"The bundle has no {manifest.NAME}: it was cut off while it was written.",
                    remedy="Use another backup, or ask for the bundle again.",
                ) from None
            self.manifest: manifest.Manifest | None = None
        else:
            if len(data) > manifest.MAX_BYTES:
                raise InvalidInput("bundle", f"{manifest.NAME} is too large.")
            self.manifest = manifest.from_json(data)

    def documents(self) -> list[str]:
        """The files to begin with."""
        if self.manifest is not None:
            return ["accounts.xml", "rooms.xml", "uploads.xml"]
        found: dict[str, str] = {}
        for name in sorted(os.listdir(self.root)):
            if name.endswith((".xml", ".XML")) and len(found) < 100_000:
                with opened(self.root, name) as file:
                    found[name] = root_of(file.read(CHUNK), name)
        for tags in _ROOTS:
            if mains := [name for name, tag in found.items() if tag in tags]:
                return mains
        raise InvalidInput("bundle", "No XEP-0227 file (<server-data/>, <host/> or <user/>) is in it.")

    def items(self, *, host: str = "") -> Iterator[Item]:
        """Everything, one after the other; accounts first. ``host``: the domain of accounts that tell none."""
        ours = self.manifest is not None
        return iter(Reader(self.root, self.documents(), ours=ours, host=host, limits=self._limits))

    def check(self) -> None:
        """``InvalidInput`` if a byte is not as it was written, or a file is missing, doubled or too many."""
        if self.manifest is None:
            raise InvalidInput("bundle", "There are no digests to check: Roost did not write this.")
        if self._digest(manifest.SUMS) != self.manifest.sums:
            raise InvalidInput("bundle", f"{manifest.SUMS} is damaged: it is not what was written.")
        names: set[str] = set()
        for wanted, path in self._sums():
            if path in names:
                raise InvalidInput("bundle", f"{path!r} was written twice.")
            names.add(path)
            if self._digest(path) != wanted:
                raise InvalidInput("bundle", f"{path!r} is damaged: it is not what was written.")
        names |= {manifest.SUMS, manifest.NAME}
        for directory, _, files in os.walk(self.root):
            for file in files:
                path = os.path.relpath(os.path.join(directory, file), self.root)
                if path not in names:
                    raise InvalidInput("bundle", f"{path[:200]!r} does not belong to the bundle.")

    def _digest(self, path: str) -> str:
        try:
            return digest_of(self.root, path)
        except FileNotFoundError:
            raise InvalidInput("bundle", f"{path!r} is missing.") from None

    def _sums(self) -> Iterator[tuple[str, str]]:
        with opened(self.root, manifest.SUMS) as raw, os.fdopen(os.dup(raw.fileno()), encoding="utf-8") as lines:
            for line in lines:
                match = _LINE.fullmatch(line)
                if match is None:
                    raise InvalidInput("bundle", f"{manifest.SUMS} cannot be read.")
                yield match[1], checked(match[2])
