"""The four ways an outside step can fail, so that callers decide by type and never by message.

A driver turns whatever its library raises into one of these; a reconciler turns them into a condition.
"""


class RoostError(Exception):
    """Base of the errors that carry a message fit for a person.

    ``message`` says what happened and where, ``remedy`` what to do about it (may be empty).
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class Unavailable(RoostError):
    """The other side does not answer or asks to wait: try again, at the earliest after ``retry_after_s``."""

    def __init__(self, message: str, *, remedy: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class Rejected(RoostError):
    """The other side understood and refused: the same request will not succeed without a change."""


class Conflict(RoostError):
    """Something is there that we did not make: a person must decide. Never overwritten, never deleted."""


class InvalidInput(RoostError, ValueError):
    """A value that a person or a program gave us does not fit; ``field`` names it."""

    def __init__(self, field: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.field = field
