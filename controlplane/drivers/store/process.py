"""One run of a program that gets secrets, reads and writes streams, and must end with its caller.

Secrets go through memory files that nobody else can open and that are gone with the processes. A guard holds the
program's input open and ends the program if the caller dies, so a cut-off stream is never taken for a whole one. What
the program says is judged elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from controlplane.drivers.store.base import Cancelled, Run
from controlplane.values.errors import Unavailable
from controlplane.values.secret import Secret

CHUNK = 256 * 1024
#: Of what is said on standard error only the last part is kept.
KEPT = 64 * 1024
#: An ended program may take so long to take its locks away before it is killed.
GRACE_S = 10.0
#: Longest pause between two tries of restic's own, with some room: after a longer silence the last one went well.
BETWEEN_TRIES_S = 100.0
#: How often it is looked at whether the program does anything, and what counts as that: bytes moved per second.
LOOK_S = 2.0
LEAST_WORK = 2048
#: A clock tick of a processor (a hundredth of a second) counts like so many bytes.
TICK = 512
_TRYING = b"returned error, retrying after"
#: Reads one word from the caller; without it, ends the program, and only then lets go of the program's input.
_GUARD = """\
read -r word && exit 0
kill -INT "$1"
n=0
while kill -0 "$1" && [ "$n" -lt 50 ]; do sleep 0.2; n=$((n+1)); done
kill -KILL "$1"
"""


def memory_file(secret: str) -> int:
    """A descriptor of a sealed file in memory, whose path for the program is ``/proc/self/fd/<n>``."""
    handle = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(handle, 0o400)
    with open(handle, "wb", closefd=False) as stream:
        stream.write(secret.encode())
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return handle


class Impatient(Unavailable):
    """The program still tried. ``said`` is judged by the caller, who knows its words."""


class Process:
    """A context manager; leaving it ends the program if it still runs. ``secrets``: variable -> what is in the file
    whose path that variable names to the program; a word ``$variable`` of ``argv`` is that path, too. ``aside``: a file
    into which what the program starts writes its own complaints; it may be missing.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        secrets: Mapping[str, Secret],
        run: Run,
        directory: str = "/",
        feeds: bool = False,
        aside: Path | None = None,
    ) -> None:
        self._aside = aside
        self._run, self._deadline = run, time.monotonic() + run.timeout_s
        self._tail = b""
        self._tried: tuple[float, float] | None = None
        self._looked = self._busy = time.monotonic()
        self._work, self._waited = 0, 0.0
        #: Called with each chunk that was taken from the source.
        self.on_fed: Callable[[int], None] = lambda _: None
        files: list[int] = []
        try:
            variables = dict(environment)
            for name, secret in secrets.items():
                files.append(memory_file(secret.reveal()))
                variables[name] = f"/proc/self/fd/{files[-1]}"
            self._process = subprocess.Popen(
                [variables[word[1:]] if word[:1] == "$" and word[1:] in secrets else word for word in argv],
                stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                cwd=directory,
                pass_fds=files,
                start_new_session=True,
                bufsize=0,
            )
        except FileNotFoundError:
            raise Unavailable(f"{argv[0]} is not installed.", remedy=f"Install {argv[0]} on this machine.") from None
        finally:
            for handle in files:
                os.close(handle)
        self._guard, self._released = self._watched(), False

    def _watched(self) -> subprocess.Popen[bytes]:
        held = [self._process.stdin.fileno()] if self._process.stdin else []
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                pass_fds=held,
                start_new_session=True,
            )
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def said(self) -> str:
        """The last part of standard error, and of what lies aside."""
        return f"{self._tail.decode(errors='replace')}\n{_end_of(self._aside) if self._aside else ''}".rstrip("\n")

    @property
    def code(self) -> int:
        """The exit status, once ``output`` ended."""
        return self._process.wait(timeout=GRACE_S)

    def moved(self) -> None:
        """Something was done: what was tried again before has gone well."""
        self._tried = None

    def output(self, source: Iterator[bytes] | None = None) -> Iterator[bytes]:
        """Standard output as it comes, while ``source`` is fed into standard input; ends when the program did.

        Whatever ``source`` raises is passed on, after the program was ended. ``Cancelled``, or ``Unavailable`` when
        time or patience are over.
        """
        process, feeding = self._process, source
        assert process.stdout is not None
        assert process.stderr is not None
        pending = memoryview(b"")
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            if feeding is not None:
                assert process.stdin is not None
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while len(selector.get_map()) or process.poll() is None:
                self._bounded()
                for key, _ in selector.select(0.2):
                    if key.fileobj is process.stdin:
                        assert feeding is not None
                        if not pending:
                            chunk = next(feeding, None)
                            if chunk is None or process.poll() is not None:
                                selector.unregister(process.stdin)
                                self._finish_input()
                                continue
                            pending = memoryview(chunk)
                            self.on_fed(len(chunk))
                        try:
                            pending = pending[os.write(process.stdin.fileno(), pending[:65536]) :]
                        except BrokenPipeError:
                            selector.unregister(process.stdin)
                        continue
                    data = _read(key.fileobj)  # type: ignore[arg-type]
                    if data == b"":
                        selector.unregister(key.fileobj)
                    elif data and key.fileobj is process.stderr:
                        self._hear(data)
                    elif data:
                        yield data
                if process.poll() is not None and not selector.select(0):
                    break

    def _finish_input(self) -> None:
        """The source came to its own end: the only way by which the program sees the end of its input."""
        assert self._process.stdin is not None
        self._release()
        self._process.stdin.close()

    def _release(self) -> None:
        self._released = True
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(b"over\n")
                self._guard.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        try:
            self._guard.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def _bounded(self) -> None:
        now = time.monotonic()
        if self._run.cancelled():
            raise Cancelled("It was cancelled.")
        if not self._released and self._guard.poll() is not None:
            raise Unavailable("The guard of the run was ended, so the run was, too.")
        if now > self._deadline:
            raise Unavailable(
                f"It did not end within {self._run.timeout_s:.0f} seconds. {last_line(self.said)}".strip()
            )
        if now - self._looked > LOOK_S:
            self._look(now)
        if self._tried is None:
            return
        first, last = self._tried
        if now - last > BETWEEN_TRIES_S:
            self._tried = None
        elif now - first > self._run.patience_s:
            raise Impatient(f"It was tried for {self._run.patience_s:.0f} seconds.")

    def _look(self, now: float) -> None:
        """A place that took a connection and says nothing more makes the program wait for as long as TCP does."""
        work, waited, gap = _work(self._process.pid), _waited(self._process.pid), now - self._looked
        # After a long gap it is we who were away: with the source, or with whoever takes the output.
        if work - self._work > LEAST_WORK * gap or gap > 2 * LOOK_S:
            self._busy = now
        # On a machine that has more to do than it can, it may be ready and get no processor: that is no place's fault.
        self._busy = min(now, self._busy + max(0.0, waited - self._waited))
        self._looked, self._work, self._waited = now, work, waited
        if now - self._busy > self._run.patience_s:
            raise Impatient(f"It did nothing for {self._run.patience_s:.0f} seconds.")

    def _hear(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-KEPT:]
        if _TRYING in data:
            now = time.monotonic()
            self._tried = (self._tried[0] if self._tried else now, now)

    def end(self) -> None:
        """End the program, first kindly, and before it could see the end of its input."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._wait_deaf(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._release()

    def _wait_deaf(self, seconds: float) -> None:
        """Wait for its end while nobody listens: full pipes must not keep it."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("program", seconds)
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None and not stream.closed:
                    os.set_blocking(stream.fileno(), False)
                    _read(stream)
            time.sleep(0.02)


