"""A PostgreSQL cluster of the stack's own, on a unix socket only; who may be whom is decided by the socket's peer."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from launcher import files
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.processes import run
from launcher.programs import Program

BIN = Path("/usr/lib/postgresql/15/bin")

CONF = """\
# Written by Roost; changes are overwritten.
listen_addresses = ''
unix_socket_directories = '{socket}'
unix_socket_permissions = 0777
max_connections = 120
shared_buffers = 64MB
fsync = on
synchronous_commit = on
log_destination = 'stderr'
logging_collector = off
log_min_messages = warning
hba_file = '{base}/pg_hba.conf'
ident_file = '{base}/pg_ident.conf'
timezone = 'UTC'
"""
HBA = "# Nobody but the unix users of pg_ident.conf gets in.\nlocal all all peer map=roost\n"
IDENT = "roost root postgres\nroost root roost\nroost postgres postgres\nroost roost roost\n"


def prepare(layout: Layout) -> Program:
    """Make the cluster if there is none (a half-made one is thrown away) and write its configuration."""
    base = files.directory(layout.state / "pg", owner="postgres", group="postgres")
    data = base / "data"
    # Tenants' processes on this machine have no business at the socket, not even to be refused.
    files.directory(layout.postgres_socket_dir, owner="postgres", group="roost", mode=0o750)
    if not (base / "made").exists():
        shutil.rmtree(data, ignore_errors=True)
        argv = [str(BIN / "initdb"), "-D", str(data), "-U", "postgres", "--auth=peer", "-E", "UTF8", "--locale=C.UTF-8"]
        run(argv, timeout_s=120, user="postgres")
        files.write(base / "made", "")
    texts = {
        "postgresql.conf": CONF.format(socket=layout.postgres_socket_dir, base=base),
        "pg_hba.conf": HBA,
        "pg_ident.conf": IDENT,
    }
    for name, text in texts.items():
        files.write(base / name, text, owner="postgres", group="postgres")
    return Program(
        name="postgres",
        title="PostgreSQL",
        argv=[str(BIN / "postgres"), "-D", str(data), "-c", f"config_file={base / 'postgresql.conf'}"],
        user="postgres",
        ready=lambda: answers(layout),
        remedy="see `./roost logs postgres`",
        digest=hashlib.sha256("".join(texts.values()).encode()).hexdigest(),
        stop_signal="INT",  # PostgreSQL's fast shutdown
        stop_wait_s=60,
        priority=10,
    )


def psql(layout: Layout, sql: str, *, database: str = "postgres") -> str:
    """Run one statement as the cluster's owner, from constants of this program only."""
    argv = [str(BIN / "psql"), "-h", str(layout.postgres_socket_dir), "-U", "postgres", "-d", database]
    return run([*argv, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql], timeout_s=60).out.strip()


def answers(layout: Layout) -> bool:
    argv = [str(BIN / "pg_isready"), "-q", "-h", str(layout.postgres_socket_dir), "-t", "2"]
    return run(argv, timeout_s=10, check=False).code == 0


def ensure_database(layout: Layout) -> bool:
    """The role and the database ``roost``; True if either was made. The tests' role may make databases of its own."""
    made = False
    if not psql(layout, "SELECT 1 FROM pg_roles WHERE rolname = 'roost'"):
        psql(layout, "CREATE ROLE roost LOGIN CREATEDB" if layout.is_test else "CREATE ROLE roost LOGIN")
        made = True
    if not psql(layout, "SELECT 1 FROM pg_database WHERE datname = 'roost'"):
        psql(layout, "CREATE DATABASE roost OWNER roost")
        made = True
    if psql(layout, "SELECT 1") != "1":
        raise Problem("PostgreSQL gives odd answers: see `./roost logs postgres`.")
    return made
