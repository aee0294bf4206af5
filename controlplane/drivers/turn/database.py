"""coturn's SQLite user database: its schema, and making the file before coturn starts.

Standard library only, for the launcher. coturn makes the same tables itself when they are missing; making
them first fixes the file's owner and mode. Secrets are written by ``drivers.turn.coturn``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 5.0

#: coturn reads without a busy time-out: it takes a locked table for an empty one and refuses the caller's
#: credentials. With a write-ahead log writers lock no reader out. The mode is kept in the file.
USE_WAL = "PRAGMA journal_mode=WAL"

#: The tables of coturn 4.6 (Debian: /usr/share/coturn/schema.sql).
SCHEMA = """
CREATE TABLE IF NOT EXISTS turnusers_lt (
    realm varchar(127) default '', name varchar(512), hmackey char(128), PRIMARY KEY (realm,name));
CREATE TABLE IF NOT EXISTS turn_secret (
    realm varchar(127) default '', value varchar(256), primary key (realm,value));
CREATE TABLE IF NOT EXISTS allowed_peer_ip (
    realm varchar(127) default '', ip_range varchar(256), primary key (realm,ip_range));
CREATE TABLE IF NOT EXISTS denied_peer_ip (
    realm varchar(127) default '', ip_range varchar(256), primary key (realm,ip_range));
CREATE TABLE IF NOT EXISTS turn_origin_to_realm (
    origin varchar(127), realm varchar(127), primary key (origin));
CREATE TABLE IF NOT EXISTS turn_realm_option (
    realm varchar(127) default '', opt varchar(32), value varchar(128), primary key (realm,opt));
CREATE TABLE IF NOT EXISTS oauth_key (
    kid varchar(128), ikm_key varchar(256), timestamp bigint default 0, lifetime integer default 0,
    as_rs_alg varchar(64) default '', realm varchar(127), primary key (kid));
CREATE TABLE IF NOT EXISTS admin_user (
    name varchar(32), realm varchar(127), password varchar(127), primary key (name));
"""


def create_database(path: Path, *, mode: int = 0o660) -> bool:
    """Make the file with its tables; True if there was none. The file holds secrets: ``mode`` lets nobody else read.

    Both coturn's user and the control plane's need to write to the file and its directory (write-ahead log).
    Raises ``OSError`` or ``sqlite3.Error``.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made = True
    except FileExistsError:
        made = False
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as database:
        database.execute(USE_WAL)
        database.executescript(SCHEMA)
    if made:
        path.chmod(mode)
    return made
