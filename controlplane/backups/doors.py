"""A way in to an engine as a client: a local port that leads, over the line to its node, to the address it listens on.

The far end comes from the engine's own address and says so in a PROXY header; a scratch lets in nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controlplane.backups.sites import Site
from controlplane.drivers.node.lines import ENVIRONMENT

#: On the node: connects from the engine's own address, then carries bytes both ways until either side ends.
_CARRY = """\
import os, select, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
there = socket.create_connection((address, port), timeout=10, source_address=(address, 0))
there.settimeout(None)
# PROXY protocol v2, command LOCAL: whoever connects speaks for itself.
there.sendall(b"\\r\\n\\r\\n\\0\\r\\nQUIT\\n\\x20\\0\\0\\0")
while True:
    ready, _, _ = select.select([0, there], [], [])
    if 0 in ready:
        data = os.read(0, 65536)
        if not data:
            break
        there.sendall(data)
    if there in ready:
        data = there.recv(65536)
        if not data:
            break
        while data:
            data = data[os.write(1, data):]
"""


@asynccontextmanager
async def door(site: Site, port: int) -> AsyncIterator[tuple[str, int]]:
    """(address, port) here that leads to ``port`` of the engine. Many connections may go through it."""
    await asyncio.to_thread(site.line.open)
    argv = site.line.command(["python3", "-I", "-c", _CARRY, site.address, str(port)])
    carriers: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        carriers.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # the door is closed: whoever waits for it needs no error
            await through(reader, writer)
        carriers.discard(task)

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(ENVIRONMENT),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ways = [
            asyncio.ensure_future(_copy(reader, process.stdin)),
            asyncio.ensure_future(_copy(process.stdout, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        host, number = server.sockets[0].getsockname()[:2]
        yield host, number
    finally:
        server.close()
        for carrier in tuple(carriers):
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
