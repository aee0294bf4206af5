"""Listeners in the place of instances, and what clients say to an edge."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time

from controlplane.values.names import DomainName
from controlplane.values.spec import SERVICE_OFFSETS

EDGE, ACME, BETA = "127.68.0.1", "127.68.0.11", "127.68.0.12"
BASE = 7000
HOST, OTHER = DomainName("acme.example"), DomainName("beta.example")
PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


class Backends:
    """Listens as an instance does and remembers, per connection, where it came in and what it said."""

    def __init__(self, addresses: list[str]) -> None:
        self.seen: list[tuple[str, int, bytes]] = []
        self.changed = threading.Condition()
        self.sockets = []
        for address in addresses:
            for port in [*(BASE + o for o in SERVICE_OFFSETS.values()), 20001]:
                listener = socket.create_server((address, port))
                self.sockets.append(listener)
                threading.Thread(target=self._serve, args=(listener, address, port), daemon=True).start()

    def _serve(self, listener: socket.socket, address: str, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._read, args=(connection, address, port), daemon=True).start()

    def _read(self, connection: socket.socket, address: str, port: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            data = connection.recv(65536)
            if data.startswith(PROXY_V2) and len(data) == 16 + struct.unpack("!H", data[14:16])[0]:
                data += connection.recv(65536)  # the edge may send the header by itself
            with self.changed:
                self.seen.append((address, port, data))
                self.changed.notify_all()
            connection.sendall(b"welcome to " + address.encode())
            while connection.recv(65536):
                connection.sendall(b"still " + address.encode())

    def next(self) -> tuple[str, int, bytes]:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.seen), timeout=5), "no connection reached a backend"
            return self.seen.pop(0)


def talk(port: int, *chunks: bytes) -> bytes:
    """What the edge lets through, or b"" if it closed."""
    with socket.create_connection((EDGE, port), timeout=4) as connection:
        for number, chunk in enumerate(chunks):
            if number:
                time.sleep(0.1)
            connection.sendall(chunk)
        with contextlib.suppress(ConnectionError):
            return connection.recv(1000)
    return b""


def header(to: str, *, quote: str = "'", before: str = "<?xml version='1.0'?>") -> bytes:
    return (
        f"{before}<stream:stream xmlns={quote}jabber:client{quote} version={quote}1.0{quote}\n"
        f" to={quote}{to}{quote} xmlns:stream={quote}http://etherx.jabber.org/streams{quote}>"
    ).encode()


def client_hello(name: str, alpn: list[str]) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()
