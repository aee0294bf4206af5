"""Starts a real coturn with the configuration that Roost renders, in the foreground, on a loopback address."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from controlplane.drivers.turn.config import TurnServerConfig, render_turnserver_conf
from controlplane.drivers.turn.database import create_database


def turn_config(directory: Path, address: str, **changes: object) -> TurnServerConfig:
    """A server of a test: database and pid file in ``directory``, few relay ports."""
    values: dict[str, object] = {
        "listening_ips": (address,),
        "realm": "turn.example",
        "database": str(directory / "turn.sqlite"),
        "pidfile": str(directory / "turn.pid"),
        "min_relay_port": 49160,
        "max_relay_port": 49260,
        **changes,
    }
    return TurnServerConfig(**values)  # type: ignore[arg-type]


@contextlib.contextmanager
def coturn(directory: Path, config: TurnServerConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Runs until the block ends; its words are in ``directory/out.log``."""
    create_database(Path(config.database))
    (directory / "turnserver.conf").write_text(render_turnserver_conf(config))
    with (directory / "out.log").open("wb") as log:
        process = subprocess.Popen(
            ["turnserver", "-c", str(directory / "turnserver.conf")],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(process, config, directory / "out.log")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait(process: subprocess.Popen[bytes], config: TurnServerConfig, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex((config.listening_ips[0], config.port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"coturn did not start: {log.read_text(errors='replace')[-2000:]}")
