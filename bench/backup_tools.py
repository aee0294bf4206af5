"""What the engines bring along to save their data, on the same data: ejabberdctl, prosody-migrator; then restic.

They get copies of the instance's files, as its owner would make them, and configurations as small as they can be. A
tool that is not done within ``PATIENCE_S`` is stopped and said to be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.backup import Repository
    from tests.servers.engine import Instance

PATIENCE_S = 60.0
NODE, EPMD_PORT = "roostbench@localhost", "43690"
DOMAIN, ROOMS_AT = "acme.example", "conference.acme.example"

EJABBERD_YML = """\
hosts: [{domain}]
loglevel: warning
default_db: sql
sql_type: sqlite
sql_database: {database}
auth_method: [sql]
auth_password_format: scram
auth_scram_hash: sha256
listen: []
modules:
  mod_roster: {{}}
  mod_vcard: {{}}
  mod_private: {{}}
  mod_privacy: {{}}
  mod_offline: {{}}
  mod_caps: {{}}
  mod_pubsub: {{plugins: [flat, pep]}}
  mod_mam: {{}}
  mod_muc: {{hosts: [{rooms}]}}
"""
MIGRATOR_LUA = """\
input {{ {source} hosts = {{ {hosts} }}; }}
output {{ type = "xep0227"; }}
"""
#: Stores that mod_storage_xep0227 takes; it refuses everything of rooms.
ACCOUNT_STORES = ("accounts", "roster", "vcard", "private", "pep-pubsub")


def rows(engine: str, instance: Instance, root: Path, name: str, repository: Repository) -> list[tuple[str, str]]:
    """Rows of the table, each beginning with ``name``."""
    tools = of_ejabberd if engine == "ejabberd" else of_prosody
    found = []
    for tool, what, seconds, made in tools(instance, root):
        if seconds is None:
            found.append((f"{name}: {tool}", f"not done within {PATIENCE_S:.0f} s ({what})"))
            continue
        kept_s, kept_mb = repository.save(made) if made is not None else (0.0, 0.0)
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 1e6 if made is not None else 0.0
        words = f"{seconds:.1f} s + restic {kept_s:.1f} s, {size:.1f} MB, {kept_mb:.1f} MB stored: {what}"
        found.append((f"{name}: {tool}", words))
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return found


def timed(command: list[str], **words: Any) -> float | None:
    """Seconds; None if it was not done in time. A tool that fails is our error."""
    began = time.monotonic()
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S, **words)
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{command}: {error.stdout[-2000:]!r} {error.stderr[-2000:]!r}") from error
    return time.monotonic() - began


def copied(database: Path, target: Path) -> None:
    """A whole copy of an SQLite file that is in use."""
    with contextlib.closing(sqlite3.connect(database)) as one, contextlib.closing(sqlite3.connect(target)) as other:
        one.backup(other)


def own(path: Path, user: str) -> None:
    shutil.chown(path, user, user)
    for below in path.rglob("*"):
        shutil.chown(below, user, user)


# ejabberd


@contextlib.contextmanager
def stock_ejabberd(directory: Path, database: Path) -> Iterator[list[str]]:
    """Debian's ejabberd with a copy of the data; the command that controls it."""
    directory.mkdir()
    for name in ("config", "log", "spool"):
        (directory / name).mkdir()
    copied(database, directory / "spool/ejabberd.sqlite")
    settings = EJABBERD_YML.format(domain=DOMAIN, rooms=ROOMS_AT, database=directory / "spool/ejabberd.sqlite")
    (directory / "config/ejabberd.yml").write_text(settings)
    (directory / "config/ejabberdctl.cfg").write_text("INET_DIST_INTERFACE={127,0,0,1}\n")
    (directory / "config/inetrc").write_text("")
    own(directory, "ejabberd")
    control = ["/usr/sbin/ejabberdctl", "--config-dir", f"{directory}/config", "--logs", f"{directory}/log"]
    control += ["--spool", f"{directory}/spool", "--node", NODE]
    env = {**os.environ, "ERL_EPMD_PORT": EPMD_PORT}
    os.environ["ERL_EPMD_PORT"] = EPMD_PORT
    server = subprocess.Popen(
        [*control, "foreground"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while subprocess.run([*control, "status"], env=env, capture_output=True).returncode:
            if time.monotonic() > deadline or server.poll() is not None:
                logs = "".join(path.read_text(errors="replace")[-1500:] for path in (directory / "log").glob("*.log"))
                raise RuntimeError(f"ejabberd did not start: {logs}")
            time.sleep(2)  # each question starts an Erlang of its own
        yield control
    finally:
        subprocess.run([*control, "stop"], env=env, capture_output=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        if server.poll() is None:
            os.killpg(server.pid, 9)
        subprocess.run(["epmd", "-port", EPMD_PORT, "-kill"], capture_output=True)


def of_ejabberd(instance: Instance, root: Path) -> Iterator[tuple[str, str, float | None, Path | None]]:
    with stock_ejabberd(root / "stock", Path(instance.root) / "data/ejabberd.sqlite") as control:
        made = root / "piefxis"
        made.mkdir()
        own(made, "ejabberd")
        seconds = timed([*control, "export_piefxis", str(made)])
        yield "ejabberdctl export_piefxis", "accounts, contacts, no archive and no room", seconds, made
        saved = root / "mnesia"
        saved.mkdir()
        own(saved, "ejabberd")
        seconds = timed([*control, "backup", str(saved / "backup")])
        yield "ejabberdctl backup", "nothing but Mnesia, in which no account, archive or room is", seconds, saved
    yield from of_file(Path(instance.root) / "data/ejabberd.sqlite", root)


# Prosody


def migrated(root: Path, made: Path, source: str, hosts: str) -> float | None:
    """Prosody's migrator. It writes XEP-0227 to where the package has its data: this copy of it, to another place."""
    made.mkdir(exist_ok=True)
    config, tool = root / "migrator.cfg.lua", root / "migrator"
    config.write_text(MIGRATOR_LUA.format(source=source, hosts=hosts))
    tool.write_text(Path("/usr/bin/prosody-migrator").read_text().replace("/var/lib/prosody", str(made)))
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    return timed(["lua5.4", str(tool), "--config", str(config), "--root"], cwd=root, env=env)


def of_prosody(instance: Instance, root: Path) -> Iterator[tuple[str, str, float | None, Path | None]]:
    data = root / "stock-data"
    shutil.copytree(Path(instance.root) / "data", data, ignore=shutil.ignore_patterns("archive.sqlite*"))
    copied(Path(instance.root) / "data/archive.sqlite", data / "archive.sqlite")
    stores = ", ".join(f'"{name}"' for name in ACCOUNT_STORES)
    files, database = (
        f'type = "internal"; path = "{data}";',
        f'type = "sql"; driver = "SQLite3"; database = "{data}/archive.sqlite";',
    )
    made, what = root / "xep0227", "accounts and contacts, their archives, no room"
    first = migrated(root, made, files, f'["{DOMAIN}"] = {{ {stores} }};')
    second = migrated(root, made, database, f'["{DOMAIN}"] = {{ "archive-archive" }};')
    seconds = first + second if first is not None and second is not None else None
    yield "prosody-migrator to XEP-0227", what, seconds, made
    yield from of_file(Path(instance.root) / "data/archive.sqlite", root)


def of_file(database: Path, root: Path) -> Iterator[tuple[str, str, float | None, Path | None]]:
    """The quickest of all: the engine's own file, which only the same engine reads."""
    made = root / "file"
    made.mkdir()
    began = time.monotonic()
    copied(database, made / "copy.sqlite")
    yield "SQLite's own copy of the archive's file", "in the engine's own form", time.monotonic() - began, made
