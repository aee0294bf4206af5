"""The driver and the rendered configuration against a real coturn: who may relay, and where to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.turn.coturn import Coturn
from controlplane.drivers.turn.database import SCHEMA, create_database
from controlplane.probes.relay import Refused, Relay, credentials, round_trip
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.secret import Secret
from tests.servers.coturn import coturn, turn_config

pytestmark = pytest.mark.servers

OPEN, CLOSED = "127.66.0.5", "127.66.0.6"  # with and without the operator's permission for loopback peers
ACME, GLOBEX = Secret('acme\'s "secret" -- ;'), Secret("globex-secret")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="turn"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Path]:
    """A lab's server; its database."""
    with coturn(directory, turn_config(directory, OPEN, allow_loopback_peers=True)):
        yield directory / "turn.sqlite"


@pytest.fixture
def driver(server: Path) -> Iterator[Coturn]:
    yield Coturn(server, "turn.example")
    with contextlib.closing(sqlite3.connect(server)) as database, database:
        database.execute("DELETE FROM turn_secret")


@contextlib.contextmanager
def own_server(address: str, **changes: object) -> Iterator[Coturn]:
    directory = Path(tempfile.mkdtemp(prefix="turn"))
    config = turn_config(directory, address, **changes)
    try:
        with coturn(directory, config):
            yield Coturn(Path(config.database), config.realm)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def relay(secret: Secret, label: str = "acme", *, expires_in: int = 600, server: str = OPEN) -> int:
    user, password = credentials(secret, label, int(time.time()) + expires_in)
    return asyncio.run(round_trip((server, 3478), user, password, timeout_s=3.0))


def test_two_tenants_secrets_relay_in_one_realm_while_it_runs(driver: Coturn) -> None:
    assert driver.add_secret(ACME)
    assert relay(ACME) == 1200
    assert driver.add_secret(GLOBEX)
    assert relay(GLOBEX, "globex") == 1200
    assert relay(ACME) == 1200


def test_a_deleted_secret_is_refused_at_once_and_the_other_is_not(driver: Coturn) -> None:
    driver.add_secret(ACME)
    driver.add_secret(GLOBEX)
    assert driver.delete_secret(ACME)
    with pytest.raises(Refused) as refused:
        relay(ACME)
    assert refused.value.code == 401
    assert relay(GLOBEX, "globex") == 1200


def test_expired_and_wrong_credentials_are_refused(driver: Coturn) -> None:
    driver.add_secret(ACME)
    with pytest.raises(Refused) as refused:
        relay(ACME, expires_in=-60)
    assert refused.value.code == 401
    with pytest.raises(Refused) as refused:
        relay(Secret("another"))
    assert refused.value.code == 401


def test_no_secret_at_all_means_nobody(driver: Coturn) -> None:
    assert driver.count() == 0
    with pytest.raises(Refused):
        relay(ACME)


def test_a_tenant_has_a_quota_of_its_own() -> None:
    address = "127.66.0.8"

    async def run() -> None:
        user, password = credentials(ACME, "acme", int(time.time()) + 600)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(Relay.allocate((address, 3478), user, password))
            later, its_password = credentials(ACME, "acme", int(time.time()) + 900)
            with pytest.raises(Refused) as refused:
                await stack.enter_async_context(Relay.allocate((address, 3478), later, its_password))
            assert refused.value.code == 486
            other, its_password = credentials(GLOBEX, "globex", int(time.time()) + 600)
            assert await round_trip((address, 3478), other, its_password) == 1200

    with own_server(address, allow_loopback_peers=True, user_quota=2) as driver:
        driver.add_secret(ACME)
        driver.add_secret(GLOBEX)
        asyncio.run(run())


def test_each_change_says_whether_it_changed_anything(driver: Coturn) -> None:
    assert not driver.has_secret(ACME)
    assert driver.add_secret(ACME)
    assert not driver.add_secret(ACME)
    assert driver.has_secret(ACME)
    assert driver.count() == 1
    assert driver.delete_secret(ACME)
    assert not driver.delete_secret(ACME)
    assert driver.count() == 0


def test_a_realm_sees_only_its_own(driver: Coturn, server: Path) -> None:
    driver.add_secret(ACME)
    other = Coturn(server, "elsewhere.example")
    assert other.count() == 0
    assert not other.delete_secret(ACME)
    assert driver.has_secret(ACME)


