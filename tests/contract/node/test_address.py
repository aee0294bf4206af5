"""What a machine is seen by: a real coturn answers its STUN questions, a real web server its questions for an echo."""

from __future__ import annotations

import http.server
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.drivers.node import far
from controlplane.drivers.node.far import address
from controlplane.drivers.node.lines import LocalLine
from tests.servers.coturn import coturn, turn_config

pytestmark = pytest.mark.servers

STUN, SILENT, LIAR = "127.67.1.1", "127.67.1.2", "127.67.1.3"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="stun", dir="/tmp"))
    directory.chmod(0o755)
    with coturn(directory, turn_config(directory, STUN, allow_loopback_peers=True)):
        yield f"{STUN}:3478"
    shutil.rmtree(directory)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"/text": "127.0.0.1\n", "/json": '{"ip": "127.0.0.1"}', "/six": "2001:db8::1"}.get(self.path, "<html>")
        self.send_response(503 if self.path == "/broken" else 200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with http.server.ThreadingHTTPServer((LIAR, 0), Page) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://{LIAR}:{web.server_port}"
        web.shutdown()


def ask(**argument: Any) -> Any:
    question = {"stun": [], "echo": [], "timeout_s": 1.0, "unless": [], **argument}
    return LocalLine("here").ask(far.source("address"), question)


def of(said: Any, source: str) -> Any:
    [found] = [one for one in said["sources"] if one["source"] == source]
    return found


def test_a_stun_server_says_by_which_address_it_sees_us(server: str) -> None:
    said = ask(stun=[server])
    assert said["sources"] == [{"source": f"stun:{server}", "family": 4, "address": "127.0.0.1"}]


def test_over_ipv6_too() -> None:
    directory = Path(tempfile.mkdtemp(prefix="stun", dir="/tmp"))
    directory.chmod(0o755)
    try:
        with coturn(directory, turn_config(directory, "127.67.1.4", listening_ips=("127.67.1.4", "::1"), port=34790)):
            said = ask(stun=["[::1]:34790"])
        assert said["sources"] == [{"source": "stun:[::1]:34790", "family": 6, "address": "::1"}]
    finally:
        shutil.rmtree(directory)


def test_one_that_is_silent_keeps_nobody_from_being_heard(server: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        plug.bind((SILENT, 3478))
        said = ask(stun=[server, f"{SILENT}:3478"])
    assert of(said, f"stun:{server}")["address"] == "127.0.0.1"
    assert of(said, f"stun:{SILENT}:3478")["error"] == "no answer"


def test_an_answer_to_another_question_is_not_taken(server: str) -> None:
    """Who does not see the question cannot guess its transaction (RFC 8489 §16.1.2)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        plug.bind((LIAR, 3479))

        def lie() -> None:
            _, where = plug.recvfrom(2048)
            value = struct.pack("!HHI", 1, 1, 0xC6336407)
            body = struct.pack("!HH", address.MAPPED, len(value)) + value
            head = struct.pack("!HHI", address.SUCCESS, len(body), address.COOKIE)
            plug.sendto(head + b"x" * 12 + body, where)

        threading.Thread(target=lie, daemon=True).start()
        said = ask(stun=[f"{LIAR}:3479"])
    assert "address" not in of(said, f"stun:{LIAR}:3479")


def test_pages_say_it_as_text_or_json_and_anything_else_is_an_error(pages: str) -> None:
    urls = [f"{pages}/{name}" for name in ("text", "json", "six", "broken", "html")]
    said = ask(echo=urls)
    answers = {url.rpartition("/")[2]: of(said, f"echo:{url}").get("address") for url in urls}
    assert answers == {"text": "127.0.0.1", "json": "127.0.0.1", "six": None, "broken": None, "html": None}


def test_a_machine_that_has_its_addresses_asks_nobody(server: str) -> None:
    own = ask()["interfaces"]
    every = [*own["4"], *own["6"]]
    assert every
    assert ask(stun=[server], unless=every)["sources"] == []
    assert len(ask(stun=[server], unless=[*every, "198.51.100.1"])["sources"]) == 1


def test_old_servers_and_nonsense() -> None:
    value = struct.pack("!HHI", 1, 1, 0xC6336407)
    body = struct.pack("!HH", address.MAPPED, 8) + value
    head = struct.pack("!HHI", address.SUCCESS, len(body), address.COOKIE) + b"t" * 12
    assert address.mapped(head + body) == "198.51.100.7"
    refusal = struct.pack("!HHI", 0x0111, 0, address.COOKIE) + b"t" * 12
    for bad in (refusal, head, head + body[:-1], head[:2] + b"\x00\x00" + head[4:]):
        with pytest.raises(ValueError):
            address.mapped(bad)
