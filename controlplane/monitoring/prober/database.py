"""The prober's way to the database: one thread with one connection, so that the event loop never waits for it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

_Call = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class DatabaseThread:
    """Runs functions one after the other in a thread that dies with the process, whatever it waits for."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="database", daemon=True).start()

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put((future, function, args))
        return await future

    def close(self) -> None:
        """Have it end, and its connection with it, as soon as it has done what it was given."""
        self._queue.put(None)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            future, function, args = call
            result, error = None, None
            try:
                close_old_connections()
                result = function(*args)
            except Exception as raised:  # noqa: BLE001  (the caller's to judge)
                error = raised
                if isinstance(raised, DatabaseError | InterfaceError):
                    connection.close()
            loop = future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, result, error)
        connection.close()


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
