"""What Roost needs of a TURN server: a set of shared secrets (TURN REST credentials) in its one realm."""

from __future__ import annotations

from typing import Protocol

from controlplane.values.secret import Secret


class TurnDriver(Protocol):
    """Secrets come and go while the server runs. Errors: ``Unavailable``, ``Rejected``."""

    name: str

    def has_secret(self, secret: Secret) -> bool: ...

    def add_secret(self, secret: Secret) -> bool:
        """True if added now, False if it was there."""

    def delete_secret(self, secret: Secret) -> bool:
        """True if removed now, False if it was not there."""

    def count(self) -> int:
        """How many secrets the realm has."""