def _work(pid: int) -> int:
    """What a process did so far, in bytes moved and processor time (proc(5): ``io``, and ``stat`` fields 14 and 15)."""
    try:
        moved = [int(line.split()[1]) for line in Path(f"/proc/{pid}/io").read_text().splitlines()[:2]]
        ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    except (OSError, ValueError, IndexError):
        return 0
    return sum(moved) + TICK * sum(map(int, ticks))


def _waited(pid: int) -> float:
    """Seconds for which its threads, and programs that it started, were ready to run and did not.

    The second number of ``schedstat`` (the kernel's sched-stats.rst), nanoseconds; 0 where the kernel does not count.
    """
    found = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children = [Path("/proc", child) for child in (thread / "children").read_text().split()]
            found += sum(int((place / "schedstat").read_text().split()[1]) for place in (thread, *children))
    return found / 1e9


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - KEPT))
            return file.read(KEPT).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _read(stream: IO[bytes]) -> bytes | None:
    """What is there; nothing at the end, None if there is nothing yet."""
    try:
        return os.read(stream.fileno(), CHUNK)
    except BlockingIOError:
        return None


def lines(chunks: Iterator[bytes], *, longest: int = 16 * 1024 * 1024) -> Iterator[bytes]:
    """Whole lines of a stream. A longer one is cut into parts, so that memory stays bounded."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > longest:
            yield rest
            rest = b""
    if rest:
        yield rest


def last_line(text: str) -> str:
    """The last thing said that says anything, at most 300 characters."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return (found[-1] if found else "It said nothing.")[:300]
