"""What a kernel says of dead connections and of changed addresses, in two networks that are joined by a cable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from controlplane.drivers.node import far, streams
from controlplane.drivers.node.lines import LocalLine

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables"),
]

HERE, THERE, LIMIT_S = "198.18.201.1", "198.18.201.2", 20.0
PEER = f"""
import socket, threading
server = socket.create_server(("{THERE}", 5269))
print("ready", flush=True)
while True:
    taken, _ = server.accept()
    read = lambda c: [None for _ in iter(lambda: c.recv(4096), b"")]
    threading.Thread(target=read, args=(taken,), daemon=True).start()
"""
#: A user's process: a connection into which it writes a line for each that it reads, one that is idle but kept alive
#: if it was told so, and a port that it serves.
ENGINE = f"""
import os, socket, sys
os.setuid(65534)
out = socket.create_connection(("{THERE}", 5269))
if sys.argv[1] == "alive":
    for level, option, value in ((1, 9, 1), (6, 4, 1), (6, 5, 1), (6, 6, 9)):
        out.setsockopt(level, option, value)
print(out.getsockname()[1], flush=True)
for line in sys.stdin:
    out.send(line.encode())
"""
CLIENT = """
import os, socket, sys
os.setuid(65534)
server = socket.create_server(("198.18.201.1", 5222))
print("ready", flush=True)
taken, _ = server.accept()
print("taken", flush=True)
for line in sys.stdin:
    taken.send(line.encode())
