"""The edge's HAProxy configuration, rendered from a typed value: standard ports of every tenant on one address.

Pure and standard library only, so the launcher and ansible use it as it is. Who is routed where is not in
it: that is the map ``backends.map`` (host -> ``address/base port``), which ``haproxy.HaproxyEdge`` changes
while HAProxy runs, and ``proxy65.map`` (port -> address).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from controlplane.drivers.edge.agent import BACKENDS_MAP, PROXY65_MAP

_WORD = re.compile(r"^[A-Za-z0-9_.-]{1,64}\Z")
_PATH = re.compile(r"^/[A-Za-z0-9_./+@:-]+\Z")

#: Offsets from an instance's base port; the same as ``values.spec.SERVICE_OFFSETS`` (a test compares them).
OFFSETS = {"c2s": 0, "c2s_tls": 1, "s2s": 2, "s2s_tls": 3, "https": 4}

# The quotes and the NUL are written as \x..: HAProxy's own quoting would take them away. A ``to`` may come late,
# in capitals, and after other attributes; a header that is cut in two packets is waited for.
_HEADER = r"<stream:stream[^>]*[[:space:]]to=[\x22\x27][^\x22\x27>]+[\x22\x27][^>]*>"
# What is no host name's character becomes "?": it is in no map, and a line break would forge lines of the log.
_PLAIN = 'lower,regsub("[^a-z0-9.-]","?",g)'
_TO = r"^[^\\x00]*?<stream:stream[^>]*?\\sto=[\\x22\\x27]([^\\x22\\x27>]+)[\\x22\\x27][^>]*>.*$"


#: Enough for an office behind one address, far from what fills an edge.
PER_SOURCE = 500


@dataclass(frozen=True, slots=True)
class Patience:
    """When a connection counts as dead: nothing that was sent is acknowledged for ``unanswered_s``, or no keep-alive,
    of which the first is sent after ``idle_s`` and the next ``again_s`` later. All in seconds.
    """

    unanswered_s: int
    idle_s: int
    again_s: int


#: A telephone in a lift comes back and goes on; each keep-alive wakes its radio. Without an own time the machine's
#: ``tcp_retries2``, which is for links between servers, would drop it after 13 s.
CLIENTS = Patience(unanswered_s=120, idle_s=240, again_s=120)
#: A server that says nothing is gone, or has another address: the stream that it left here is taken away.
SERVERS = Patience(unanswered_s=15, idle_s=10, again_s=5)


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """What one edge listens on, and where it connects from.

    ``addresses``: where it listens, IPv4 or IPv6, or ``*`` alone for all. ``socket`` and ``map_dir``: absolute
    paths on the edge. ``acme_http``: ``address:port`` of the control plane's web process, to which validations
    on port 80 (RFC 8555 §8.3) are passed on; empty: nothing listens on port 80. ``max_connections`` 0: as many as
    the limit of open files allows. ``max_connections_per_source``: open at once from one IPv4 address or one IPv6
    network of 64 bits, over all ports; 0: no limit. ``sources``: addresses of the machine that it connects to instances
    from, one of each family at most; without one the kernel chooses, by the route, and engines believe only addresses
    that they were told.
    """

    addresses: tuple[str, ...]
    socket: str
    map_dir: str
    control_group: str = "roost"
    user: str = "haproxy"
    group: str = "haproxy"
    proxy65_ports: tuple[int, int] = (20000, 21999)
    acme_http: str = ""
    max_connections: int = 0
    max_connections_per_source: int = PER_SOURCE
    https_port: int = 443
    sources: tuple[str, ...] = ()


def render_haproxy_cfg(config: EdgeConfig) -> str:
    """The whole of ``haproxy.cfg``. Raises ``ValueError`` for a value that does not belong into it."""
    _check(config)
    maps = PurePosixPath(config.map_dir)
    backends, proxy65 = maps / BACKENDS_MAP, maps / PROXY65_MAP
    parts = [_global(config)]
    parts += [
        _starttls("c2s", _binds(config, 5222), backends),
        _direct("c2s_tls", _binds(config, 5223), backends),
        _starttls("s2s", _binds(config, 5269, SERVERS), backends),
        _direct("s2s_tls", _binds(config, 5270, SERVERS), backends),
        _https(_binds(config, config.https_port), backends),
        _proxy65(config, proxy65),
    ]
    if config.acme_http:
        parts.append(_acme(config))
    parts.append(_backends(config))
    if config.max_connections_per_source:
        parts.append(_SOURCES)
    return "\n".join(parts)


def _check(config: EdgeConfig) -> None:
    for word in (config.control_group, config.user, config.group):
        if not _WORD.match(word):
            raise ValueError(f"not a user or group name: {word!r}")
    for path in (config.socket, config.map_dir):
        if not _PATH.match(path):
            raise ValueError(f"not an absolute path without spaces: {path!r}")
    for address in config.addresses:
        if address != "*":
            ipaddress.ip_address(address)
    if len({ipaddress.ip_address(source).version for source in config.sources}) != len(config.sources):
        raise ValueError(f"more than one address of a family to connect from: {config.sources}")
    if not config.addresses:
        raise ValueError("the edge needs an address to listen on")
    low, high = config.proxy65_ports
    if not 1024 <= low <= high < 65536:
        raise ValueError(f"not a range of ports: {config.proxy65_ports}")
    for number in (config.max_connections, config.max_connections_per_source):
        if not 0 <= number < 2**31:
            raise ValueError(f"not a number of connections: {number}")
    if config.acme_http and not re.match(r"^[A-Za-z0-9.:\[\]-]+:\d{1,5}\Z", config.acme_http):
        raise ValueError(f"not address:port: {config.acme_http!r}")


def _bind(address: str, port: str | int) -> str:
    if address == "*":
        return f"  bind :::{port} v4v6"
    return f"  bind [{address}]:{port}" if ":" in address else f"  bind {address}:{port}"


def _binds(config: EdgeConfig, port: str | int, patience: Patience = CLIENTS) -> str:
    """A frontend's first lines: where it listens, how long it believes in who says nothing, and whose connection it
    drops before it reads anything.
    """
    lines = [f"{_bind(address, port)} tcp-ut {patience.unanswered_s}s" for address in config.addresses]
    if patience != CLIENTS:
        lines += [
            f"  clitcpka-idle {patience.idle_s}s",
            f"  clitcpka-intvl {patience.again_s}s",
        ]
    if config.max_connections_per_source:
        lines.append("  tcp-request connection track-sc0 src,ipmask(32,64) table sources")
        # The connection that is looked at is counted already.
        limit = config.max_connections_per_source
        lines.append(f"  tcp-request connection reject if {{ sc0_conn_cur(sources) gt {limit} }}")
    return "\n".join(lines)


def _global(config: EdgeConfig) -> str:
    limit = f"  maxconn {config.max_connections}\n" if config.max_connections else ""
    return f"""\
