"""The plainest line: to this machine, by a process for each question, as the protocol in drivers/node/base.py says.

``python``: the interpreter of "the other side", which may be older than ours.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.drivers.node.base import Answer
from controlplane.values.errors import Unavailable

_END = "\nimport json as _json, sys as _sys\n_sys.stdout.write(_json.dumps(main(_json.loads({argument!r}))))\n"


@dataclass
class PlainLine:
    """``cut``: nothing gets through any more. ``asked``: how many questions were put by processes."""

    python: str = "python3"
    cut: bool = False
    asked: int = 0
    forwarded: list[str] = field(default_factory=list)

    def socket(self, path: str) -> Path:
        if self.cut:
            raise Unavailable("The line is cut.")
        self.forwarded.append(path)
        return Path(path)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 20.0) -> Answer:
        if self.cut:
            raise Unavailable("The line is cut.")
        done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_s)
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ask(self, source: str, argument: Any, *, timeout_s: float = 20.0) -> Any:
        self.asked += 1
        program = source + _END.format(argument=json.dumps(argument))
        said = self.run([self.python, "-I", "-"], stdin=program.encode(), timeout_s=timeout_s)
        if said.code != 0:
            raise Unavailable(f"It failed: {said.err[-500:]}")
        return json.loads(said.out)

    def open(self, *, timeout_s: float = 9.0) -> None:
        if self.cut:
            raise Unavailable("The line is cut.")

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def close(self) -> None:
        pass
