"""``manage.py doctor`` on the live stack: all is well; and each fault, planted alone, is named with its remedy."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from launcher import machine
from launcher.up import process_environment
from tests.stack.live import Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def doctor(live: Live, *words: str, **variables: str) -> tuple[int, str, str]:
    """As the control plane's user, with its environment and what is planted into it."""
    environment = {name: value for name, value in live.environment.items() if name.startswith("ROOST_")}
    environment = {k: v for k, v in environment.items() if not k.startswith("ROOST_TEST_")} | variables
    environment |= {"DJANGO_SETTINGS_MODULE": "controlplane.settings.local"}
    done = subprocess.run(
        [str(live.layout.python), "manage.py", "doctor", *words],
        env=process_environment(live.layout, environment),
        cwd=live.layout.app,
        user=machine.CONTROL_USER,
        group=machine.CONTROL_USER,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def findings(live: Live, *parts: str, **variables: str) -> list[dict[str, Any]]:
    status, out, err = doctor(live, "--json", *parts, **variables)
    found = json.loads(out)
    assert status == (1 if any(one["level"] == "wrong" for one in found) else 0), err
    return found


def test_a_stack_that_is_well(live: Live, tenants: dict[str, Tenant]) -> None:
    def well() -> bool:
        wrong = [one for one in findings(live) if one["level"] == "wrong"]
        assert not wrong, wrong
        return True

    until(well, "nothing is wrong", timeout_s=120)
    status, out, _ = doctor(live)
    assert status == 0
    for part in (
        "settings",
        "database",
        "migrations",
        "broker",
        "clock",
        "dns",
        "acme",
        "nodes",
        "turn",
        "disk",
        "queue",
    ):
        assert f"✓  {part} " in out, out


@dataclass(frozen=True)
class Planted:
    """``part``: whose finding it is. ``said`` and ``remedy``: words of it. ``plant`` gives the variables to set."""

    part: str
    said: str
    remedy: str
    plant: Callable[[Live, Path], contextlib.AbstractContextManager[Mapping[str, str]]]
    others: frozenset[str] = field(default_factory=frozenset)


def variables(**fixed: str) -> Callable[[Live, Path], contextlib.AbstractContextManager[Mapping[str, str]]]:
    return lambda _live, _place: contextlib.nullcontext(fixed)


@contextlib.contextmanager
def readable_key(live: Live, place: Path) -> Iterator[Mapping[str, str]]:
    copy = place / "master.key"
    copy.write_bytes(Path(live.environment["ROOST_MASTER_KEY_FILE"]).read_bytes())
    copy.chmod(0o644)
    yield {"ROOST_MASTER_KEY_FILE": str(copy)}


@contextlib.contextmanager
def empty_database(live: Live, _place: Path) -> Iterator[Mapping[str, str]]:
    """One in which nothing was migrated."""
    url = live.environment["ROOST_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("DROP DATABASE IF EXISTS doctor_empty")
        database.execute("CREATE DATABASE doctor_empty")
        try:
            yield {"ROOST_DATABASE_URL": url.replace("/roost?", "/doctor_empty?")}
        finally:
            database.execute("DROP DATABASE doctor_empty WITH (FORCE)")


@contextlib.contextmanager
def full_disk(_live: Live, place: Path) -> Iterator[Mapping[str, str]]:
    target = place / "full"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(target)], check=True)
    try:
        yield {"ROOST_ANSIBLE_DIR": str(target)}
    finally:
        subprocess.run(["umount", str(target)], check=True)


@contextlib.contextmanager
def stopped(live: Live, *names: str) -> Iterator[Mapping[str, str]]:
    for name in names:
        live.main.stop_part(name)
    try:
        yield {}
    finally:
        for name in names:
            live.main.start_part(name)


@contextlib.contextmanager
def clock_ahead(_live: Live, _place: Path) -> Iterator[Mapping[str, str]]:
    (library,) = Path("/").glob(FAKETIME.lstrip("/"))
    yield {"LD_PRELOAD": str(library), "FAKETIME": "+3600s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@contextlib.contextmanager
def never_looked_at(live: Live, _place: Path) -> Iterator[Mapping[str, str]]:
    """A node that was written down and that no worker has come to."""
    with psycopg.connect(live.environment["ROOST_DATABASE_URL"], autocommit=True) as database:
        columns = [row[0] for row in database.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'fleet_node' AND column_name <> 'id'"
        )]  # fmt: skip
        names = ", ".join(columns)
        # Nothing may be placed on it, which is the same machine under another name.
        other = {"name": "'new-one'", "instance_network": "'127.1.2.0/24'", "standing": "'cordoned'"}
        values = ", ".join(other.get(c, c) for c in columns)
        database.execute(f"INSERT INTO fleet_node ({names}) SELECT {values} FROM fleet_node WHERE name = 'local'")
        try:
            yield {}
        finally:
            until(lambda: _forgotten(database), "the node is forgotten", timeout_s=30)


