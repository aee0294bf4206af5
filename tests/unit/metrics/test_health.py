"""A process without a web server says whether it does what it is for, at an address or a socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import observing
from controlplane.metrics import health


@pytest.fixture(autouse=True)
def _no_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "_beats", {})


@pytest.fixture(params=["unix", "tcp"])
def place(request, tmp_path: Path) -> Iterator[str]:
    where = f"unix:{tmp_path}/h.sock" if request.param == "unix" else "127.0.0.1:0"
    server = health.listen(where)
    try:
        yield where if request.param == "unix" else f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def ask(place: str, path: str) -> tuple[int, dict[str, object]]:
    if place.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place.removeprefix("unix:"))
    else:
        host, _, port = place.rpartition(":")
        connection = socket.create_connection((host, int(port)))
    with connection:
        connection.settimeout(20)
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while more := connection.recv(4096):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_what_goes_round_is_well(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(place, "/healthz") == (200, {"status": "starting"})
    observing.beat("loop")
    status, body = ask(place, "/healthz")
    assert (status, body["status"]) == (200, "ok")
    monkeypatch.setattr(health, "LATE_S", -1.0)
    status, body = ask(place, "/healthz")
    assert (status, body["status"]) == (503, "hangs")


def test_what_never_came_round_hangs(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "START_S", -1.0)
    assert ask(place, "/healthz") == (503, {"status": "hangs"})


def test_ready_is_what_it_works_with(place: str, settings) -> None:
    settings.CELERY_BROKER_URL = "redis+socket:///nowhere/redis.sock"
    settings.DATABASES["default"]["HOST"] = "/nowhere"
    status, body = ask(place, "/readyz")
    assert status == 503
    assert body["status"] == "unavailable"
    assert body["broker"] != "ok"


def test_nothing_else_is_there(place: str) -> None:
    assert ask(place, "/metrics")[0] == 404


def test_a_socket_that_was_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    server = health.listen(f"unix:{path}")
    try:
        assert ask(f"unix:{path}", "/healthz")[0] == 200
        with pytest.raises(OSError, match="in use"):
            health.listen(f"unix:{path}")
    finally:
        server.shutdown()
        server.server_close()
