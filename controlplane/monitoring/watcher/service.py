"""The watcher as a process: a task per node keeps the question open, another thread's work is done for its news.

A node that is lost is tried again with growing pauses and raises no incident: its own pass says that it is away. The
database may go and come back; what a node said meanwhile is kept for a minute.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import Error as DatabaseError
from django.db import close_old_connections

from controlplane import observing, wiring
from controlplane.drivers.node import far, streams
from controlplane.drivers.node.base import NodeTarget
from controlplane.monitoring.watcher import reports
from controlplane.provisioning.subject import USER_PREFIX
from controlplane.values.errors import RoostError

log = logging.getLogger(__name__)
T = TypeVar("T")

#: What a node is asked (``far.sockets``). The third retransmission comes 1.4 s after what was lost, on a short way.
QUESTION: dict[str, Any] = {
    "prefix": USER_PREFIX,
    "every_s": 1.0,
    "stuck_s": 2.0,
    "retransmits": 3,
    "probes": 2,
    "silence_s": streams.SILENCE_S,
}
#: What a node may say.
NEWS = frozenset({"addresses", "suspect", "well", "gone"})
#: How often the list of nodes is read.
NODES_S = 5.0
#: Pauses before a node is tried again, each twice as long as the one before.
AGAIN_S, AGAIN_CAP_S = 1.0, 60.0
#: News are kept so long for a database or a service that is away.
KEPT_S = 60.0


@dataclass
class Watched:
    """A node that is listened to, and whether it is just now."""

    target: NodeTarget
    task: asyncio.Task[None]
    listening: bool = False


class Watcher:
    """``opened`` and ``worked`` are threads: for lines, which may take seconds, and for news."""

    def __init__(self, question: dict[str, Any] | None = None) -> None:
        self.question = question or QUESTION
        self.nodes: dict[str, Watched] = {}
        self.opening = ThreadPoolExecutor(8, "line")
        self.working = ThreadPoolExecutor(4, "news")
        #: News that are being worked on: the same are not taken twice at a time.
        self.busy: dict[tuple[Any, ...], asyncio.Task[None]] = {}
        #: The newest addresses that a node said, as long as they are not written.
        self.addresses: dict[str, dict[int, list[str]]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self._read_nodes()
                await asyncio.sleep(NODES_S)
        finally:
            tasks = [node.task for node in self.nodes.values()] + list(self.busy.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # A thread may be in the middle of a call with a time-out of its own: nobody waits for it.
            for pool in (self.opening, self.working):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _read_nodes(self) -> None:
        observing.beat("watcher")
        try:
            wanted = await self._in_thread(self.working, reports.targets)
        except DatabaseError as error:
            log.warning("The database is away: %s", str(error).strip().splitlines()[0])
            return
        for name in [name for name, node in self.nodes.items() if wanted.get(name) != node.target]:
            self.nodes.pop(name).task.cancel()
        for name, target in wanted.items():
            if name not in self.nodes:
                self.nodes[name] = Watched(target, asyncio.create_task(self._follow(name, target)))

    async def _follow(self, name: str, target: NodeTarget) -> None:
        """Listen to one node, for ever."""
        pause_s = AGAIN_S
        while True:
            began = time.monotonic()
            try:
                line = wiring.line(target)
                await asyncio.get_running_loop().run_in_executor(self.opening, line.open)
                hear = functools.partial(self._hear, name)
                await streams.listen(line, far.source("sockets"), self.question, hear)
            except (RoostError, OSError) as error:
                pause_s = AGAIN_S if time.monotonic() - began > AGAIN_CAP_S else min(AGAIN_CAP_S, pause_s * 2)
                self._lost(name, error, pause_s)
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.0))

    def _lost(self, name: str, error: Exception, pause_s: float) -> None:
        if name in self.nodes:
            self.nodes[name].listening = False
        log.info("%s is not heard (again in %.0f s): %s", name, pause_s, error)

    def _hear(self, name: str, news: dict[str, Any]) -> None:
        """A line of a node; it is not to be held up."""
        if name in self.nodes and not self.nodes[name].listening:
            self.nodes[name].listening = True
            log.info("%s is heard.", name)
        kind = news.get("type")
        observing.observed("watcher.news", news=str(kind) if kind in NEWS else "other")
        if kind == "addresses":
            self.addresses[name] = reports.plain_addresses(news)
            self._work(("addresses", name), functools.partial(self._write_addresses, name))
        elif kind == "suspect":
            key = ("suspect", name, str(news.get("user")), str(news.get("remote")))
            self._work(key, functools.partial(self._suspect, name, news))
        elif kind in ("well", "gone"):
            log.info("%s: %s's connection to %s is %s.", name, news.get("user"), news.get("remote"), kind)

    def _suspect(self, name: str, news: dict[str, Any]) -> None:
        remotes = reports.suspect(name, news)
        log.info("%s: %s's connection to %s is suspect: %s", name, news.get("user"), news.get("remote"), remotes)

    def _write_addresses(self, name: str) -> None:
        found = self.addresses.get(name)
        if found is not None:
            reports.addresses(name, found)
            if self.addresses.get(name) is found:
                del self.addresses[name]

    def _work(self, key: tuple[Any, ...], do: Callable[[], None]) -> None:
        if key in self.busy:
            return
        task = self.busy[key] = asyncio.create_task(self._persist(key, do))
        task.add_done_callback(lambda _: self.busy.pop(key, None))

    async def _persist(self, key: tuple[Any, ...], do: Callable[[], None]) -> None:
        """Do it, and again while what it needs is away. Addresses that came meanwhile are written after the others."""
        until, pause_s = time.monotonic() + KEPT_S, 0.2
        while True:
            try:
                await self._in_thread(self.working, do)
                if key[0] != "addresses" or key[1] not in self.addresses:
                    return
                continue
            except (DatabaseError, RoostError) as error:
                log.info("%s has to wait: %s", " ".join(map(str, key)), str(error).strip())
            except Exception:
                log.exception("%s failed", " ".join(map(str, key)))
                until = 0.0
            if time.monotonic() > until:
                self.addresses.pop(key[1], None)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    async def _in_thread(self, pool: ThreadPoolExecutor, do: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(_with_database, do))


def _with_database(do: Callable[[], T]) -> T:
    """A thread's connection may have been cut by a restart of the server since its last use."""
    close_old_connections()
    try:
        return do()
    finally:
        close_old_connections()
