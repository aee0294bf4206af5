"""Network namespaces for tests of the edge: machines with addresses of their own, and sockets made inside them."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Namespaces:
    """A context manager: machines joined by one cable each; gone at its end, with all that was in them."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __enter__(self) -> Namespaces:
        self.__exit__()  # those that a killed run left
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=20).stdout.split()
        for name in self.names:
            if name in there:
                ip("netns", "del", name)

    def run(self, name: str, *words: str) -> None:
        ip("netns", "exec", name, *words)

    def join(self, one: str, other: str) -> None:
        """A cable: the interface ``to-<other>`` in one, ``to-<one>`` in the other."""
        ip("link", "add", f"to-{other}", "netns", one, "type", "veth", "peer", "name", f"to-{one}", "netns", other)
        for here, there in ((one, other), (other, one)):
            ip("-n", here, "link", "set", f"to-{there}", "up")

    def address(self, name: str, address: str, device: str) -> None:
        ip("-n", name, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    def route(self, name: str, *words: str) -> None:
        ip("-n", name, *(["-6"] if any(":" in w for w in words) else []), "route", "add", *words)


def within(name: str, make: Callable[[], Made]) -> Made:
    """What ``make`` gives in that namespace: a socket stays in the namespace that it was made in."""
    made: list[Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        handle = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            if _libc.setns(handle, CLONE_NEWNET) != 0:  # this thread alone
                raise OSError(ctypes.get_errno(), f"setns {name}")
            made.append(make())
        except BaseException as error:  # noqa: BLE001
            failed.append(error)
        finally:
            os.close(handle)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def listen(name: str, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return within(name, lambda: socket.create_server((address, port), family=family))


def connect(name: str, address: str, port: int, source: str = "") -> socket.socket:
    near = (source, 0) if source else None
    return within(name, lambda: socket.create_connection((address, port), timeout=5, source_address=near))
