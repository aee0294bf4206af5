"""Names: PowerDNS is authoritative for the provider's zone, unbound the resolver of tenants' servers and of checks.

unbound keeps answers for seconds only, so that a changed address is seen soon, as with short TTLs in the world.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import sqlite3
from pathlib import Path

from launcher import checks, files
from launcher.layout import ZONE, Layout
from launcher.programs import Program

SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")

PDNS = """\
# Written by Roost; changes are overwritten.
launch=gsqlite3
gsqlite3-database={base}/db/pdns.sqlite
gsqlite3-pragma-synchronous=1
gsqlite3-pragma-foreign-keys=1
local-address={address}
local-port=53
socket-dir={base}/run
daemon=no
guardian=no
setuid=pdns
setgid=pdns
# A change counts at once: the control plane looks right after it wrote.
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
default-soa-content=ns.{zone} hostmaster.@ 0 3600 600 604800 1
api=yes
api-key={api_key}
webserver=yes
webserver-address={address}
webserver-port=8081
webserver-allow-from={network}
webserver-loglevel=none
security-poll-suffix=
version-string=anonymous
receiver-threads=1
distributor-threads=1
signing-threads=1
loglevel=4
"""

UNBOUND = """\
# Written by Roost; changes are overwritten.
server:
  interface: {resolver}
  port: 53
  username: "unbound"
  chroot: ""
  directory: "{base}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 1
  num-threads: 1
  do-daemonize: no
  do-ip6: no
  access-control: {network} allow
  do-not-query-localhost: no
  module-config: "iterator"
  cache-max-ttl: 5
  cache-max-negative-ttl: 1
  # A server that was away is asked again within seconds.
  infra-host-ttl: 2
  infra-keep-probing: yes
  minimal-responses: no
  msg-cache-size: 4m
  rrset-cache-size: 8m
remote-control:
  control-enable: no
stub-zone:
  name: "example."
  stub-addr: {authoritative}@53
{forward}"""


def prepare(layout: Layout, api_key: str) -> list[Program]:
    return [_powerdns(layout, api_key), _unbound(layout)]


def _powerdns(layout: Layout, api_key: str) -> Program:
    base = files.directory(layout.state / "pdns")
    files.directory(base / "db", owner="pdns", group="pdns", mode=0o750)
    files.directory(base / "run", owner="pdns", group="pdns")
    _make_database(base / "db" / "pdns.sqlite")
    address = layout.authoritative_address
    text = PDNS.format(base=base, address=address, api_key=api_key, zone=ZONE, network=layout.own_network)
    files.write(base / "pdns.conf", text, mode=0o640, group="pdns")
    return Program(
        name="pdns",
        title="PowerDNS (authoritative)",
        argv=["/usr/sbin/pdns_server", f"--config-dir={base}", "--disable-syslog", "--log-timestamp=yes"],
        user="root",  # it binds port 53, then becomes pdns
        ready=lambda: checks.http_ok(f"{layout.powerdns_url}/api/v1/servers/localhost", {"X-API-Key": api_key}),
        remedy="see `./roost logs pdns`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=20,
        ports=[("udp", address, 53), ("tcp", address, 53), ("tcp", address, 8081)],
    )


def _make_database(path: Path) -> None:
    """The tables, in a file that belongs to pdns; a half-made one is made anew."""
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as database:
        made = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tsigkeys'").fetchone()[0]
        if not made:
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall():
                database.execute(f'DROP TABLE "{name}"')
            database.executescript(SCHEMA.read_text())
    entry = pwd.getpwnam("pdns")
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _unbound(layout: Layout) -> Program:
    base = files.directory(layout.state / "unbound", owner="unbound", group="unbound")
    text = UNBOUND.format(
        resolver=layout.resolver_address,
        network=layout.own_network,
        base=base,
        authoritative=layout.authoritative_address,
        forward=forward_clause(Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""),
    )
    files.write(base / "unbound.conf", text)
    return Program(
        name="unbound",
        title="unbound (resolver)",
        argv=["/usr/sbin/unbound", "-d", "-c", str(base / "unbound.conf")],
        user="root",  # it binds port 53, then becomes unbound
        ready=lambda: checks.dns(layout.resolver_address, "localhost"),
        remedy="see `./roost logs unbound`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=25,
        ports=[("udp", layout.resolver_address, 53), ("tcp", layout.resolver_address, 53)],
    )


def forward_clause(resolv_conf: str) -> str:
    """Every other name goes to the machine's own name servers; without any, unbound asks the root servers itself."""
    servers = [
        words[1].partition("%")[0]
        for words in (line.split() for line in resolv_conf.splitlines())
        if len(words) > 1 and words[0] == "nameserver"
    ]
    if not servers:
        return ""
    return 'forward-zone:\n  name: "."\n' + "".join(f"  forward-addr: {server}\n" for server in servers[:3])
