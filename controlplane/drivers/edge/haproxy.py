"""The edge's routing table in a running HAProxy: changed over its stats socket, and in files for its next start.

HAProxy forgets what the socket told it when it restarts, and does not look at the files before that; so every
change is made in both, files first. Choosing what to route is left to ``fleet``.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from controlplane.drivers.edge.base import Backend
from controlplane.drivers.edge.config import BACKENDS_MAP, PROXY65_MAP
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName

TIMEOUT_S = 5.0
#: So many characters of commands in one line; HAProxy takes 16 KiB (tune.bufsize).
LINE = 8000
_HOST = re.compile(r"^[a-z0-9.-]{1,253}\Z")
#: An answer to ``get map``: the value is quoted, and none of ours has a quote in it.
_FOUND = re.compile(r'^type=.* found=yes,.* key="(?P<key>[^"]*)", value="(?P<value>[^"]*)"')
_MISSING = re.compile(r"^type=.* found=no\Z")


class HaproxyEdge:
    """One HAProxy on this machine. ``socket_path``: its stats socket (level admin); ``map_dir``: its maps."""

    name = "haproxy"

    def __init__(self, socket_path: Path, map_dir: Path) -> None:
        self._socket = socket_path
        self._backends = map_dir / BACKENDS_MAP
        self._proxy65 = map_dir / PROXY65_MAP
        self._lock = map_dir / "lock"
        self._read_before: dict[Path, tuple[tuple[int, int, int], dict[str, str]]] = {}

    def routes(self) -> Mapping[str, Backend]:
        """Host (A-label) -> backend, where the running HAProxy and the file agree."""
        running, stored = self._running(self._backends), _read(self._backends)
        return {host: _backend(at) for host, at in running.items() if stored.get(host) == at}

    def lookup(self, hosts: Sequence[DomainName], port: int) -> tuple[Mapping[str, Backend], str | None]:
        """Those of these hosts that are routed, and the port's address, where the running HAProxy and the file agree.

        One short connection, however many tenants there are.
        """
        names, key = [_host(h) for h in hosts], str(int(port))
        asked = [(self._backends, name) for name in names] + [(self._proxy65, key)]
        running = self._look_up(asked)
        stored = {file: self._stored(file) for file in (self._backends, self._proxy65)}
        agreed = {ask: at for ask, at in running.items() if stored[ask[0]].get(ask[1]) == at}
        found = {name: agreed[self._backends, name] for name in names if (self._backends, name) in agreed}
        return {name: _backend(at) for name, at in found.items()}, agreed.get((self._proxy65, key))

    def set_routes(self, hosts: Sequence[DomainName], backend: Backend) -> bool:
        address = ipaddress.ip_address(backend.address)
        if not 0 < backend.base_port < 65536 - 10:
            raise Rejected(f"{backend.base_port} is no base port.")
        return self._change(self._backends, {_host(h): f"{address}/{backend.base_port}" for h in hosts})

    def delete_routes(self, hosts: Sequence[DomainName]) -> bool:
        return self._change(self._backends, {_host(h): None for h in hosts})

    def tcp_ports(self) -> Mapping[int, str]:
        """Public proxy65 port -> address, where the running HAProxy and the file agree."""
        running, stored = self._running(self._proxy65), _read(self._proxy65)
        return {int(port): at for port, at in running.items() if stored.get(port) == at}

    def set_tcp_port(self, port: int, address: str) -> bool:
        return self._change(self._proxy65, {str(int(port)): str(ipaddress.ip_address(address))})

    def delete_tcp_port(self, port: int) -> bool:
        return self._change(self._proxy65, {str(int(port)): None})

    def _change(self, file: Path, wanted: Mapping[str, str | None]) -> bool:
        """Bring these keys of one map to these values (None: not there). True if anything changed."""
        with self._exclusive():
            stored = _read(file)
            after = {**stored, **{k: v for k, v in wanted.items() if v is not None}}
            for key, value in wanted.items():
                if value is None:
                    after.pop(key, None)
            if after != stored:
                _write(file, after)
            running = self._look_up([(file, key) for key in wanted])
            commands = []
            for key, value in wanted.items():
                if running.get((file, key)) == value:
                    continue
                if value is None:
                    commands.append(f"del map {file} {key}")
                else:
                    commands.append(f"{'set' if (file, key) in running else 'add'} map {file} {key} {value}")
            for command in commands:
                answer = self._say(command)
                if answer.strip():
                    raise Rejected(
                        f"HAProxy refused {command.split(' ', 2)[0]!r} on {file.name}: {answer.strip()[:200]}",
                        remedy="Check that it was started with the configuration that Roost renders.",
                    )
            return bool(commands) or after != stored

    def _running(self, file: Path) -> dict[str, str]:
        answer = self._say(f"show map {file}")
        entries = {}
        for line in answer.splitlines():
            words = line.split()
            if len(words) == 3 and words[0].startswith("0x"):
                entries[words[1]] = words[2]
            elif words:
                raise Rejected(
                    f"HAProxy has no map {file}: {line[:200]}",
                    remedy="Start it with the configuration that Roost renders.",
                )
        return entries

    def _look_up(self, asked: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
        """(map, key) -> value in the running HAProxy, of those that it has. The keys are checked by the callers."""
        found = {}
        per_line = max(1, LINE // max((len(f"get map {file} {key}") + 1 for file, key in asked), default=1))
        for start in range(0, len(asked), per_line):
            part = asked[start : start + per_line]
            answer = self._say(*(f"get map {file} {key}" for file, key in part))
            lines = [line for line in answer.splitlines() if line]
            if len(lines) != len(part):
                raise Unavailable(f"The edge answered {len(lines)} of {len(part)} questions; it is asked again.")
            for ask, line in zip(part, lines, strict=True):
                hit = _FOUND.match(line)
                if hit is not None and hit["key"] == ask[1]:
                    found[ask] = hit["value"]
                elif hit is not None or not _MISSING.match(line):
                    raise Rejected(
                        f"HAProxy has no map {ask[0]}: {line[:200]}",
                        remedy="Start it with the configuration that Roost renders.",
                    )
        return found

    def _stored(self, file: Path) -> dict[str, str]:
        """The file's entries, parsed once for each version of it: it is only ever replaced as a whole."""
        try:
            status = file.stat()
        except FileNotFoundError:
            return {}
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._read_before.get(file)
        if known is None or known[0] != version:
            known = self._read_before[file] = (version, _read(file))
        return known[1]

    def _say(self, *commands: str) -> str:
        """Commands on a connection of their own, in one line; the whole answer."""
        for command in commands:
            if not re.match(r"^[ -~]+\Z", command) or ";" in command or "<<" in command:
                raise Rejected("That is no command for HAProxy's socket.")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(";".join(commands).encode() + b"\n")
                chunks = []
                while chunk := connection.recv(65536):
                    chunks.append(chunk)
        except OSError as error:
            raise Unavailable(
                f"The edge does not answer on {self._socket}: {error.strerror or error}.",
                remedy="Check that HAProxy runs and that this user may use its socket.",
            ) from error
        return b"".join(chunks).decode(errors="replace")

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One writer at a time: the files are read, changed and replaced as a whole."""
        try:
            with self._lock.open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Unavailable(f"The edge's maps in {self._lock.parent} cannot be written: {error.strerror}.") from error


def _host(name: DomainName) -> str:
    if not _HOST.match(name.ascii):
        raise Rejected(f"{name.ascii!r} is no host name.")
    return name.ascii


def _backend(at: str) -> Backend:
    address, _, port = at.partition("/")
    return Backend(address, int(port))


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2}


def _write(file: Path, entries: Mapping[str, str]) -> None:
    """Replace the file in one step, so that a HAProxy that starts now reads the old or the new, never half."""
    text = "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
