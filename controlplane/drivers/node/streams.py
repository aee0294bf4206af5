"""A question to a node that stays open: a program runs there and says a line of JSON whenever it has news.

It goes through the line's own connection and ends with it. Opening that, and trying again, are left to whoever listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from controlplane.drivers.node.base import Line
from controlplane.drivers.node.lines import ENVIRONMENT
from controlplane.values.errors import Rejected, Unavailable

#: The other side ends after ``SILENCE_S`` without a byte from us: a connection that died without a word leaves nobody.
BEAT_S, SILENCE_S = 30.0, 100.0
#: Longest line that is read; a node that says more is not listened to.
LIMIT = 256 * 1024
#: What the other side's Python is started with: it reads the program's length and text from its standard input, which
#: stays open behind it. So no argument vector shows what is asked.
_START = """\
import os
n = b""
while not n.endswith(b"\\n"):
    n += os.read(0, 1) or os._exit(3)
t = b""
while len(t) < int(n):
    t += os.read(0, int(n) - len(t)) or os._exit(3)
exec(compile(t, "question", "exec"))
"""
_CALL = "\nimport json as _json\nmain(_json.loads({argument!r}))\n"


async def listen(
    line: Line,
    source: str,
    argument: dict[str, Any],
    on_news: Callable[[dict[str, Any]], None],
    *,
    beat_s: float = BEAT_S,
) -> None:
    """Hand each line of the program's on to ``on_news``. Returns never: raises ``Unavailable`` when it ended (the line
    broke), ``Rejected`` when the program failed or there is no Python there.

    The line has to be open (``Line.run`` or ``SshLine.open``). ``source`` defines ``main(argument)``, which writes to
    standard output and ends when standard input does. Cancelled, it ends the program.
    """
    text = (source + _CALL.format(argument=json.dumps(argument))).encode()
    process = await asyncio.create_subprocess_exec(
        *line.command(["python3", "-I", "-c", _START]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(ENVIRONMENT),
        limit=LIMIT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.ensure_future(process.stderr.read(8192))
    beats = asyncio.ensure_future(_beat(process.stdin, b"%d\n%s" % (len(text), text), beat_s))
    try:
        while said := await process.stdout.readline():
            with contextlib.suppress(ValueError):
                news = json.loads(said)
                if isinstance(news, dict):
                    on_news(news)
        code = await asyncio.wait_for(process.wait(), 5)
        last = ((await errors).decode(errors="replace").strip().splitlines() or ["no message"])[-1][:300]
    except (ValueError, TimeoutError):
        raise Unavailable("It said what cannot be read, or did not end.") from None
    finally:
        for task in (beats, errors):
            task.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code in (1, 126, 127):
        raise Rejected(f"The program failed there: {last}")
    raise Unavailable(f"It ended: {last}")


async def _beat(stream: asyncio.StreamWriter, text: bytes, every_s: float) -> None:
    with contextlib.suppress(OSError):
        stream.write(text)
        while True:
            await stream.drain()
            await asyncio.sleep(every_s)
            stream.write(b"\n")
