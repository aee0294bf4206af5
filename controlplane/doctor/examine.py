"""All looks, one after the other. A part that cannot be looked at is a finding, too, and holds up no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django.db import DatabaseError, InterfaceError, connection

from controlplane.doctor import outside, own
from controlplane.doctor.finding import WRONG, Finding, Look, wrong
from controlplane.values.errors import RoostError

#: Part -> its look. Those of ``AFTER_DATABASE`` need tables.
LOOKS: dict[str, Look] = {
    "settings": own.settings_,
    "database": own.database,
    "migrations": own.migrations,
    "broker": own.broker,
    "clock": outside.clock,
    "dns": outside.names,
    "acme": outside.authority,
    "nodes": outside.nodes,
    "turn": outside.turn,
    "backups": outside.backups,
    "disk": own.disk,
    "mail": own.mail,
    "processes": own.processes,
    "queue": own.queue,
}
AFTER_DATABASE = frozenset({"clock", "acme", "nodes", "backups", "queue"})


def examine(parts: Sequence[str] = ()) -> Iterator[Finding]:
    """The findings of all parts, or of those that are named; good ones only where nothing else was found."""
    blocked = ""
    for part, look in LOOKS.items():
        if parts and part not in parts:
            continue
        if blocked and part in AFTER_DATABASE:
            yield wrong(part, f"It was not looked at, since {blocked}.", "Mend that first, then look again.")
            continue
        found = list(_looked(part, look))
        trouble = [one for one in found if one.remedy]
        yield from trouble or found
        if part in {"database", "migrations"} and any(one.level == WRONG for one in trouble):
            blocked = "the database does not answer" if part == "database" else "tables are missing"
            if part == "database":
                connection.close()


def _looked(part: str, look: Look) -> Iterator[Finding]:
    try:
        yield from look()
    except (DatabaseError, InterfaceError) as error:
        said = str(error).strip().splitlines()
        yield wrong(
            part,
            f"PostgreSQL does not answer, or not as it should: {said[0][:300] if said else type(error).__name__}",
            "Start it, or correct ROOST_DATABASE_URL; see its log for refusals.",
        )
    except RoostError as error:
        yield wrong(part, error.message, error.remedy or "Look at the settings of this part in docs/environment.md.")
    except Exception as error:  # noqa: BLE001  (whatever is broken there, the other parts are looked at)
        yield wrong(
            part,
            f"Looking at it failed: {type(error).__name__}: {str(error)[:200]}",
            "If that is no fault of the deployment, report it with this line.",
        )