"""


@dataclass
class Network:
    """Two processes that hold a network each."""

    here: int
    there: int
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def inside(self, pid: int, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *argv]

    def run(self, pid: int, *argv: str) -> None:
        subprocess.run(self.inside(pid, *argv), check=True, capture_output=True)

    def start(self, pid: int, source: str, *argv: str) -> subprocess.Popen[str]:
        """A Python process there, once it has said its first line (``said``)."""
        process = subprocess.Popen(
            self.inside(pid, "/usr/bin/python3", "-I", "-u", "-c", source, *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def hole(self) -> None:
        """The other side drops what it gets, and says nothing."""
        self.run(
            self.there, "nft", "add table ip h; add chain ip h i { type filter hook input priority 0; policy drop; }"
        )

    def heal(self) -> None:
        self.run(self.there, "nft", "delete table ip h")


@pytest.fixture
def network() -> Iterator[Network]:
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "300"]) for _ in range(2)]
    made = Network(*(holder.pid for holder in holders))
    try:
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: all(os.readlink(f"/proc/{h.pid}/ns/net") != own for h in holders))
        made.run(
            made.here, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(made.there)
        )
        for pid, device, address in ((made.here, "near", HERE), (made.there, "far", THERE)):
            made.run(pid, "ip", "link", "set", "lo", "up")
            made.run(pid, "ip", "address", "add", f"{address}/24", "dev", device)
            made.run(pid, "ip", "link", "set", device, "up")
        yield made
    finally:
        for process in [*made.processes, *holders]:
            process.kill()
            process.wait()


class Inside(LocalLine):
    """A line into one of the networks."""

    def __init__(self, network: Network) -> None:
        super().__init__("near")
        self.network = network

    def command(self, argv: Any) -> list[str]:
        return self.network.inside(self.network.here, *argv)


QUESTION = {"prefix": "nobody", "every_s": 0.5, "stuck_s": 2.0, "retransmits": 3, "probes": 2, "silence_s": 60.0}


def wait_for(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := done():
                return found
        time.sleep(0.05)
    raise AssertionError("it never came")


class Heard:
    """Listens; ``news`` is what was said, in order."""

    def __init__(self, network: Network) -> None:
        self.line = Inside(network)
        self.news: list[dict[str, Any]] = []

    async def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            seen = 0
            while True:
                while seen < len(self.news):
                    seen += 1
                    if done(self.news[seen - 1]):
                        return self.news[seen - 1]
                await asyncio.sleep(0.05)

    async def run(self, what: Callable[[Heard], Any]) -> None:
        task = asyncio.create_task(streams.listen(self.line, far.source("sockets"), QUESTION, self.news.append))
        try:
            await self.until(lambda one: one["type"] == "addresses")
            await what(self)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def test_a_connection_that_is_written_into_in_vain_is_told_and_so_is_its_recovery(network: Network) -> None:
    said(network.start(network.there, PEER))
    engine = network.start(network.here, ENGINE, "plain")
    port = int(said(engine))

    async def story(heard: Heard) -> None:
        write(engine, "this arrives")
        await asyncio.sleep(2)
        assert [one["type"] for one in heard.news] == ["addresses"]  # nothing is said while nothing is wrong
        network.hole()
        write(engine, "and this does not")
        told = await heard.until(lambda one: one["type"] == "suspect")
        assert (told["user"], told["timer"]) == ("nobody", "retransmit")
        assert (told["local"], told["remote"]) == ([HERE, port], [THERE, 5269])
        assert told["queued"] == len("and this does not\n")
        assert told["count"] >= 1
        network.heal()
        well = await heard.until(lambda one: one["type"] == "well")
        assert well["local"] == [HERE, port]

    asyncio.run(Heard(network).run(story))


def test_an_idle_connection_with_keepalives_is_told_though_nobody_writes(network: Network) -> None:
    said(network.start(network.there, PEER))
    engine = network.start(network.here, ENGINE, "alive")
    said(engine)

    async def story(heard: Heard) -> None:
        network.hole()
        told = await heard.until(lambda one: one["type"] == "suspect")
        assert (told["timer"], told["queued"]) == ("keepalive", 0)
        # What is written then starts another timer, which says nothing yet: the connection is not well for that.
        write(engine, "is anybody there?")
        await asyncio.sleep(2)
        assert {one["type"] for one in heard.news} == {"addresses", "suspect"}
        engine.kill()
        await heard.until(lambda one: one["type"] == "gone")

    asyncio.run(Heard(network).run(story))


def test_a_client_that_went_away_is_nobodys_link(network: Network) -> None:
    """Whoever came to a port that is served is not told of: a telephone in a tunnel looks just like it."""
    server = network.start(network.here, CLIENT)
    said(server)
    connect = f"import socket, sys; c = socket.create_connection(('{HERE}', 5222)); print('ready'); sys.stdin.read()"
    said(network.start(network.there, connect))
    said(server)
    said(network.start(network.there, PEER))
    engine = network.start(network.here, ENGINE, "plain")
    said(engine)

    async def story(heard: Heard) -> None:
        network.hole()
        write(server, "to the client")
        await asyncio.sleep(1)
        write(engine, "to the peer")
        told = await heard.until(lambda one: one["type"] == "suspect")
        assert told["remote"] == [THERE, 5269]
        assert [one for one in heard.news if one["type"] == "suspect"] == [told]

    asyncio.run(Heard(network).run(story))


def test_addresses_are_told_when_they_change(network: Network) -> None:
    async def story(heard: Heard) -> None:
        assert heard.news[0] == {"type": "addresses", "4": [HERE], "6": []}
        network.run(network.here, "ip", "address", "add", "198.18.201.77/24", "dev", "near")
        network.run(network.here, "ip", "-6", "address", "add", "2001:db8:c9::77/64", "dev", "near")
        # An IPv6 address that nobody has tried for duplicates yet is none.
        told = await heard.until(lambda one: one["6"] == ["2001:db8:c9::77"])
        assert told["4"] == [HERE, "198.18.201.77"]
        network.run(network.here, "ip", "address", "delete", "198.18.201.77/24", "dev", "near")
        last = await heard.until(lambda one: one["4"] == [HERE] and bool(one["6"]))
        assert last["6"] == ["2001:db8:c9::77"]

    asyncio.run(Heard(network).run(story))
