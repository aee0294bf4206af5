"""What touches an edge's machine: the files of the maps, and HAProxy's stats socket.

Standard library only and one file, for Python 3.9 or later: it runs in this process for an edge on this machine, and
as text over a line for others. ``main`` takes and gives JSON. What to route, and what is a host, is left to callers.

HAProxy forgets what the socket told it when it restarts, and does not look at the files before that; so every change
is made in both, files first, and a route counts only where both agree.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

BACKENDS_MAP, PROXY65_MAP = "backends.map", "proxy65.map"
MAPS = (BACKENDS_MAP, PROXY65_MAP)

TIMEOUT_S = 5.0
#: Several writers wait for each other so long at most.
LOCK_S = 10.0
#: So many characters of commands in one line; HAProxy takes 16 KiB (tune.bufsize).
LINE = 8000
#: An answer to ``get map``: the value is quoted, and none of ours has a quote in it.
_FOUND = re.compile(r'^type=.* found=yes,.* key="(?P<key>[^"]*)", value="(?P<value>[^"]*)"')
_MISSING = re.compile(r"^type=.* found=no\Z")

if TYPE_CHECKING:  # Python 3.9 cannot evaluate the unions
    Entries = dict[str, str]
    #: Key -> value, None: not there (any more).
    Wanted = Mapping[str, str | None]
    #: Key -> what the running HAProxy has, what its file has.
    Pairs = dict[str, tuple[str | None, str | None]]


class Failed(Exception):
    """``kind``: "unavailable" (try again) or "rejected" (a person has to do something)."""

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.answer = {"error": kind, "message": message, "remedy": remedy}


def main(argument: dict[str, Any]) -> dict[str, Any]:
    """``{"do": "lookup" | "change" | "tables" | "health", "socket": path, "dir": path, …}`` -> ``{"answer": …}``.

    Or ``{"error": "unavailable" | "rejected", "message": …, "remedy": …}``. ``shown``: the socket as messages name it.
    """
    edge = Edge(argument["socket"], Path(argument["dir"]), argument.get("shown") or argument["socket"])
    try:
        if argument["do"] == "lookup":
            return {"answer": edge.lookup(argument["keys"], argument.get("stored", True))}
        if argument["do"] == "change":
            return {"answer": edge.change(argument["wanted"], argument.get("seen"))}
        if argument["do"] == "tables":
            return {"answer": edge.tables()}
        if argument["do"] == "health":
            return {"answer": edge.health()}
    except Failed as failed:
        return failed.answer
    raise ValueError(argument["do"])


def digest(tables: Mapping[str, Mapping[str, str]]) -> str:
    """One word for the whole of all maps (map -> key -> value); the same on both sides of a line."""
    found = hashlib.sha256()
    for name in MAPS:
        for key, value in sorted(tables.get(name, {}).items()):
            found.update(f"{name} {key} {value}\n".encode())
    return found.hexdigest()


class Edge:
    """One HAProxy on this machine. ``admin``: its stats socket (level admin), ``directory``: of its maps."""

    def __init__(self, admin: str, directory: Path, shown: str) -> None:
        self._admin, self._directory, self._shown = admin, directory, shown

    def lookup(self, keys: Mapping[str, Sequence[str]], stored: bool) -> dict[str, Entries]:
        """Of these keys (per map) those that HAProxy has, and its file too if ``stored``: map -> key -> value.

        One short connection, however many tenants there are.
        """
        running = self._look_up(keys)
        if not stored:
            return running
        files = {name: self._stored_of(name, keys[name]) for name in keys}
        return {n: {k: at for k, at in found.items() if files[n].get(k) == at} for n, found in running.items()}

    def change(self, wanted: Mapping[str, Wanted], seen: Mapping[str, Mapping[str, Any]] | None) -> int:
        """Bring these keys (per map) to these values; how many were not so.

        ``seen``: map -> key -> [running, stored] as ``tables`` gave them: a key that is not so any more is
        somebody's newer change, and is left alone.
        """
        with self._locked(fcntl.LOCK_EX):
            return sum(self._change(name, part, None if seen is None else seen[name]) for name, part in wanted.items())

    def tables(self) -> dict[str, Pairs]:
        """All maps as they are: map -> key -> [running, stored]."""
        with self._locked(fcntl.LOCK_SH):
            return {name: self._pairs(name) for name in MAPS}

    def health(self) -> dict[str, Any]:
        """HAProxy's version, uptime, connections and the size of its tables.

        ``digest``: of the tables; empty where HAProxy and its files differ.
        """
        info = dict(line.split(": ", 1) for line in self._say(["show info"]).splitlines() if ": " in line)
        if not info.get("Version"):
            raise self._silent("it tells nothing of itself")
        tables = self.tables()
        agreed = all(running == stored for pairs in tables.values() for running, stored in pairs.values())
        running = {name: {k: pair[0] or "" for k, pair in pairs.items()} for name, pairs in tables.items()}
        return {
            "version": info["Version"],
            "uptime_s": int(info.get("Uptime_sec", 0)),
            "connections": int(info.get("CurrConns", 0)),
            "hosts": len(tables[BACKENDS_MAP]),
            "ports": len(tables[PROXY65_MAP]),
            "digest": digest(running) if agreed else "",
        }

    def _change(self, name: str, wanted: Wanted, seen: Mapping[str, Any] | None) -> int:
        file, commands = self._directory / name, []
        stored = _read(file)
        if seen is not None:
            running = self._look_up({name: list(wanted)})[name]
            now = {key: (running.get(key), stored.get(key)) for key in wanted}
            wanted = {key: value for key, value in wanted.items() if tuple(seen.get(key, (None, None))) == now[key]}
        after = {**stored, **{key: value for key, value in wanted.items() if value is not None}}
        for key, value in wanted.items():
            if value is None:
                after.pop(key, None)
        if after != stored:
            self._write(file, after)
        running = self._look_up({name: list(wanted)})[name]
        for key, value in wanted.items():
            if running.get(key) == value:
                continue
            if value is None:
                commands.append(f"del map {file} {key}")
            else:
                commands.append(f"{'set' if key in running else 'add'} map {file} {key} {value}")
        for part in _lines(commands):
            answer = self._say(part).strip()
            if answer:
                raise Failed(
                    "rejected",
                    f"HAProxy refused a change of {name}: {answer[:200]}",
                    "Check that it was started with the configuration that Roost renders.",
                )
        return sum(running.get(key) != value or stored.get(key) != value for key, value in wanted.items())

    def _pairs(self, name: str) -> Pairs:
        stored, running = _read(self._directory / name), self._running(name)
        return {key: (running.get(key), stored.get(key)) for key in {**stored, **running}}

    def _running(self, name: str) -> Entries:
        entries = {}
        for line in self._say([f"show map {self._directory / name}"]).splitlines():
            words = line.split()
            if len(words) == 3 and words[0].startswith("0x"):
                entries[words[1]] = words[2]
            elif words:
                raise self._no_map(name, line)
        return entries

    def _look_up(self, keys: Mapping[str, Sequence[str]]) -> dict[str, Entries]:
        found: dict[str, Entries] = {name: {} for name in keys}
        asked = [(name, key) for name in keys for key in keys[name]]
        questions = [f"get map {self._directory / name} {key}" for name, key in asked]
        for part in _lines(questions):
            lines = [line for line in self._say(part).splitlines() if line]
            if len(lines) != len(part):
                raise self._silent(f"it answered {len(lines)} of {len(part)} questions")
            for line in lines:
                name, key = asked.pop(0)
                hit = _FOUND.match(line)
                if hit is not None and hit["key"] == key:
                    found[name][key] = hit["value"]
                elif hit is not None or not _MISSING.match(line):
                    raise self._no_map(name, line)
        return found

    def _stored_of(self, name: str, keys: Sequence[str]) -> Entries:
        """These keys of a file that may be long: looked for, not parsed."""
        try:
            text = f"\n{(self._directory / name).read_text()}\n"
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unwritable(error) from error
        found = {}
        for key in keys:
            start = text.find(f"\n{key} ")
            if start >= 0:
                start += len(key) + 2
                found[key] = text[start : text.find("\n", start)].strip()
        return found

    def _say(self, commands: Sequence[str]) -> str:
        """Commands on a connection of their own, in one line; the whole answer."""
        for command in commands:
            if not re.match(r"^[ -~]+\Z", command) or ";" in command or "<<" in command:
                raise Failed("rejected", "That is no command for HAProxy's socket.", "")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(self._admin)
                connection.sendall(";".join(commands).encode() + b"\n")
                chunks = []
                while True:
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    chunks.append(chunk)
        except OSError as error:
            raise self._silent(error.strerror or str(error)) from error
        return b"".join(chunks).decode(errors="replace")

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """One writer at a time: the files are read, changed and replaced as a whole.

        The lock's file is opened for reading alone: it may be another user's, who was here first.
        """
        try:
            handle = os.open(self._directory / "lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                os.fchmod(handle, 0o644)  # whatever our umask made of it
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(handle, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Failed(
                            "unavailable", "Others change the edge's maps all the time; it is tried again.", ""
                        ) from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(handle)

    def _write(self, file: Path, entries: Entries) -> None:
        """Replace the file in one step, so that a HAProxy that starts now reads the old or the new, never half."""
        text = "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))
        try:
            handle, name = tempfile.mkstemp(dir=str(file.parent), prefix=f".{file.name}.")
            try:
                with os.fdopen(handle, "w") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(name).chmod(0o644)
                Path(name).replace(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _silent(self, why: str) -> Failed:
        return Failed(
            "unavailable",
            f"The edge does not answer on {self._shown}: {why}.",
            "Check that HAProxy runs and that this user may use its socket.",
        )

    def _no_map(self, name: str, line: str) -> Failed:
        return Failed(
            "rejected",
            f"HAProxy has no map {self._directory / name}: {line[:200]}",
            "Start it with the configuration that Roost renders.",
        )

    def _unwritable(self, error: OSError) -> Failed:
        return Failed(
            "unavailable", f"The edge's maps in {self._directory} cannot be used: {error.strerror or error}.", ""
        )


def _lines(commands: Sequence[str]) -> Iterator[list[str]]:
    """As many commands at a time as one line holds."""
    part: list[str] = []
    length = 0
    for command in commands:
        if part and length + len(command) + 1 > LINE:
            yield part
            part, length = [], 0
        part.append(command)
        length += len(command) + 1
    if part:
        yield part


def _read(file: Path) -> Entries:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2}
