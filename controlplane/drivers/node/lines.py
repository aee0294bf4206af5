"""The line to this machine, and what all lines share: how Python gets to the other side and its answer back.

``ssh`` has the line to others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.drivers.node.base import Answer
from controlplane.values.errors import Rejected, Unavailable

#: Of every process that a line starts here: none of ours, which hold keys and addresses.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}
#: Before the answer: a shell's greeting is not taken for it.
MARK = "\x1eroost-answer "
_END = """
import json as _json, sys as _sys
_sys.stdout.write({mark!r} + _json.dumps(main(_json.loads({argument!r}))) + "\\n")
"""


def program(source: str, argument: Any) -> bytes:
    """``source`` with a call of its ``main`` behind it. The argument goes in the text: no argv shows it."""
    return (source + _END.format(mark=MARK, argument=json.dumps(argument))).encode()


def judge(name: str, said: Answer) -> Any:
    """The value that a program answered. ``Rejected`` if it failed, ``Unavailable`` if it was ended."""
    if said.code == 0 and MARK in said.out:
        try:
            return json.loads(said.out.rpartition(MARK)[2])
        except ValueError:
            raise Unavailable(f"The answer of {name} broke off.") from None
    if said.code in (126, 127):
        raise Rejected(f"{name} has no python3 that can be run.", remedy="Install the package python3 there.")
    if said.code in (124, 137, 143, -9, -15):
        raise Unavailable(f"The question to {name} was ended before it was answered.")
    last = (said.err.strip().splitlines() or ["no message"])[-1]
    raise Rejected(f"The question to {name} failed there: {last[:300]}")


class LocalLine:
    """``Line`` to this machine; its sockets are the sockets themselves. Holds nothing open."""

    def __init__(self, name: str) -> None:
        self.name = name

    def socket(self, path: str) -> Path:
        return Path(path)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 20.0) -> Answer:
        return execute(self.name, argv, stdin=stdin, timeout_s=timeout_s)

    def ask(self, source: str, argument: Any, *, timeout_s: float = 20.0) -> Any:
        said = self.run([sys.executable, "-I", "-"], stdin=program(source, argument), timeout_s=timeout_s)
        return judge(self.name, said)

    def open(self, *, timeout_s: float = 0.0) -> None:
        pass

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def close(self) -> None:
        pass


def execute(name: str, argv: Sequence[str], *, stdin: bytes, timeout_s: float) -> Answer:
    """Run a process here. One that cannot be started answers as a shell would: 127."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=max(0.1, timeout_s), env=ENVIRONMENT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} did not answer within {timeout_s:.0f} s.") from None
    except OSError as error:
        return Answer(127, "", f"{argv[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
