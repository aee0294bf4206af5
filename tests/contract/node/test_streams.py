"""A question that stays open: over a real sshd, to this machine, and every way in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from controlplane.drivers.node import streams
from controlplane.drivers.node.base import Line
from controlplane.drivers.node.lines import LocalLine
from controlplane.drivers.node.ssh import SshLine
from controlplane.values.errors import Rejected, Unavailable
from tests.contract.node.conftest import Node
from tests.contract.node.test_ssh import Remote, remote  # noqa: F401  (a fixture)
from tests.servers.sshd import SSHD

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not SSHD.exists() or os.geteuid() != 0, reason="needs openssh-server and root"),
]
#: Says its process and the argument, then what it was asked, until its input ends.
ECHO = """
import json, os, sys
def main(argument):
    print("a greeting")
    print(json.dumps({"pid": os.getpid(), "argument": argument, "argv": open("/proc/self/cmdline").read()}), flush=True)
    while os.read(0, 100):
        print(json.dumps({"beat": True}), flush=True)
"""
FAILS = "def main(argument):\n    raise SystemExit('no such thing here')\n"
LIMIT_S = 20.0


class Listening:
    """``news`` is what was said."""

    def __init__(self, line: Line, source: str = ECHO, **more: Any) -> None:
        self.news: list[dict[str, Any]] = []
        self.task = asyncio.create_task(streams.listen(line, source, {"word": "a\n'b'"}, self.news.append, **more))

    async def said(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.news) < count and not self.task.done():
                await asyncio.sleep(0.02)
        assert len(self.news) >= count, self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def is_gone(pid: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.02)


def lines(remote: Remote) -> list[Line]:  # noqa: F811
    ssh = SshLine(remote.target, remote.place / "lines")
    ssh.open()
    return [LocalLine("here"), ssh]


def test_it_says_its_news_and_is_asked_nothing_by_its_arguments(remote: Remote) -> None:  # noqa: F811
    async def story(line: Line) -> None:
        heard = Listening(line, beat_s=0.2)
        await heard.said(3)
        first, *rest = heard.news  # the greeting is no news
        assert first["argument"] == {"word": "a\n'b'"}
        assert "word" not in first["argv"]
        assert rest[0] == {"beat": True}
        await heard.cancel()
        await is_gone(first["pid"])

    for line in lines(remote):
        asyncio.run(story(line))


def test_a_connection_that_breaks_ends_it_at_both_ends(remote: Remote) -> None:  # noqa: F811
    async def story() -> None:
        _, line = lines(remote)
        heard = Listening(line)
        await heard.said(1)
        assert remote.sshd is not None
        for pid in remote.sshd.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(heard.task, LIMIT_S)
        await is_gone(heard.news[0]["pid"])
        # Opened again, it is heard again.
        line.open()
        again = Listening(line)
        await again.said(1)
        await again.cancel()

    asyncio.run(story())


def test_a_program_that_fails_is_told_with_what_it_said(remote: Remote) -> None:  # noqa: F811
    async def story(line: Line) -> None:
        with pytest.raises(Rejected, match="no such thing here"):
            await asyncio.wait_for(streams.listen(line, FAILS, {}, lambda news: None), LIMIT_S)

    for line in lines(remote):
        asyncio.run(story(line))


def test_a_connection_that_is_not_open_is_not_opened(node: Node, tmp_path: Path) -> None:
    async def story() -> None:
        line = SshLine(node.target, tmp_path / "lines")
        with pytest.raises(Unavailable):
            await asyncio.wait_for(streams.listen(line, ECHO, {}, lambda news: None), LIMIT_S)

    asyncio.run(story())