def test_writes_never_lock_a_caller_out(driver: Coturn) -> None:
    driver.add_secret(ACME)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            driver.add_secret(GLOBEX)
            driver.delete_secret(GLOBEX)
            stop.wait(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [relay(ACME) for _ in range(30)] == [1200] * 30
    finally:
        stop.set()
        writer.join()


def test_coturns_own_client_agrees(driver: Coturn) -> None:
    driver.add_secret(GLOBEX)

    def client(secret: str) -> subprocess.CompletedProcess[str]:
        # -c: no pair of ports for RTCP, of which coturn tries one alone and answers 508 if either port is taken.
        argv = ["turnutils_uclient", "-y", "-c", "-n", "5", "-l", "100", "-u", "globex", "-W", secret]
        return subprocess.run([*argv, "-p", "3478", OPEN], capture_output=True, text=True, timeout=60, check=False)

    good = client(GLOBEX.reveal())
    assert good.returncode == 0
    assert "Total lost packets 0" in good.stdout
    assert client("wrong").returncode != 0


@pytest.fixture(scope="module")
def closed_server() -> Iterator[Coturn]:
    """As a provider runs it: no permission for special addresses."""
    with own_server(CLOSED) as driver:
        yield driver


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", CLOSED, "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1"]
)
def test_special_peers_are_refused_without_the_operators_permission(closed_server: Coturn, peer: str) -> None:
    closed_server.add_secret(ACME)

    async def run() -> None:
        user, password = credentials(ACME, "acme", int(time.time()) + 600)
        async with Relay.allocate((CLOSED, 3478), user, password) as allocation:
            allocation.send(b"let me in", (peer, 22))
            with pytest.raises(Refused) as refused:
                await allocation.receive(timeout_s=3.0)
            assert refused.value.code == 403

    asyncio.run(run())


def test_an_allowed_range_is_relayed_to_although_it_is_private() -> None:
    async def bind(peer: str) -> None:
        user, password = credentials(ACME, "acme", int(time.time()) + 600)
        async with Relay.allocate(("127.66.0.7", 3478), user, password) as allocation:
            allocation.send(b"hello", (peer, 4000))
            await allocation.receive(timeout_s=1.0)

    with own_server("127.66.0.7", allowed_peers=("127.66.0.0/24",), allow_loopback_peers=True) as driver:
        driver.add_secret(ACME)
        with pytest.raises(Unavailable):  # let through, and nobody answers
            asyncio.run(bind("127.66.0.200"))
        with pytest.raises(Refused):
            asyncio.run(bind("10.2.2.3"))


def test_the_server_tells_nothing_of_itself_and_listens_for_no_commands(server: Path) -> None:
    with contextlib.closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", 5766)) != 0  # coturn's command line
    log = (server.parent / "out.log").read_text()
    assert "CONFIG ERROR" not in log
    assert "Bad configuration" not in log


def test_a_missing_damaged_or_foreign_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Coturn(tmp_path / "none.sqlite", "r").count()
    (tmp_path / "text").write_text("this is no database, and long enough to be taken for one" * 20)
    with pytest.raises(Rejected):
        Coturn(tmp_path / "text", "r").count()
    assert not (tmp_path / "none.sqlite").exists()


def test_a_database_that_this_user_may_not_write_is_no_reason_to_wait(directory: Path) -> None:
    directory.chmod(0o755)
    create_database(directory / "readable.sqlite", mode=0o644)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from controlplane.drivers.turn.coturn import Coturn\n"
        "from controlplane.values.secret import Secret\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: Coturn(Path(sys.argv[1]), 'r').add_secret(Secret('x'))\n"
        "except Exception as error: print(type(error).__name__, error.remedy)\n"
    )
    argv = [sys.executable, "-c", code, str(directory / "readable.sqlite")]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout.startswith("Rejected Put this process's user into the group")


def test_a_locked_database_is_waited_for_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.drivers.turn.coturn.BUSY_TIMEOUT_S", 0.1)
    create_database(tmp_path / "t.sqlite")
    with contextlib.closing(sqlite3.connect(tmp_path / "t.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            Coturn(tmp_path / "t.sqlite", "r").add_secret(ACME)


def test_an_empty_file_gets_the_tables_and_the_making_is_idempotent(tmp_path: Path) -> None:
    (tmp_path / "empty.sqlite").touch()
    assert Coturn(tmp_path / "empty.sqlite", "r").add_secret(ACME)
    assert not create_database(tmp_path / "empty.sqlite")
    assert Coturn(tmp_path / "empty.sqlite", "r").has_secret(ACME)
    assert create_database(tmp_path / "new.sqlite")
    assert (tmp_path / "new.sqlite").stat().st_mode & 0o777 == 0o660


def test_the_schema_is_coturns_own() -> None:
    schema = Path("/usr/share/coturn/schema.sql")
    if not schema.exists():
        pytest.skip("Debian's coturn brings no schema here")

    def columns(script: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.executescript(script)
            names = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY 1")]
            return [(name, *row) for name in names for row in database.execute(f"PRAGMA table_info({name})")]

    assert columns(SCHEMA) == columns(schema.read_text())


@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b"])
def test_a_secret_that_coturn_would_cut_is_refused(driver: Coturn, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        driver.add_secret(Secret(value))
    assert value[:5] == "" or value not in str(refused.value)
