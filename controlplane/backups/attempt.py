"""One attempt at something long: its lease is renewed, its row told how far it is, and asked whether to go on."""

from __future__ import annotations

import time
from typing import Any

from controlplane.backups.exporting import Progress, Watch
from controlplane.backups.models import Drill, Restore
from controlplane.drivers.store import base as store
from controlplane.provisioning.renewal import Renewal
from controlplane.reconcile.lease import Lease, LeaseLost

LEASE_S = 180.0
TELL_EVERY_S = 2.0


class Attempt:
    """Of a restore's or a drill's pass."""

    def __init__(self, row: Restore | Drill, lease: Lease, *, stops: bool = True) -> None:
        self._row, self._stops = row, stops
        self._renewal = Renewal(lease, lease_s=LEASE_S)
        self._asked = self._told = 0.0
        self._called_off = False
        self._phase = ""

    def cancelled(self) -> bool:
        """True if it is to end: it was called off, or is somebody else's by now (see ``check``)."""
        if self._renewal():
            return True
        now = time.monotonic()
        if self._stops and now - self._asked >= TELL_EVERY_S:
            self._asked = now
            rows = type(self._row).objects.filter(pk=self._row.pk)
            self._called_off = rows.exclude(cancel_requested_at=None).exists()
        return self._called_off

    def check(self) -> None:
        """``LeaseLost`` if it ended for that."""
        if self._renewal.lost:
            raise LeaseLost(f"{self._row} was taken over.")

    def watch(self, phase: str) -> Watch:
        """For an export or an import; ``phase`` goes before its own words for what it is at."""
        self.tell({"phase": phase}, at_once=True)

        def told(seen: Progress) -> None:
            self.tell(
                {
                    "phase": f"{phase}: {seen.phase}" if seen.phase else phase,
                    "done": seen.done,
                    "messages": seen.messages,
                    "bytes": seen.file_bytes,
                }
            )

        return Watch(self.cancelled, told)

    def fetched(self, seen: store.Progress) -> None:
        """For the store."""
        self.tell(
            {
                "phase": "fetching",
                "done": seen.files_done,
                "total": seen.files_total,
                "bytes": seen.bytes_done,
                "bytes_total": seen.bytes_total,
            }
        )

    def tell(self, progress: dict[str, Any], *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._told >= TELL_EVERY_S:
            self._told = now
            type(self._row).objects.filter(pk=self._row.pk).update(progress=progress)
