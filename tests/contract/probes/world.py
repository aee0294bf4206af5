"""A small real world for the probes: Knot, one Prosody with a host for every fault, one ejabberd, one coturn.

Every host is right but for the one thing its name says. Each server runs in the foreground under one
directory, on loopback addresses of this suite, and is ended by its process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.drivers.turn.coturn import Coturn
from controlplane.values.secret import Secret
from tests.servers.coturn import coturn, turn_config

DNS = "127.67.0.3"
PROSODY = "127.67.0.1"
EJABBERD = "127.67.0.2"
TURN = "127.67.0.5"
CLOSED_TURN = "127.67.0.6"  # answers, and relays to no loopback address
SILENT = "127.67.0.98"  # takes connections while a test wants it to, and says nothing
NOBODY = "127.67.0.99"  # nothing listens there
TURN_SECRET = "a-turn-secret"
PASSWORD = "p r;o\"b'e"
# Not the standard ports: a server of this machine may have those on every address.
SERVICES = {"xmpp-client": 7222, "xmpps-client": 7223, "xmpp-server": 7269, "xmpps-server": 7270}
HTTPS_PORT = 7443
COMPONENTS = ("conference", "upload", "proxy")


@dataclass(frozen=True)
class Host:
    """One domain. ``issuer``: good, rogue or expired; ``names``: of its certificate, its own by default."""

    domain: str
    engine: str = PROSODY
    services: tuple[str, ...] = tuple(SERVICES)
    ports: tuple[tuple[str, int], ...] = ()  # other ports than the standard ones in SRV records
    target_address: str = ""
    issuer: str = "good"
    names: tuple[str, ...] = ()
    components: tuple[str, ...] = COMPONENTS
    mute: tuple[str, ...] = ()  # components that are there and can do nothing
    without: tuple[str, ...] = ()  # Prosody modules left out
    turn_secret: str = TURN_SECRET
    turn_host: str = "turn.example"
    settings: str = ""  # further Prosody lines for the host
    upload_url: str = ""
    room_settings: str = "modules_enabled = { 'muc_mam' }; muc_log_by_default = true"
    address: bool = True  # the domain itself has one
    host_meta: str = "good"  # or none, dead (an endpoint that is not there), other (JSON says other things)

    def certificate_names(self) -> list[str]:
        return list(self.names) or [self.domain, *(f"{c}.{self.domain}" for c in COMPONENTS)]


HOSTS = (
    Host("good.example"),
    Host("other.example"),
    Host("nosrv.example", services=()),
    Host("halfsrv.example", services=("xmpp-client", "xmpp-server")),
    Host("deadtarget.example", target_address=NOBODY),
    Host("silent.example", target_address=SILENT),
    Host("deadport.example", ports=(("xmpps-server", 7299),)),
    Host("notarget.example", target_address="-"),
    Host("othername.example", names=("somebody-else.example",)),
    Host("bareonly.example", names=("bareonly.example",)),
    Host("expired.example", issuer="expired"),
    Host("untrusted.example", issuer="rogue"),
    Host("nomam.example", without=("mam",)),
    Host("noupload.example", components=("conference", "proxy")),
    Host("muteupload.example", mute=("upload",)),
    Host("muterooms.example", mute=("conference",)),
    Host("lostupload.example", upload_url="https://lostupload.example:7443/nothing-here/"),
    Host("nomuc.example", components=("upload", "proxy")),
    Host("noroomarchive.example", room_settings="modules_enabled = { 'muc_mam' }; muc_log_by_default = false"),
    Host("lockedrooms.example", room_settings="modules_enabled = { 'muc_mam' }; restrict_room_creation = true"),
    Host("nocarbons.example", without=("carbons", "smacks", "csi_simple", "cloud_notify")),
    Host("nopep.example", without=("pep", "bookmarks")),
    Host("noturn.example", without=("turn_external",)),
    Host("noextdisco.example", without=("turn_external", "external_services")),
    Host("badturn.example", turn_secret="not-the-secret"),
    Host("closedturn.example", turn_host="closed-turn.example"),
    Host("deadturn.example", turn_host="dead.example"),
    Host("plainonly.example", settings='disable_sasl_mechanisms = { "SCRAM-SHA-1", "SCRAM-SHA-256" }'),
    Host("noaddress.example", address=False),
    Host("nohostmeta.example", host_meta="none"),
    Host("deadsocket.example", host_meta="dead"),
    Host("twofaced.example", host_meta="other"),
    Host("ej.example", engine=EJABBERD),
)

MODULES = (  # noqa: SIM905
    "roster saslauth tls dialback disco posix private vcard4 vcard_legacy ping time uptime version blocklist carbons"
    " pep bookmarks csi_simple smacks mam http bosh websocket external_services turn_external admin_shell"
    " cloud_notify s2s s2s_auth_certs http_files"
).split()


def wait_for(what: str, ready: object, *, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Until ``ready()`` is true; fails with the process's own words when it ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode}")
        if ready():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise RuntimeError(f"{what} was not ready after {seconds} s")


def listening(address: str, port: int) -> bool:
    with contextlib.closing(socket.socket()) as s:
        return s.connect_ex((address, port)) == 0


@contextlib.contextmanager
def running(
    argv: list[str], directory: Path, *, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "out.log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def zone_text() -> str:
    """All of ``example.``, static: faults are hosts of their own, so nothing has to be changed while it runs."""
    lines = [
        "$ORIGIN example.",
        "$TTL 60",
        "@ SOA ns.example. admin.example. 1 60 60 600 5",
        "@ NS ns.example.",
        f"ns A {DNS}",
        f"turn A {TURN}",
        f"closed-turn A {CLOSED_TURN}",
    ]
    for host in HOSTS:
        target = f"xmpp.hosts.{host.domain}."
        ports = SERVICES | dict(host.ports)
        if host.target_address != "-":
            lines.append(f"{target} A {host.target_address or host.engine}")
        lines += [f"_{name}._tcp.{host.domain}. SRV 0 5 {ports[name]} {target}" for name in host.services]
        for component in COMPONENTS:
            name = f"{component}.{host.domain}."
            lines.append(f"{name} A {host.engine}")
            lines.append(f"_xmpp-server._tcp.{name} SRV 0 5 {SERVICES['xmpp-server']} {target}")
        if host.address:
            lines.append(f"{host.domain}. A {host.engine}")
    lines += ["_xmpp-server._tcp.down.example. SRV 0 5 7269 dead.example.", f"dead A {NOBODY}"]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def knot(directory: Path) -> Iterator[None]:
    directory.mkdir()
    (directory / "example.zone").write_text(zone_text())
    (directory / "knot.conf").write_text(
        f"""server:
  listen: {DNS}@53
  rundir: {directory}
