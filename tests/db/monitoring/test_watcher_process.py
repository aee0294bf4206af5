"""The watcher as a process: it hears a node, loses it and hears it again, and outlives its database."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError

from controlplane import wiring
from controlplane.drivers.node import far
from controlplane.drivers.node.base import NodeTarget
from controlplane.drivers.node.lines import LocalLine
from controlplane.monitoring.watcher import reports, service
from controlplane.values.errors import Unavailable

pytestmark = [pytest.mark.db]

LIMIT_S = 20.0
TARGET = NodeTarget("n1", "local", "supervisor", "127.0.0.1", "/nowhere", "/nowhere")
#: Says its own number as a user's, then one suspect connection.
SOURCE = """
import json, os
def main(argument):
    print(json.dumps({"type": "addresses", "4": ["192.0.2.%d" % (os.getpid() % 200)], "6": []}))
    print(json.dumps({"type": "suspect", "user": "r-x", "remote": ["192.0.2.9", os.getpid()]}), flush=True)
    while os.read(0, 100):
        pass
"""


class Nodes:
    """In place of the database. ``trouble``: what is raised instead of an answer, so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.targets: dict[str, NodeTarget] = {"n1": TARGET}
        self.trouble = 0
        self.suspects: list[tuple[str, dict[str, Any]]] = []
        self.addresses: list[tuple[str, dict[int, list[str]]]] = []
        monkeypatch.setattr(reports, "targets", lambda: self.answer(lambda: dict(self.targets)))
        monkeypatch.setattr(reports, "suspect", lambda *said: self.answer(lambda: self.suspects.append(said)))
        monkeypatch.setattr(reports, "addresses", lambda *said: self.answer(lambda: self.addresses.append(said)))
        monkeypatch.setattr(far, "source", lambda name: SOURCE)
        monkeypatch.setattr(wiring, "line", lambda target: LocalLine(target.name))
        monkeypatch.setattr(service, "close_old_connections", lambda: None)
        monkeypatch.setattr(service, "NODES_S", 0.05)
        monkeypatch.setattr(service, "AGAIN_S", 0.05)

    def answer(self, what: Callable[[], Any]) -> Any:
        if self.trouble > 0:
            self.trouble -= 1
            raise OperationalError("the connection was closed")
        return what()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not done():
            await asyncio.sleep(0.01)


def run(story: Callable[[service.Watcher], Any]) -> None:
    async def whole() -> None:
        watcher = service.Watcher()
        task = asyncio.create_task(watcher.run())
        try:
            await story(watcher)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(whole())


def test_a_node_that_is_lost_is_heard_again(nodes: Nodes) -> None:
    async def story(watcher: service.Watcher) -> None:
        await until(lambda: len(nodes.suspects) == 1)
        name, news = nodes.suspects[0]
        assert name == "n1"
        os.kill(news["remote"][1], signal.SIGKILL)
        await until(lambda: len(nodes.suspects) == 2)
        assert nodes.suspects[1][1]["remote"][1] != news["remote"][1]
        await until(lambda: len(nodes.addresses) == 2)

    run(story)


def test_news_wait_for_the_database(nodes: Nodes) -> None:
    async def story(watcher: service.Watcher) -> None:
        await until(lambda: watcher.nodes)
        nodes.trouble = 4
        await until(lambda: nodes.suspects and nodes.addresses)

    nodes.trouble = 3
    run(story)
    assert nodes.trouble == 0


def test_the_newest_addresses_are_written_last(nodes: Nodes) -> None:
    async def story(watcher: service.Watcher) -> None:
        await until(lambda: nodes.addresses)
        for number in range(20):
            watcher._hear("n1", {"type": "addresses", "4": [f"198.51.100.{number}"], "6": []})
            await asyncio.sleep(0)
        await until(lambda: nodes.addresses[-1] == ("n1", {4: ["198.51.100.19"], 6: []}))
        await until(lambda: not watcher.busy)
        assert not watcher.addresses

    run(story)


def test_a_node_that_is_retired_or_reached_otherwise_is_let_go(nodes: Nodes) -> None:
    async def story(watcher: service.Watcher) -> None:
        await until(lambda: nodes.suspects)
        first = nodes.suspects[0][1]["remote"][1]
        nodes.targets = {"n1": NodeTarget("n1", "local", "supervisor", "127.0.0.2", "/nowhere", "/nowhere")}
        await until(lambda: len(nodes.suspects) == 2)
        nodes.targets = {}
        await until(lambda: not watcher.nodes)
        for pid in (first, nodes.suspects[1][1]["remote"][1]):
            await until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))

    run(story)


def test_a_line_that_does_not_open_holds_nobody_up(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(LocalLine):
        def open(self, *, timeout_s: float = 0.0) -> None:
            raise Unavailable("n2 is not reached.")

    monkeypatch.setattr(wiring, "line", lambda target: (Lost if target.name == "n2" else LocalLine)(target.name))
    nodes.targets["n2"] = NodeTarget("n2", "ssh", "systemd", "192.0.2.2", "/nowhere", "/nowhere")

    async def story(watcher: service.Watcher) -> None:
        await until(lambda: nodes.suspects)
        assert watcher.nodes["n1"].listening
        assert not watcher.nodes["n2"].listening

    run(story)


def test_it_starts_without_a_database_and_ends_when_it_is_told(tmp_path) -> None:
    environment = {**os.environ, "ROOST_DATABASE_URL": f"postgresql://nobody@/none?host={tmp_path}"}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "watcher"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "The database is away" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
