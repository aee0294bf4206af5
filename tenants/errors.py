"""Refusals of this room that are more precise than ``values.errors``: who shows them picks a status by type."""

from __future__ import annotations

from controlplane.values.errors import Conflict, InvalidInput, Rejected


class Taken(InvalidInput):
    """The value is fine, but somebody (or the same organisation) has it already."""


class QuotaExceeded(InvalidInput):
    """The plan does not allow one more; ``field`` names what was asked for."""


class WrongState(Conflict):
    """What is asked for does not fit the present state, such as restoring what was never terminated."""


class Missing(Rejected):
    """There is no such account or room on the instance's server."""