database:
  storage: {directory}
log:
  - target: stderr
    any: info
zone:
  - domain: example
    file: {directory}/example.zone
"""
    )
    with running(["knotd", "-c", str(directory / "knot.conf")], directory) as process:
        wait_for("knotd", lambda: listening(DNS, 53), process=process)
        yield


def lua(text: str) -> str:
    return json.dumps(text)  # the tests' own constants: ASCII without control characters


def prosody_config(directory: Path) -> str:
    hosts = []
    for host in (h for h in HOSTS if h.engine == PROSODY):
        enabled = [m for m in MODULES if m not in host.without]
        hosts.append(
            f"VirtualHost {lua(host.domain)}\n"
            f"  modules_enabled = {{ {', '.join(map(lua, enabled))} }}\n"
            f"  modules_disabled = {{ {', '.join(map(lua, host.without))} }}\n"
            f"  turn_external_host = {lua(host.turn_host)}; turn_external_secret = {lua(host.turn_secret)}\n"
            f"  {host.settings}\n"
            f"  http_files_dir = '{directory}/www/{host.domain}'; http_paths = {{ files = '/' }}\n"
        )
        for component in host.components:
            kind = {"conference": "muc", "upload": "http_file_share", "proxy": "proxy65"}[component]
            name = f"{component}.{host.domain}"
            if component in host.mute:
                hosts.append(f"Component {lua(name)}\n  modules_enabled = {{ 'http_files' }}\n")
                continue
            hosts.append(f"Component {lua(name)} {lua(kind)}\n")
            if component == "conference":
                hosts.append(f"  {host.room_settings}\n")
            if component == "upload":
                url = host.upload_url or f"https://{name}:{HTTPS_PORT}/"
                hosts.append(f"  http_external_url = {lua(url)}\n  http_file_share_access = {{ {lua(host.domain)} }}\n")
            if component == "proxy":
                hosts.append(f"  proxy65_address = {lua(name)}\n")
    return f"""
