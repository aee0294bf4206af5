"""A web server on loopback that takes posts and keeps them, for what sends webhooks."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Receiver:
    """``status``, ``headers``: what it answers; ``drip_s``: seconds between the bytes of its answer."""

    port: int = 0
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0.0
    bodies: list[bytes] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?a=1"


@contextmanager
def receiver(address: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            box.connections += 1
            super().setup()

        def do_POST(self) -> None:
            box.seen.append({**{k.lower(): v for k, v in self.headers.items()}, ":path": self.path})
            box.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            if box.drip_s:
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
                    self.wfile.write(bytes([byte]))
                    time.sleep(box.drip_s)
                return
            self.send_response(box.status)
            for name, value in box.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass  # a sender that goes away is no fault of the receiver

    server = Server((address, 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    box.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield box
    finally:
        server.shutdown()
        server.server_close()
