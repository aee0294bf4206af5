"""TURN as a caller uses it: allocations with given credentials, and bytes that really pass through them.

Stands on aioice's client (RFC 8656 over UDP). ``probes.turn`` makes a step of it; the tests of the TURN
server use it as it is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Iterator
from typing import Self, cast

from aioice import stun
from aioice.turn import TurnTransport, create_turn_endpoint

from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.secret import Secret

Address = tuple[str, int]
PAYLOAD_BYTES = 600
#: The server still has an allocation of an earlier client with the same address and port: another port is to be
#: taken (RFC 8656 §7.4), which a new socket does.
ALLOCATION_MISMATCH = 437
ALLOCATE_TRIES = 3


class Refused(Rejected):
    """The TURN server answered with an error; ``code`` is STUN's (401 credentials, 403 peer, 486 quota)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def credentials(secret: Secret, label: str, expiry: int) -> tuple[str, Secret]:
    """User name and password that a shared secret gives until ``expiry`` (Unix seconds): TURN REST API, §2.2."""
    user = f"{expiry}:{label}"
    digest = hmac.new(secret.reveal().encode(), user.encode(), hashlib.sha1).digest()
    return user, Secret(base64.b64encode(digest).decode())


class Relay(asyncio.DatagramProtocol):
    """One allocation. ``received``: what peers sent through it, with the address they sent it from."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Address] | Exception] = asyncio.Queue()
        self._transport: TurnTransport | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def allocate(
        cls, server: Address, user: str, password: Secret, *, timeout_s: float = 5.0
    ) -> AsyncIterator[Self]:
        """Raises ``Refused`` or ``Unavailable``. The allocation is deleted at the end."""
        transport, relay = await cls._create(server, user, password, timeout_s)
        relay._transport = transport
        try:
            yield relay
        finally:
            with contextlib.suppress(TimeoutError, stun.TransactionError, OSError):
                # _close() is what close() starts in the background; here its end has to be seen.
                await asyncio.wait_for(transport._close(), min(timeout_s, 2.0))

    @classmethod
    async def _create(
        cls, server: Address, user: str, password: Secret, timeout_s: float
    ) -> tuple[TurnTransport, Self]:
        for attempt in range(ALLOCATE_TRIES):
            try:
                with _wording(server):
                    return cast(
                        tuple[TurnTransport, Self],
                        await asyncio.wait_for(
                            create_turn_endpoint(cls, server, user, password.reveal(), lifetime=60), timeout_s
                        ),
                    )
            except Refused as error:
                if error.code != ALLOCATION_MISMATCH or attempt == ALLOCATE_TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    @property
    def address(self) -> Address:
        """Where peers reach it."""
        assert self._transport is not None
        return cast(Address, self._transport.get_extra_info("sockname"))

    def send(self, data: bytes, peer: Address) -> None:
        """Binds a channel to the peer first; a refusal of that comes out of ``receive``."""
        assert self._transport is not None
        self._transport.sendto(data, peer)

    async def receive(self, *, timeout_s: float = 5.0) -> tuple[bytes, Address]:
        """The next datagram and its sender. Raises ``Refused`` or ``Unavailable``."""
        assert self._transport is not None
        with _wording(self.address):
            found = await asyncio.wait_for(self.received.get(), timeout_s)
            if isinstance(found, Exception):
                raise found
            return found

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.received.put_nowait(exc)


async def round_trip(server: Address, user: str, password: Secret, *, timeout_s: float = 5.0) -> int:
    """Two allocations send each other random bytes through the server; how many bytes came through unchanged.

    Raises ``Refused``, ``Unavailable`` when nothing arrives, ``Rejected`` when something else arrives.
    """
    async with (
        Relay.allocate(server, user, password, timeout_s=timeout_s) as one,
        Relay.allocate(server, user, password, timeout_s=timeout_s) as two,
    ):
        there, back = os.urandom(PAYLOAD_BYTES), os.urandom(PAYLOAD_BYTES)
        # A permission has to be there before anything comes in (RFC 8656 §9): the first datagram opens it.
        two.send(b"permission", one.address)
        one.send(there, two.address)
        await _expect(two, there, one.address, timeout_s)
        two.send(back, one.address)
        await _expect(one, back, two.address, timeout_s)
        return len(there) + len(back)


async def _expect(relay: Relay, wanted: bytes, sender: Address, timeout_s: float) -> None:
    while True:
        data, from_ = await relay.receive(timeout_s=timeout_s)
        if data == wanted and from_ == sender:
            return
        if data != b"permission":
            raise Rejected(f"The relay at {relay.address[0]} delivered other bytes than were sent.")


@contextlib.contextmanager
def _wording(server: Address) -> Iterator[None]:
    where = f"The TURN server {server[0]}:{server[1]}"
    try:
        yield
    except stun.TransactionFailed as error:
        code, phrase = error.response.attributes.get("ERROR-CODE", (0, ""))
        raise Refused(f"{where} refused: {code} {phrase}.", code=code) from None
    except (TimeoutError, stun.TransactionTimeout):
        raise Unavailable(f"{where} did not answer or relay in time.") from None
    except OSError as error:  # ConnectionError among them: aioice's word for an answer that lacks something
        raise Unavailable(f"{where} cannot be used: {error}.") from None