run_as_root = true
pidfile = "{directory}/prosody.pid"
data_path = "{directory}/data"
certificates = "{directory}/certs"
network_backend = "epoll"
interfaces = {{ "{PROSODY}" }}
c2s_ports = {{ {SERVICES["xmpp-client"]} }}; c2s_direct_tls_ports = {{ {SERVICES["xmpps-client"]} }}
s2s_ports = {{ {SERVICES["xmpp-server"]} }}; s2s_direct_tls_ports = {{ {SERVICES["xmpps-server"]} }}
http_ports = {{}}; https_ports = {{ {HTTPS_PORT} }}
proxy65_ports = {{ 7500 }}
unbound = {{ resolvconf = false; hoststxt = false; forward = {{ "{DNS}" }} }}
ssl = {{ cafile = "{directory}/certs/ca.pem" }}
admin_socket = "{directory}/admin.sock"
authentication = "internal_hashed"
allow_unencrypted_plain_auth = false
s2s_secure_auth = true
storage = "internal"
log = {{ info = "{directory}/prosody.log" }}
modules_enabled = {{ "tls", "dialback", "s2s", "s2s_auth_certs" }} -- components inherit these
modules_disabled = {{ "offline" }}
""" + "\n".join(hosts)


def prosody_shell(path: Path, command: str) -> str:
    """One line to Prosody's admin shell over its unix socket; the answer's text."""
    header = (
        "<stream:stream xmlns='xmpp:prosody.im/admin' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
    )
    text = command.replace("&", "&amp;").replace("<", "&lt;")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.settimeout(60)  # on a busy machine it is still loading its hosts
        s.connect(str(path))
        s.sendall(f"{header}<repl-input>{text}</repl-input>".encode())
        data = b""
        while b"</repl-result>" not in data and b"/>" not in data.rpartition(b"<repl-result")[2]:
            chunk = s.recv(65536)
            if not chunk:
                break
            data += chunk
    return data.decode()


def write_host_meta(directory: Path, host: Host) -> None:
    """XEP-0156, both forms."""
    directory.mkdir(parents=True)
    if host.host_meta == "none":
        return
    path = "nothing-here" if host.host_meta == "dead" else "xmpp-websocket"
    links = {
        "urn:xmpp:alt-connections:websocket": f"wss://{host.domain}:{HTTPS_PORT}/{path}",
        "urn:xmpp:alt-connections:xbosh": f"https://{host.domain}:{HTTPS_PORT}/http-bind",
    }
    xrd = "".join(f"<Link rel='{rel}' href='{href}'/>" for rel, href in links.items())
    (directory / "host-meta").write_text(
        f"<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>{xrd}</XRD>"
    )
    if host.host_meta == "other":
        links.popitem()
    rows = [{"rel": rel, "href": href} for rel, href in links.items()]
    (directory / "host-meta.json").write_text(json.dumps({"links": rows}))


@contextlib.contextmanager
def prosody(directory: Path) -> Iterator[None]:
    """``directory/certs`` has to hold the certificates already."""
    (directory / "data").mkdir()
    for host in (h for h in HOSTS if h.engine == PROSODY):
        write_host_meta(directory / "www" / host.domain / ".well-known", host)
    (directory / "prosody.cfg.lua").write_text(prosody_config(directory))
    argv = ["prosody", "--config", str(directory / "prosody.cfg.lua"), "-F"]
    with running(argv, directory) as process:
        admin = directory / "admin.sock"
        wait_for("prosody", lambda: admin.exists() and listening(PROSODY, SERVICES["xmpp-client"]), process=process)
        for host in (h for h in HOSTS if h.engine == PROSODY):
            for user in ("roost-probe", "ann"):
                answer = prosody_shell(admin, f"user:create({lua(f'{user}@{host.domain}')}, {lua(PASSWORD)})")
                if "OK" not in answer and "created" not in answer:
                    raise RuntimeError(f"prosody refused {user}@{host.domain}: {answer}")
        yield


@contextlib.contextmanager
def turn(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for address in (TURN, CLOSED_TURN):
            here = directory / address
            here.mkdir(parents=True)
            config = turn_config(here, address, allow_loopback_peers=address == TURN)
            stack.enter_context(coturn(here, config))
            Coturn(Path(config.database), config.realm).add_secret(Secret(TURN_SECRET))
        yield


@dataclass
class World:
    """What a test needs to know of it all."""

    directory: Path
    roots_pem: str
    serials: dict[str, int] = field(default_factory=dict)

    resolver: str = f"{DNS}@53"

    def shell(self, line: str) -> str:
        """Prosody's answer to a line in its admin shell, without the markup."""
        answer = prosody_shell(self.directory / "prosody" / "admin.sock", line)
        return re.sub(r"<[^>]*>", "", answer.rpartition("<repl-result")[2].partition(">")[2]).strip()
