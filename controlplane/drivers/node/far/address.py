"""Which addresses a machine has, and which the world sees it by. Runs on the machine itself and changes nothing.

Asks STUN servers (RFC 8489 §2, a Binding over UDP) and echo URLs over each family at the same time. Who is right is
judged elsewhere.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

COOKIE = 0x2112A442
BINDING, SUCCESS = 0x0001, 0x0101
MAPPED, XOR_MAPPED = 0x0001, 0x0020
#: A question is sent again after these pauses (RFC 8489 §6.2.1 begins with 500 ms; an answer takes tens of them).
PAUSES_S = (0.25, 0.5, 1.0, 2.0)
#: When most have answered, the others get this much more.
GRACE_S = 0.25
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def main(argument: dict[str, Any]) -> dict[str, Any]:
    """``{"stun": ["host:port"], "echo": [URLs], "timeout_s", "unless"}`` -> ``{"interfaces", "sources", "took_s"}``.

    If the machine has all of the addresses ``unless`` (and there are some), nobody else is asked. ``interfaces``:
    {"4": [...], "6": [...]}, those of global scope that are there to stay. ``sources``: a list of {"source", "family",
    "address" or "error"}; who did not answer in time has the error "no answer".
    """
    began = time.monotonic()
    limit_s = float(argument.get("timeout_s", 2.5))
    interfaces = own()
    wanted = set(argument.get("unless", []))
    if wanted and wanted <= {*interfaces["4"], *interfaces["6"]}:
        return {"interfaces": interfaces, "sources": [], "took_s": round(time.monotonic() - began, 3)}
    questions: list[tuple[str, int, Callable[[str, int, float], str], str]] = []
    for family in FAMILIES:
        questions += [("stun:" + one, family, stun, one) for one in argument["stun"] if _has(split(one, 0)[0], family)]
        questions += [("echo:" + one, family, echo, one) for one in argument["echo"] if _has(_host(one), family)]
    answers: list[dict[str, Any] | None] = [None] * len(questions)

    def ask(index: int) -> None:
        source, family, how, where = questions[index]
        try:
            answers[index] = {"source": source, "family": family, "address": how(where, family, limit_s)}
        except (OSError, ValueError, http.client.HTTPException) as error:
            answers[index] = {"source": source, "family": family, "error": str(error)[:200] or type(error).__name__}

    for index in range(len(questions)):
        threading.Thread(target=ask, args=(index,), daemon=True).start()
    _wait(answers, began + limit_s)
    said = [
        answer or {"source": source, "family": family, "error": "no answer"}
        for answer, (source, family, _, _) in zip(list(answers), questions)  # noqa: B905  (Python 3.9 knows no strict)
    ]
    return {"interfaces": interfaces, "sources": said, "took_s": round(time.monotonic() - began, 3)}


def _wait(answers: list[dict[str, Any] | None], end: float) -> None:
    most_at = None
    while time.monotonic() < end:
        there = sum(answer is not None for answer in list(answers))
        if there == len(answers):
            return
        if most_at is None and there * 3 >= len(answers) * 2:
            most_at = time.monotonic()
        if most_at is not None and time.monotonic() - most_at > GRACE_S:
            return
        time.sleep(0.01)


def own() -> dict[str, list[str]]:
    """Addresses of the interfaces that are up: global, and neither temporary nor on their way out."""
    found: dict[str, list[str]] = {"4": [], "6": []}
    try:
        done = subprocess.run(
            ["ip", "-j", "address", "show", "up"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5
        )
        links = json.loads(done.stdout.decode() or "[]")
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return found
    for link in links:
        for one in link.get("addr_info", []):
            unsteady = any(one.get(flag) for flag in ("temporary", "deprecated", "tentative", "dadfailed"))
            if one.get("scope") == "global" and "local" in one and not unsteady:
                found["4" if one.get("family") == "inet" else "6"].append(one["local"])
    return found


def stun(where: str, family: int, limit_s: float) -> str:
    """The address that this server sees us by. ``OSError`` if it does not answer, ``ValueError`` for nonsense."""
    host, port = split(where, 3478)
    place = socket.getaddrinfo(host, port, FAMILIES[family], socket.SOCK_DGRAM)[0][4]
    transaction = os.urandom(12)
    question = struct.pack("!HHI", BINDING, 0, COOKIE) + transaction
    end = time.monotonic() + limit_s
    with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as plug:
        plug.connect(place)  # so that only this server's answers come in
        for pause_s in PAUSES_S:
            plug.send(question)
            until = min(end, time.monotonic() + pause_s)
            while time.monotonic() < until:
                plug.settimeout(max(0.01, until - time.monotonic()))
                try:
                    said = plug.recv(2048)
                except TimeoutError:
                    break
                if said[4:20] == question[4:20]:
                    return mapped(said)
    raise OSError("no answer")


def mapped(said: bytes) -> str:
    """The XOR-MAPPED-ADDRESS of a success (RFC 8489 §14.2), or an old server's MAPPED-ADDRESS."""
    kind, length = struct.unpack("!HH", said[:4])
    if kind != SUCCESS or length != len(said) - 20:
        raise ValueError("it refuses")
    plain, at = "", 20
    while at + 4 <= len(said):
        name, size = struct.unpack("!HH", said[at : at + 4])
        value = said[at + 4 : at + 4 + size]
        if name in (MAPPED, XOR_MAPPED) and len(value) in (8, 20):
            packed = value[4:]
            if name == XOR_MAPPED:
                pairs = zip(packed, said[4:20])  # noqa: B905
                return str(ipaddress.ip_address(bytes(a ^ b for a, b in pairs)))
            plain = str(ipaddress.ip_address(packed))
        at += 4 + size + (-size % 4)
    if not plain:
        raise ValueError("its answer names no address")
    return plain


def echo(url: str, family: int, limit_s: float) -> str:
    """The address that this page says we come from: as text, or as JSON's "address" or "ip"."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    place = socket.getaddrinfo(host, port, FAMILIES[family], socket.SOCK_STREAM)[0][4]
    link = http.client.HTTPConnection(host, port, timeout=limit_s)
    plug = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
    try:
        plug.settimeout(limit_s)
        plug.connect(place)
        link.sock = ssl.create_default_context().wrap_socket(plug, server_hostname=host) if tls else plug
        link.request("GET", (parts.path or "/") + ("?" + parts.query if parts.query else ""))
        answer = link.getresponse()
        text = answer.read(2000).decode("utf-8", "replace").strip()
        if answer.status != 200:
            raise ValueError(f"it answers {answer.status}")
    finally:
        link.close()
        plug.close()
    if text.startswith("{"):
        told = json.loads(text)
        text = str(told.get("address") or told.get("ip") or "")
    address = ipaddress.ip_address(text)
    if address.version != family:
        raise ValueError("it names an address of the other family")
    return str(address)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _has(host: str, family: int) -> bool:
    """False for an address of the other family; a name may have both."""
    try:
        return ipaddress.ip_address(host).version == family
    except ValueError:
        return True


def split(where: str, port: int) -> tuple[str, int]:
    """``host:port``, ``[IPv6]:port``, or without the port."""
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        return host, int(rest.lstrip(":") or port)
    host, _, rest = where.partition(":")
    return host, int(rest or port)
