"""Many DNS questions to one resolver over one socket: what a round over thousands of names needs.

Without a cache of its own, so that a record that is gone is seen as soon as the resolver sees it. ``lookup`` is for a
client's careful walk; this is for looks that have to cost next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from controlplane.probes.recordsets import Server
from controlplane.values.errors import Unavailable

#: A question is put again after so many seconds; the last wait ends it.
WAITS_S = (0.7, 1.3, 2.0)
#: So many questions go through one socket; then another port is taken, which nobody can have guessed.
PER_SOCKET = 4000


class NoAnswer(Unavailable):
    """The resolver itself says nothing at all."""


class ServerFailed(Unavailable):
    """The resolver answers, and cannot find out: the name servers behind it are in trouble (SERVFAIL mostly)."""


class _Socket(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: dict[int, tuple[asyncio.Future[dns.message.Message], dns.message.QueryMessage]] = {}
        self.transport: asyncio.DatagramTransport | None = None
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002  # asyncio's
        if len(data) < 12:
            return
        found = self.waiting.get(int.from_bytes(data[:2], "big"))
        if found is None or found[0].done():
            return
        try:
            answer = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return  # not worth an end: the question is put again
        if found[1].is_response(answer):
            found[0].set_result(answer)

    def error_received(self, exc: Exception) -> None:
        """ICMP says that nobody listens: the wait goes on, since that is how a resolver looks that is restarted."""


class Asker:
    """Questions to the resolver at ``server`` (address, port), from within one event loop."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._socket: _Socket | None = None

    async def ask(self, name: str, type: str) -> list[Any]:
        """The rdata of one set, CNAMEs followed; empty if there is none. Raises ``NoAnswer``, ``ServerFailed``."""
        answer = await self._exchange(name, type)
        shown = f"{self.server[0]}:{self.server[1]}"
        rcode = answer.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise ServerFailed(
                f"The resolver {shown} answers {dns.rcode.to_text(rcode)} for {name} {type}.",
                remedy="Check the zone's name servers.",
            )
        wanted = dns.rdatatype.from_text(type)
        return [rdata for rrset in answer.answer if rrset.rdtype == wanted for rdata in rrset]

    def close(self) -> None:
        if self._socket is not None and self._socket.transport is not None:
            self._socket.transport.close()
        self._socket = None

    async def _exchange(self, name: str, type: str) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        failure: BaseException | None = None
        for wait_s in WAITS_S:
            future: asyncio.Future[dns.message.Message] = loop.create_future()
            question = dns.message.make_query(name + ".", type, id=secrets.randbits(16), use_edns=0, payload=1232)
            socket: _Socket | None = None
            try:
                socket = await self._open()
                while question.id in socket.waiting:
                    question.id = secrets.randbits(16)
                socket.waiting[question.id] = (future, question)
                assert socket.transport is not None
                socket.transport.sendto(question.to_wire())
                async with asyncio.timeout(wait_s):
                    answer = await future
            except (TimeoutError, OSError) as error:
                failure = error
                if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                    await asyncio.sleep(wait_s)
                continue
            finally:
                if socket is not None:
                    socket.waiting.pop(question.id, None)
            if answer.flags & dns.flags.TC:
                with contextlib.suppress(dns.exception.DNSException, OSError, EOFError):
                    return await dns.asyncquery.tcp(question, self.server[0], port=self.server[1], timeout=wait_s)
                continue
            return answer
        raise NoAnswer(
            f"The resolver {self.server[0]}:{self.server[1]} gave no answer for {name} {type}.",
            remedy="Check that it runs and can be reached from here.",
        ) from failure

    async def _open(self) -> _Socket:
        current = self._socket
        if current is not None and current.asked < PER_SOCKET and current.transport is not None:
            current.asked += 1
            return current
        _, made = await asyncio.get_running_loop().create_datagram_endpoint(_Socket, remote_addr=self.server)
        # Another task may have been as fast; then its socket ends when it is garbage, and this one is used.
        self._socket = made
        if current is not None and current.transport is not None:
            asyncio.get_running_loop().call_later(sum(WAITS_S), current.transport.close)
        return made
