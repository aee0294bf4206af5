"""Clients that write to each other without end, and tell when each message was sent and when it arrived.

Run as ``python -m bench.talker`` inside the network of a host; its plan is one JSON object on standard input:
``{"accounts": [{"jid", "password", "targets": [jid…], "via": [address, port] or null, "at": [address, port] or
null}], "resolver", "roots", "interval_s"}``. ``via``: an instance's own address and base port, dialled as its edge
would (PROXY protocol version 2), for clients that have to stay when the edge's address goes. ``at``: a server that is
dialled there and not where DNS says, for the same reason. Prints JSON lines: ``sent``, ``got``, ``gone`` (a
session that was lost) and ``here`` (one that began), times by the machine's monotonic clock, which all networks share.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import socket
import struct
import sys
import time
from typing import Any

from controlplane.probes.client import ProbeClient, q
from controlplane.probes.lookup import Endpoint, Lookup
from controlplane.values.errors import RoostError
from controlplane.values.secret import Secret

#: PROXY protocol version 2, §2.2: signature, version and command PROXY, TCP over IPv4, length of what follows.
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n" + b"\x21\x11" + struct.pack("!H", 12)


class OnePlace(Lookup):
    """Finds one address whatever is asked."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(None)
        self._address, self._port = address, port

    async def endpoints(self, domain: str, services: Any) -> list[Endpoint]:  # type: ignore[override]  # noqa: ARG002
        return [Endpoint("xmpp-client", domain, self._address, self._port)]


async def relay(address: str, port: int) -> int:
    """A port on loopback that leads to the instance, with the header that its edge would put first."""
    servers: list[asyncio.Server] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_connection(address, port, local_addr=(address, 0))
        ends = ipaddress.ip_address("192.0.2.7").packed + ipaddress.ip_address(address).packed
        far.write(SIGNATURE + ends + struct.pack("!HH", 50000, 5222))
        await asyncio.gather(pipe(reader, far), pipe(near, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, family=socket.AF_INET)
    servers.append(server)
    return int(server.sockets[0].getsockname()[1])


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


async def talk(account: dict[str, Any], plan: dict[str, Any], go_on: asyncio.Event) -> None:
    """One account: always logged in, always writing; what comes in is told."""
    lookup = None
    if account.get("via"):
        lookup = OnePlace("127.0.0.1", await relay(*account["via"]))
    elif account.get("at"):
        lookup = OnePlace(*account["at"])
    own = account["jid"]
    number = 0
    while go_on.is_set():
        client = ProbeClient(
            f"{own}/talker",
            Secret(account["password"]),
            resolver=plan["resolver"],
            trust_roots=account.get("roots") or plan["roots"],
            services=("xmpp-client",),
            timeout_s=5,
            lookup=lookup,
        )
        try:
            await client.connect()
            await client.send_presence()
        except RoostError as error:
            say(what="refused", who=own, at=time.monotonic(), why=str(error))
            await asyncio.sleep(1)
            continue
        say(what="here", who=own, at=time.monotonic())
        try:
            while go_on.is_set():
                number += 1
                for target in account["targets"]:
                    at = time.monotonic()
                    await client.send_message(f"{target}/talker", f"{own} {number} {at}", type="chat")
                    say(what="sent", who=own, to=target, number=number, at=at)
                until = time.monotonic() + plan["interval_s"]
                while (left := until - time.monotonic()) > 0:
                    with contextlib.suppress(RoostError):
                        heard(own, await client.wait_message(timeout_s=left))
        except RoostError:
            say(what="gone", who=own, at=time.monotonic())
        finally:
            await client.close()


def heard(own: str, message: Any) -> None:
    words = (message.findtext(q("body")) or "").split()
    if message.get("type") == "error":
        say(what="bounced", who=own, by=str(message.get("from")), at=time.monotonic())
    elif len(words) == 3:
        say(what="got", who=own, sender=words[0], number=int(words[1]), sent=float(words[2]), at=time.monotonic())


async def main() -> None:
    plan = json.load(sys.stdin)
    go_on = asyncio.Event()
    go_on.set()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, go_on.clear)
    await asyncio.gather(*(talk(account, plan, go_on) for account in plan["accounts"]))


if __name__ == "__main__":
    asyncio.run(main())
