"""A TCP forwarder of the edge's kind for tests: it puts a PROXY protocol v2 header before each connection.

Written from the PROXY protocol's specification (section 2.2). One thread per direction: tests have few
connections. It connects from its own address, so engines can tell it from strangers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from types import TracebackType
from typing import Self

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def header(source: tuple[str, int], destination: tuple[str, int], *, extra: bytes = b"") -> bytes:
    """The v2 header of a proxied TCP connection; ``extra``: TLVs to append."""
    source_ip, destination_ip = ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])
    family = 0x11 if source_ip.version == 4 else 0x21
    body = source_ip.packed + destination_ip.packed + struct.pack("!HH", source[1], destination[1]) + extra
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(body)) + body


class Forwarder:
    """Listens on ``listen`` and forwards to ``target`` with a header. A context manager.

    ``pretend``: the client's address to tell instead of the true one.
    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int], *, pretend: str = "") -> None:
        self.listen, self.target, self.pretend = listen, target, pretend
        self._sockets: list[socket.socket] = []
        self._swallowed: set[socket.socket] = set()
        self._listener = socket.create_server(listen)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def swallow(self) -> int:
        """From now on what the connections of this moment carry vanishes, both ways and without a word; how many.

        That is what a changed address looks like to both ends. New connections are served as ever.
        """
        self._swallowed |= set(self._sockets)
        return len(self._sockets) // 2

    def _accept(self) -> None:
        while True:
            try:
                client, peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, peer), daemon=True).start()

    def _serve(self, client: socket.socket, peer: tuple[str, int]) -> None:
        try:
            server = socket.create_connection(self.target, timeout=10, source_address=(self.listen[0], 0))
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._sockets += [client, server]
        source = (self.pretend or peer[0], peer[1])
        try:
            server.sendall(header(source, self.listen))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        for one in (client, server):
            one.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if sink not in self._swallowed:
                    sink.sendall(data)
        if sink not in self._swallowed:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
