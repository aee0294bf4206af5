"""Runs the watcher until SIGTERM: one for all nodes, beside the workers and as their user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand

from controlplane.monitoring.watcher.service import Watcher


class Command(BaseCommand):
    help = "Listen to what the nodes' kernels see: dead federation links, and addresses that change."

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(_until_told())
        sys.stdout.flush()
        # A thread may still be waiting for a line that does not open; at the interpreter's end it would be waited for.
        os._exit(0)


async def _until_told() -> None:
    task = asyncio.ensure_future(Watcher().run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
