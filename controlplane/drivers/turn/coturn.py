"""coturn's shared secrets, written straight into its SQLite user database.

coturn reads the table at every authentication, so a change counts at once and nothing is restarted. Not
``turnadmin``: it takes the secret in its argument vector, where every user of the machine reads it. What a
secret is for is the ``turn`` room's matter.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from controlplane.drivers.turn.database import BUSY_TIMEOUT_S, SCHEMA, USE_WAL
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.secret import Secret

MAX_SECRET_BYTES = 255  # coturn's buffer


class Coturn:
    """Implements ``TurnDriver`` for one realm of one database. Holds no connection; safe in any thread or process.

    ``Unavailable``: no such file yet, or locked for longer than ``BUSY_TIMEOUT_S``. ``Rejected``: not
    writable, damaged or not a database. ``InvalidInput``: a secret that coturn would cut.
    """

    name = "coturn"

    def __init__(self, database: Path, realm: str) -> None:
        self._database = database
        self._realm = realm

    def has_secret(self, secret: Secret) -> bool:
        with self._open() as database:
            found = database.execute(
                "SELECT 1 FROM turn_secret WHERE realm = ? AND value = ?", (self._realm, _value(secret))
            )
            return found.fetchone() is not None

    def add_secret(self, secret: Secret) -> bool:
        with self._open() as database:
            database.execute(USE_WAL)  # does nothing but in a file that coturn made
            added = database.execute("INSERT OR IGNORE INTO turn_secret VALUES (?, ?)", (self._realm, _value(secret)))
            return added.rowcount == 1

    def delete_secret(self, secret: Secret) -> bool:
        with self._open() as database:
            gone = database.execute(
                "DELETE FROM turn_secret WHERE realm = ? AND value = ?", (self._realm, _value(secret))
            )
            return gone.rowcount == 1

    def count(self) -> int:
        with self._open() as database:
            number: int = database.execute(
                "SELECT count(*) FROM turn_secret WHERE realm = ?", (self._realm,)
            ).fetchone()[0]
            return number

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode, so each statement locks for as short as can be."""
        if not self._database.is_file():
            raise Unavailable(
                f"coturn's user database {self._database} is not there.",
                remedy="Start the TURN server.",
            )
        try:
            # mode=rw: a file that vanished meanwhile is not made again, empty and with the wrong owner.
            uri = f"{self._database.absolute().as_uri()}?mode=rw"
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            ) as database:
                if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'turn_secret'").fetchone():
                    database.executescript(SCHEMA)  # coturn has not come to it yet
                yield database
        except sqlite3.OperationalError as error:
            raise self._explain(error) from None  # None: an error's text may quote what was bound
        except sqlite3.DatabaseError as error:
            raise Rejected(
                f"{self._database} is not a sound SQLite database ({error}).",
                remedy="Move it away and restart the TURN server; the secrets are written again.",
            ) from None

    def _explain(self, error: sqlite3.OperationalError) -> Unavailable | Rejected:
        if error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return Rejected(
                f"coturn's user database {self._database} cannot be written.",
                remedy="Put this process's user into the group of the file, its directory and its -wal and -shm files.",
            )
        return Unavailable(f"coturn's user database {self._database} does not answer ({error}).")


def _value(secret: Secret) -> str:
    value = secret.reveal()
    if not value or len(value.encode()) > MAX_SECRET_BYTES or "\0" in value:
        raise InvalidInput("secret", f"A TURN secret has 1 to {MAX_SECRET_BYTES} bytes, and none of them is zero.")
    return value
