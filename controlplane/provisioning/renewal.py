"""Keeps a lease while something long runs that asks now and then whether it is to be cancelled."""

from __future__ import annotations

import time

from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease

RENEW_EVERY_S = 20.0


class Renewal:
    """Call it again and again: it renews the lease every 20 s. True (and ``lost``) once it is somebody else's."""

    def __init__(self, lease: Lease, *, lease_s: float) -> None:
        self.lost = False
        self._lease, self._lease_s = lease, lease_s
        self._next = time.monotonic() + RENEW_EVERY_S

    def __call__(self) -> bool:
        if not self.lost and time.monotonic() >= self._next:
            self._next = time.monotonic() + RENEW_EVERY_S
            self.lost = not leases.renew(self._lease, lease_s=self._lease_s)
        return self.lost
