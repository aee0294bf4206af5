"""A small real world for the engines' contract: Knot, a CA, and two instances of one engine behind PROXY v2.

Each instance is written and started as a node would do it: the driver's files, the certificate, the
program as a user of its own. Forwarders (``proxy_v2``) stand for the edge on the standard ports.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from controlplane.drivers.engine.base import EngineControl, EngineDriver
from controlplane.values.bundle import STANDARD_DIRS, Program
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import Components, Contact, InstanceSpec, Limits, Listen, Paths, Turn
from tests.servers.little_ca import LittleCa
from tests.servers.proxy_v2 import Forwarder

STANDARD_PORTS = {"c2s": 5222, "c2s_tls": 5223, "s2s": 5269, "s2s_tls": 5270, "https": 443}
SRV_PORTS = {"xmpp-client": 5222, "xmpps-client": 5223, "xmpp-server": 5269, "xmpps-server": 5270}
CONTROL_GID = 61999
#: A machine on which much else is tested compiles ejabberd's modules for longer than a node ever would.
BUSY_S = 240.0


@dataclass
class Instance:
    """One engine process of one tenant. ``uid``: its unix user; without root everything runs as the caller."""

    driver: EngineDriver
    spec: InstanceSpec
    edge: str
    ca: LittleCa
    uid: int
    process: subprocess.Popen[bytes] | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    forwarders: dict[str, Forwarder] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return Path(self.spec.paths.root)

    @property
    def domain(self) -> str:
        return self.spec.domain.ascii

    @property
    def control(self) -> EngineControl:
        return self.driver.control(self.spec)

    @property
    def _as_root(self) -> bool:
        return os.geteuid() == 0

    def own(self, path: Path, *, user: int = 0, group: int | None = None) -> None:
        if self._as_root:
            os.chown(path, user, self.uid if group is None else group)

    def write(self) -> set[str]:
        """What the node's converge module does; returns the wanted ``on_change`` of what differed."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in STANDARD_DIRS:
            path = self.root / directory.path
            path.mkdir(exist_ok=True)
            self.own(
                path,
                user=self.uid if directory.owner == "tenant" else 0,
                group=CONTROL_GID if directory.group == "control" else None,
            )
            path.chmod(directory.mode)
        wanted = set()
        for file in self.driver.files(self.spec):
            path = self.root / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self.own(path.parent)
            path.parent.chmod(0o750)
            if not path.exists() or path.read_bytes() != file.content:
                wanted.add(file.on_change)
                self._place(path, file.content, file.mode)
        return wanted

    def certify(self, ca: LittleCa | None = None) -> str:
        """Issue and install a new certificate; returns it (PEM)."""
        chain, key = (ca or self.ca).issue([n.ascii for n in self.spec.server_names])
        certs = self.root / "certs"
        for name, text in (("chain.pem", chain), ("key.pem", key), ("trust.pem", self.ca.root_pem)):
            self._place(certs / name, text.encode(), 0o640)
        return chain

    def _place(self, path: Path, content: bytes, mode: int) -> None:
        new = path.with_name(path.name + ".new")
        new.write_bytes(content)
        new.chmod(mode)
        self.own(new)
        new.replace(path)

    def start(self) -> None:
        program: Program = self.driver.program(self.spec)
        ready = self.root / program.ready_socket
        with contextlib.suppress(FileNotFoundError):
            ready.unlink()
        with (self.root / "out.log").open("ab") as log:
            self.process = subprocess.Popen(
                program.argv,
                cwd=self.root,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **dict(program.env)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                umask=program.umask,
                user=self.uid if self._as_root else None,
                group=self.uid if self._as_root else None,
                extra_groups=[] if self._as_root else None,
            )
        deadline = time.monotonic() + max(program.ready_timeout_s, BUSY_S)
        while not self._answers(ready):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.domain} did not start:\n{self.words()}")
            time.sleep(0.05)

    @staticmethod
    def _answers(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(str(path)) == 0

    def words(self) -> str:
        """The ends of its logs, for a failed test's message."""
        logs = [self.root / "out.log", *sorted((self.root / "log").glob("*"))]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs if log.is_file())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def change(self, **fields: object) -> None:
        """Give it another spec, as the control plane would: write, then reload or restart as the driver says."""
        self.spec = replace(self.spec, **fields)  # type: ignore[arg-type]
        wanted = self.write()
        if "restart" in wanted:
            self.restart()
        elif "reload" in wanted:
            self.control.reload()

    def open_edge(self) -> None:
        for service, port in STANDARD_PORTS.items():
            target = (self.spec.listen.address, self.spec.listen.port(service))
            self.forwarders[service] = self._stack.enter_context(Forwarder((self.edge, port), target))

    def swallow_links(self) -> int:
        """The streams that other servers have opened to it become black holes; how many connections there were."""
        return sum(self.forwarders[service].swallow() for service in ("s2s", "s2s_tls"))

    def close(self) -> None:
        self._stack.close()
        self.stop()

    def tls(self, service: str = "https", *, name: str = "", alpn: str = "") -> ssl.SSLSocket:
        """A verified TLS connection through the edge to a direct-TLS service."""
        context = ssl.create_default_context(cadata=self.ca.root_pem)
        if alpn:
            context.set_alpn_protocols([alpn])
        plain = socket.create_connection((self.edge, STANDARD_PORTS[service]), timeout=10)
        return context.wrap_socket(plain, server_hostname=name or self.domain)

    def https(
        self,
        method: str,
        path: str,
        *,
        host: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One HTTPS request through the edge; the response and its body."""
        connection = http.client.HTTPSConnection(host or self.domain, timeout=10)
        connection.sock = self.tls(name=host or self.domain)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()


@dataclass
class World:
    """``acme`` and ``globex``, two instances of one engine, with their names in a real DNS."""

    directory: Path
    acme: Instance
    globex: Instance
    resolver: str
    roots_pem: str

    def jid(self, local: str, instance: Instance | None = None) -> str:
        return f"{local}@{(instance or self.acme).domain}"


def make_spec(key: str, domain: str, *, engine: str, root: Path, number: int, network: str) -> InstanceSpec:
    """A spec of ordinary values, on loopback addresses below ``network`` ("127.61")."""
    name = DomainName.parse(domain)
    return InstanceSpec(
        key=key,
        engine=engine,
        domain=name,
        components=Components.below(name),
        listen=Listen(f"{network}.128.{number}", 7000 + 10 * number, 20000 + number),
        paths=Paths(PurePosixPath(root)),
        turn=Turn(DomainName.parse("turn.example"), 3478, Secret('a-"turn"-secret'), key),
        limits=Limits(upload_max_bytes=1_000_000, upload_quota_bytes=5_000_000),
        display_name=f"{key} & sons",
        contacts=(Contact("abuse", f"mailto:abuse@{domain}"), Contact("support", f"xmpp:help@{domain}")),
        admins=(Jid(Localpart("boss"), name),),
        resolver=f"{network}.0.53@53",
        edge_addresses=(f"{network}.1.{number}",),
    )


def zone_text(instances: list[Instance], server: str) -> str:
    """All of ``example.`` as the control plane would publish it."""
    lines = ["$ORIGIN example.", "$TTL 5", "@ SOA ns.example. admin.example. 1 60 60 600 5", "@ NS ns.example."]
    lines += [f"ns A {server}"]
    for instance in instances:
        spec, target = instance.spec, f"{instance.spec.key}.hosts.example."
        lines.append(f"{target} A {instance.edge}")
        lines += [f"_{s}._tcp.{spec.domain}. SRV 0 5 {port} {target}" for s, port in SRV_PORTS.items()]
        for component in spec.components.all():
            lines += [
                f"_{s}._tcp.{component}. SRV 0 5 {SRV_PORTS[s]} {target}" for s in ("xmpp-server", "xmpps-server")
            ]
        lines += [f"{name}. A {instance.edge}" for name in spec.server_names]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def knot(directory: Path, server: str, zone: str) -> Iterator[None]:
    """An authoritative server for ``example.`` on port 53 of ``server``."""
    directory.mkdir()
    (directory / "example.zone").write_text(zone)
    (directory / "knot.conf").write_text(
        f"server:\n  listen: {server}@53\n  rundir: {directory}\ndatabase:\n  storage: {directory}\n"
        f"log:\n  - target: stderr\n    any: warning\n"
        f"zone:\n  - domain: example\n    file: {directory}/example.zone\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["knotd", "-c", str(directory / "knot.conf")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as s:
                if s.connect_ex((server, 53)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "log").read_text())
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running_world(
    driver: EngineDriver, *, network: str, peer_driver: EngineDriver | None = None, alone: bool = False
) -> Iterator[World]:
    """Two started instances. ``network``: the first two octets of the caller's loopback addresses.

    ``peer_driver``: the second one's engine, if it is another. ``alone``: there is no second one.
    """
    directory = Path(tempfile.mkdtemp(prefix="eng"))
    directory.chmod(0o755)
    ca, server = LittleCa(), f"{network}.0.53"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        instances = []
        both = ((1, "acme", driver), (2, "globex", peer_driver or driver))
        for number, key, engine in both[:1] if alone else both:
            spec = make_spec(
                f"{key}77"[:8],
                f"{key}.example",
                engine=engine.name,
                root=directory / key,
                number=number,
                network=network,
            )
            instances.append(Instance(engine, spec, f"{network}.1.{number}", ca, 61000 + number))
        stack.enter_context(knot(directory / "knot", server, zone_text(instances, server)))
        for instance in instances:
            stack.callback(instance.close)
            instance.write()
            instance.certify()
            instance.start()
            instance.open_edge()
        yield World(directory, instances[0], instances[-1], f"{server}@53", ca.root_pem)
