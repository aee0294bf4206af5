"""What a person sees while ``up`` works: a line per step with its time, and one line that moves while it runs.

On a terminal the moving line is rewritten in place; elsewhere (CI, a file) only whole lines are printed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOWN_EVERY_S = 0.1


class Progress:
    """``step`` is a context manager that gives a function to say what is going on inside it."""

    def __init__(self, quiet: bool = False) -> None:
        self._terminal = sys.stdout.isatty()
        self._quiet = quiet
        self.started = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        start = time.monotonic()
        last = [0.0]
        note = [""]

        def say(text: str) -> None:
            note[0] = text
            now = time.monotonic()
            if self._terminal and now - last[0] >= SHOWN_EVERY_S:
                last[0] = now
                self._moving(f"  …  {title} ({now - start:.0f} s) {text}")

        if self._terminal:
            self._moving(f"  …  {title}")
        try:
            yield say
        except BaseException:
            self._clear()
            print(f"  ✗  {title:<44} {time.monotonic() - start:6.1f} s", flush=True)
            raise
        self._clear()
        if not self._quiet:
            print(f"  ✓  {title:<44} {time.monotonic() - start:6.1f} s  {note[0]}".rstrip(), flush=True)

    def line(self, text: str = "") -> None:
        self._clear()
        print(text, flush=True)

    def moving(self, text: str) -> None:
        """A line that the next output replaces; nothing where there is no terminal."""
        if self._terminal:
            self._moving(text)

    def _moving(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        flat = " ".join(text.split("\n"))
        sys.stdout.write("\r\x1b[K" + flat[:width])
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