def _forgotten(database: psycopg.Connection[Any]) -> bool:
    """Whoever looks after nodes may have noted something of it meanwhile, and go on doing so until it is gone."""
    ours = "node_id = (SELECT id FROM fleet_node WHERE name = 'new-one')"
    try:
        database.execute(f"DELETE FROM monitoring_addresssighting WHERE {ours}")
        database.execute(f"DELETE FROM monitoring_addresswatch WHERE {ours}")
        database.execute(f"UPDATE monitoring_incident SET node_id = NULL WHERE {ours}")
        database.execute("DELETE FROM fleet_node WHERE name = 'new-one'")
    except psycopg.errors.ForeignKeyViolation:
        return False
    return True


FAULTS = {
    "a short secret key": Planted(
        "settings", "ROOST_SECRET_KEY has 5", "50 random", variables(ROOST_SECRET_KEY="short")
    ),
    "a key that everybody reads": Planted("settings", "can read the master key", "chmod o=", readable_key),
    "half of the TURN settings": Planted(
        "settings", "ROOST_TURN_DATABASE is not", "both", variables(ROOST_TURN_DATABASE="")
    ),
    "the database is away": Planted(
        "database",
        "does not answer",
        "ROOST_DATABASE_URL",
        variables(ROOST_DATABASE_URL="postgresql://r@/r?host=/nowhere"),
    ),
    "nothing was migrated": Planted("migrations", "are not applied", "manage.py migrate", empty_database),
    "the broker is away": Planted(
        "broker", "does not answer", "Redis", variables(ROOST_BROKER_URL="redis+socket:///nowhere/redis.sock")
    ),
    "the clock is ahead": Planted("clock", "s ahead of", "NTP", clock_ahead),
    "the wrong DNS key": Planted("dns", "cannot be written", "", variables(ROOST_POWERDNS_API_KEY="wrong")),
    "another zone": Planted("dns", "elsewhere.example", "", variables(ROOST_PROVIDER_ZONE="elsewhere.example")),
    "the resolver is away": Planted(
        "dns", "does not answer", "ROOST_RESOLVER", variables(ROOST_RESOLVER="127.0.0.1@1")
    ),
    "another CA": Planted(
        "acme", "is not read", "ROOST_ACME_DIRECTORY", variables(ROOST_ACME_DIRECTORY="https://127.0.0.1:1/dir")
    ),
    "the CA is not trusted": Planted(
        "acme", "CERTIFICATE_VERIFY_FAILED", "ROOST_ACME_CA_FILE", variables(ROOST_ACME_CA_FILE="")
    ),
    "coturn is stopped": Planted("turn", "does not answer", "Start coturn", lambda live, _: stopped(live, "coturn")),
    "another TURN database": Planted(
        "turn", "is not there", "ROOST_TURN_DATABASE", variables(ROOST_TURN_DATABASE="/nowhere")
    ),
    "a full disk": Planted("disk", "MiB left", "Make room", full_disk),
    "the mail server is away": Planted(
        "mail",
        "does not take us",
        "ROOST_MAIL_URL",
        variables(ROOST_MAIL_URL=f"smtp+plain://127.0.0.1:{closed_port()}"),
    ),
    "a prober that does not run": Planted("processes", "prober", "Start them", lambda live, _: stopped(live, "prober")),
    "a node that nobody looked at": Planted("nodes", "new-one was never looked at", "-Q node", never_looked_at),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(live: Live, tmp_path: Path, name: str) -> None:
    planted = FAULTS[name]
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)  # the control plane's user reads what is planted
    with planted.plant(live, tmp_path) as changed:
        found = findings(live, planted.part, **changed)
        wrong = [one for one in found if one["level"] == "wrong"]
        assert any(planted.said in one["said"] and planted.remedy in one["remedy"] for one in wrong), found
        assert all(one["remedy"] for one in wrong)
    secrets = [live.environment[name] for name in ("ROOST_SECRET_KEY", "ROOST_POWERDNS_API_KEY", "ROOST_METRICS_TOKEN")]
    assert not [secret for secret in secrets if secret in json.dumps(found)]


@pytest.mark.parametrize(("name", "value"), [("ROOST_PROVIDER_ZONE", ""), ("ROOST_RESYNC_S", "soon")])
def test_a_setting_that_keeps_everything_from_starting(live: Live, name: str, value: str) -> None:
    status, out, err = doctor(live, **{name: value})
    assert status == 1
    assert name in out
    assert "docs/environment.md" in out
    assert "Traceback" not in out + err


def test_one_fault_hides_no_other(live: Live) -> None:
    both = {"ROOST_RESOLVER": "127.0.0.1@1", "ROOST_SECRET_KEY": "short"}
    parts = {one["part"] for one in findings(live, **both) if one["level"] == "wrong"}
    assert {"settings", "dns"} <= parts


def test_a_part_that_is_not(live: Live) -> None:
    status, _, err = doctor(live, "stomach")
    assert status == 2
    assert "settings, database" in err
