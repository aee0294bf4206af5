"""Redis, the broker of Celery's wake-ups: nothing in it is worth keeping, so it keeps nothing."""

from __future__ import annotations

import hashlib

from launcher import checks, files
from launcher.layout import Layout
from launcher.programs import Program

CONF = """\
# Written by Roost; changes are overwritten.
port 0
unixsocket {socket}
unixsocketperm 770
daemonize no
dir {directory}
save ""
appendonly no
maxmemory 64mb
maxmemory-policy allkeys-lru
"""


def prepare(layout: Layout) -> Program:
    directory = files.directory(layout.redis_socket.parent, owner="roost", group="roost", mode=0o750)
    text = CONF.format(socket=layout.redis_socket, directory=directory)
    files.write(directory / "redis.conf", text, group="roost")
    return Program(
        name="redis",
        title="Redis",
        argv=["/usr/bin/redis-server", str(directory / "redis.conf")],
        user="roost",
        ready=lambda: checks.redis(layout.redis_socket),
        remedy="see `./roost logs redis`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=10,
    )
