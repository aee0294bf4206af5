"""Does this prober itself see the world, and what time is it? Asked before any failure counts.

References are things that are reached independently of any tenant: the resolver, the CA, other machines' edges, or what
the operator names. If none of them is reached the prober is cut off; if most clocks disagree with its own, its is off.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controlplane.probes.ask import Asker, NoAnswer, ServerFailed
from controlplane.probes.clock import describe
from controlplane.probes.quick import date_off_s
from controlplane.probes.recordsets import Server

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Reference:
    """``kind``: "dns" (the resolver is asked for ``host``), "tcp" or "web" (HTTPS, whose Date is read)."""

    kind: str
    host: str
    port: int = 0
    path: str = "/"

    def __str__(self) -> str:
        return "the resolver" if self.kind == "dns" else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a look at the references said. ``off_s``: this machine's clock is ahead by that much, if it is off."""

    cut_off: bool = False
    off_s: float = 0.0
    message: str = ""

    @property
    def may_judge(self) -> bool:
        return not self.cut_off and not self.off_s


def parse(text: str) -> Reference:
    """``host:port`` (IPv6 in brackets) as ROOST_PROBE_REFERENCES has it. Raises ``ValueError``."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None:
        raise ValueError(f"{text!r} is no address:port.")
    return Reference("tcp", parts.hostname, parts.port)


def of_url(url: str) -> Reference:
    parts = urlsplit(url)
    return Reference("web", parts.hostname or "", parts.port or 443, parts.path or "/")


class References:
    """``ca_file``: PEM roots for "web" references, empty for the system's."""

    def __init__(
        self, references: Sequence[Reference], resolver: Server, *, ca_file: str = "", clock_s: float = 60.0
    ) -> None:
        self.references = tuple(references)
        self._asker = Asker(resolver)
        self._clock_s = clock_s
        roots = Path(ca_file).read_text() if ca_file else None
        self._context = ssl.create_default_context(cadata=roots)
        self._lock = asyncio.Lock()
        self._standing = Standing()
        self._looked_at = float("-inf")
        #: How far the database's clock is ahead of ours, in seconds; None while it is not reached.
        self.database_off_s: float | None = None

    async def standing(self, *, max_age_s: float) -> Standing:
        """The last look, or a new one if that is older; several that ask at once share one."""
        async with self._lock:
            if asyncio.get_running_loop().time() - self._looked_at > max_age_s:
                self._standing = await self._look()
                self._looked_at = asyncio.get_running_loop().time()
            return self._standing

    def close(self) -> None:
        self._asker.close()

    async def _look(self) -> Standing:
        found = await asyncio.gather(*(self._ask(reference) for reference in self.references))
        offs = [off for reached, off in found if reached and off is not None]
        if self.references and not any(reached for reached, _ in found):
            names = ", ".join(str(reference) for reference in self.references)
            return Standing(True, 0.0, f"None of its references is reached: {names}.")
        return self._by_clocks(offs)

    def _by_clocks(self, offs: Sequence[float]) -> Standing:
        others = [*offs, *([self.database_off_s] if self.database_off_s is not None else [])]
        against = [off for off in others if abs(off) > self._clock_s]
        if not against:
            return Standing()
        if len(against) * 2 > len(others) and len(others) > 1:
            ours = -sorted(against)[len(against) // 2]
            return Standing(False, ours, f"This prober's clock is {describe(ours)}: {len(against)} others say so.")
        if self.database_off_s in against:
            off = self.database_off_s or 0.0
            return Standing(False, 0.0, f"The database's clock is {describe(off)} of this prober's.")
        return Standing()

    async def _ask(self, reference: Reference) -> tuple[bool, float | None]:
        try:
            async with asyncio.timeout(TIMEOUT_S + 0.5):
                if reference.kind == "dns":
                    return await self._resolver_lives(reference.host), None
                return await self._reaches(reference)
        except (OSError, TimeoutError, NoAnswer, ServerFailed):
            return False, None

    async def _resolver_lives(self, name: str) -> bool:
        try:
            await self._asker.ask(name, "SOA")
        except NoAnswer:
            return False
        except ServerFailed:
            return True  # it answers; what it cannot find is another's fault
        return True

    async def _reaches(self, reference: Reference) -> tuple[bool, float | None]:
        address = await self._address(reference.host)
        web = reference.kind == "web"
        try:
            reader, writer = await asyncio.open_connection(
                address,
                reference.port,
                ssl=self._context if web else None,
                server_hostname=reference.host if web else None,
            )
        except ssl.SSLError:
            return True, None  # somebody is there; whether we like its certificate is another question
        try:
            if not web:
                return True, None
            head = f"HEAD {reference.path} HTTP/1.1\r\nHost: {reference.host}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            began = time.time()
            answer = await reader.read(4096)
            off = date_off_s(answer)
            return True, None if off is None else off + (time.time() - began) / 2
        finally:
            writer.transport.abort()

    async def _address(self, host: str) -> str:
        if ":" in host or host.replace(".", "").isdecimal():
            return host
        for type in ("A", "AAAA"):
            if found := await self._asker.ask(host, type):
                return str(found[0].address)
        raise OSError(f"{host} has no address")