# Rendered by Roost (controlplane/drivers/edge/config.py). Tenants are in the maps, not in here.
global
  log stdout format raw local0 info
  user {config.user}
  group {config.group}
{limit}  stats socket {config.socket} mode 660 group {config.control_group} level admin
  stats timeout 10s
  # A reload must not end what is open: the old process goes when its last connection does, or after this.
  hard-stop-after 12h

defaults
  mode tcp
  log global
  log-format "%ci:%cp %ft %[var(sess.host)] -> %[var(sess.at)] %ts %Tw/%Tc/%Tt ms %U/%B bytes"
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  # Both directions of a session that runs: dead peers are found by the kernel's keep-alives and by the engines.
  timeout tunnel 24h
  timeout client-fin 10s
  timeout server-fin 10s
  option clitcpka
  option srvtcpka
  clitcpka-idle {CLIENTS.idle_s}s
  clitcpka-intvl {CLIENTS.again_s}s
  clitcpka-cnt 2
  option dontlognull
  retries 1
"""


def _destination(offset: int, when: str) -> str:
    return f"""\
  tcp-request content set-dst var(sess.at),field(1,/) if {when}
  tcp-request content set-dst-port var(sess.at),field(2,/),add({offset}) if {when}
  tcp-request content accept if {when}"""


def _starttls(name: str, binds: str, backends: PurePosixPath) -> str:
    """Streams that begin in the clear: the host is the ``to`` of the stream header (RFC 6120 §4.7.2)."""
    return f"""\
