"""What a step says after it looked or acted. Reasons are CamelCase words; messages are for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The world is as wanted. ``resync_s``: look again after so many seconds (jittered by the loop)."""

    reason: str = "AsWanted"
    message: str = ""
    resync_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet; try again after ``after_s`` seconds. ``failed``: it was an error, so the next wait is longer."""

    reason: str
    message: str
    after_s: float = 1.0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Stalled:
    """It will not get better by waiting: a person (or a changed spec) has to act. ``remedy`` says how.

    It is looked at again after ``recheck_s`` all the same: people mend things without telling us.
    """

    reason: str
    message: str
    remedy: str
    recheck_s: float = 300.0


Outcome = Done | Wait | Stalled
