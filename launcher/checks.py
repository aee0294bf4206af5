"""Does a program do its work? One small question each, asked as its clients would ask, with a short time-out.

All return True or False, or raise ``OSError`` for "not now"; waiting and judging is left to the callers.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_S = 3.0


def tcp(address: str, port: int) -> bool:
    with socket.create_connection((address, port), timeout=TIMEOUT_S):
        return True


def unix_socket(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        return True


def redis(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


def healthy(path: Path) -> bool:
    """A process of the control plane says at its unix socket that it does what it is for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return connection.recv(64).split(b" ")[1:2] == [b"200"]


def dns(server: str, name: str) -> bool:
    """The server answers a question for this name's A records over UDP, with or without data (RFC 1035 §4)."""
    id = secrets.randbits(16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    question = struct.pack(">HHHHHH", id, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect((server, 53))
        connection.send(question)
        answer = connection.recv(4096)
    found_id, flags = struct.unpack(">HH", answer[:4])
    return found_id == id and flags & 0x000F in (0, 3)


def http_ok(url: str, headers: dict[str, str] | None = None, ca_file: Path | None = None) -> bool:
    try:
        get_json_or_text(url, headers, ca_file)
    except urllib.error.HTTPError:
        return False
    except http.client.HTTPException:
        return False
    return True


def get_json_or_text(url: str, headers: dict[str, str] | None = None, ca_file: Path | None = None) -> Any:
    """The body, parsed if it is JSON. Never through a proxy: these are this machine's own addresses."""
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=TIMEOUT_S) as answer:
        body = answer.read().decode(errors="replace")
    try:
        return json.loads(body)
    except ValueError:
        return body