frontend {name}
{binds}
  tcp-request inspect-delay 5s
  # First of all, because a header that is not there yet stops the rules below: who speaks no XML is not waited for.
  acl xml req.payload(0,1) -m reg "^[<[:space:]]"
  tcp-request content reject if !xml
  acl header req.payload(0,0) -m reg -i "{_HEADER}"
  tcp-request content set-var(sess.host) 'req.payload(0,0),regsub("{_TO}","\\1",i),{_PLAIN}' if header
  tcp-request content set-var(sess.at) var(sess.host),map_str({backends}) if header
  tcp-request content reject if header !{{ var(sess.at) -m found }}
{_destination(OFFSETS[name], "header")}
  # Comes here when the time is over, or the buffer full (16 kB) without a header.
  tcp-request content reject
{_forward(name)}
"""


def _direct(name: str, binds: str, backends: PurePosixPath) -> str:
    """Streams inside TLS from the first byte (XEP-0368): the host is the SNI."""
    return f"""\
frontend {name}
{binds}
  tcp-request inspect-delay 5s
  acl hello req.ssl_hello_type 1
  tcp-request content set-var(sess.host) 'req.ssl_sni,{_PLAIN}' if hello
  tcp-request content set-var(sess.at) var(sess.host),map_str({backends}) if hello
  tcp-request content reject if hello !{{ var(sess.at) -m found }}
{_destination(OFFSETS[name], "hello")}
  tcp-request content reject if {{ req.len gt 5 }} !{{ req.ssl_ver gt 0 }}
  tcp-request content reject if WAIT_END
{_forward(name)}
"""


def _https(binds: str, backends: PurePosixPath) -> str:
    """Port 443 carries web pages and, told apart by ALPN, XMPP too (XEP-0368 §5)."""
    return f"""\
frontend https
{binds}
  tcp-request inspect-delay 5s
  acl hello req.ssl_hello_type 1
  acl alpn_client req.ssl_alpn -m sub xmpp-client
  acl alpn_server req.ssl_alpn -m sub xmpp-server
  tcp-request content set-var(sess.host) 'req.ssl_sni,{_PLAIN}' if hello
  tcp-request content set-var(sess.at) var(sess.host),map_str({backends}) if hello
  tcp-request content reject if hello !{{ var(sess.at) -m found }}
{_destination(OFFSETS["c2s_tls"], "hello alpn_client")}
{_destination(OFFSETS["s2s_tls"], "hello alpn_server")}
{_destination(OFFSETS["https"], "hello")}
  tcp-request content reject if {{ req.len gt 5 }} !{{ req.ssl_ver gt 0 }}
  tcp-request content reject if WAIT_END
{_forward("https")}
"""


def _proxy65(config: EdgeConfig, proxy65: PurePosixPath) -> str:
    """SOCKS5 bytestreams (XEP-0065): a port for each tenant, since SOCKS names no host."""
    low, high = config.proxy65_ports
    return f"""\
frontend proxy65
{_binds(config, f"{low}-{high}")}
  tcp-request content set-var(sess.at) dst_port,map_int({proxy65})
  tcp-request content reject if !{{ var(sess.at) -m found }}
  tcp-request content set-dst var(sess.at)
{_forward("proxy65")}
"""


def _forward(name: str) -> str:
    """A frontend's end. The families have backends of their own, since each is connected to from another address."""
    return f"  use_backend {name}_ipv6 if {{ var(sess.at) -m sub : }}\n  default_backend {name}_ipv4"


def _backends(config: EdgeConfig) -> str:
    sources = {4: "", 6: ""}
    for source in config.sources:
        sources[ipaddress.ip_address(source).version] = f" source [{source}]" if ":" in source else f" source {source}"
    return "\n".join(
        f"backend {name}_ipv{version}\n  server instance 0.0.0.0:0{proxy}{sources[version]}\n"
        for name, proxy in [*((name, " send-proxy-v2") for name in OFFSETS), ("proxy65", "")]
        for version in (4, 6)
    )


def _acme(config: EdgeConfig) -> str:
    return f"""\
frontend http
{_binds(config, 80)}
  mode http
  log-format "%ci:%cp %ft %HM %HU %ST"
  acl challenge path_beg /.well-known/acme-challenge/
  http-request redirect scheme https code 301 if !challenge
  default_backend acme

backend acme
  mode http
  server web {config.acme_http}
"""


# An entry does not expire while its connections are open; those without any make room for new ones.
_SOURCES = """\
backend sources
  stick-table type ipv6 size 100k expire 1m store conn_cur
"""
