"""Engines as Debian ships them, on machines of their own: the baseline that nobody tuned.

Four more hosts in a lab, two with Prosody and two with ejabberd, each with its package's own configuration: only the
domain, the certificate and the account of a first installation are its own. An address of each engine changes, DNS is
rewritten at once, and nothing else is done. What is watched and counted is ``bench/outage.py``'s.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.outage import INTERVAL_S, Change, Talkers, Watched, ask_powerdns, rewrite_zone, rows_of, slowest
from launcher.layout import Layout
from launcher.rig import network
from launcher.rig.machine import Host
from launcher.rig.processes import RigError, run
from launcher.rig.rig import Rig

ZONE = "plain.example"
TTL_S = 5
#: Host -> its engine; the last number of its address.
HOSTS = {"d1": "prosody", "d2": "prosody", "d3": "ejabberd", "d4": "ejabberd"}
NUMBER = 41
#: Of each pair the one whose address changes, and the numbers that it gets.
MOVED = ("d1", "d3")
NUMBERS = range(110, 150)
READY_S = 90.0
TITLE = "engines as Debian ships them"
#: As the packages' units for systemd start them.
PROGRAM = """\
[program:engine]
command={command}
user={user}
directory=/var/lib/{user}
environment=HOME="/var/lib/{user}",USER="{user}"
autorestart=true
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=/var/log/supervisor/engine.log
"""
COMMANDS = {"prosody": "/usr/bin/prosody -F", "ejabberd": "/usr/sbin/ejabberdctl foreground"}
#: What ejabberd's postinst makes of the package's example when no administrator was named, and then the domain.
EJABBERD_YML = r"""
sed -e "s/  - localhost/  - $1/ ; s/  ## admin/  admin/ ; 0,/  ##   user/s/  ##   user/     user/ ; s/.*ermine.*//" \
    -e 's/  ##     - "aleksey@localhost"/       - ""/' /usr/share/ejabberd/ejabberd.yml.example \
    > /etc/ejabberd/ejabberd.yml
sed -e 's/#\?ERL_OPTIONS=.*/ERL_OPTIONS="-env ERL_CRASH_DUMP_BYTES 0"/' /usr/share/ejabberd/ejabberdctl.cfg.example \
    > /etc/default/ejabberd
chown ejabberd:ejabberd /etc/ejabberd/ejabberd.yml /etc/ejabberd/ejabberd.pem
chmod 600 /etc/ejabberd/ejabberd.yml /etc/ejabberd/ejabberd.pem
"""
#: Nothing of what this machine's own server may hold, and the directories that the package's unit makes.
EMPTY = r"""
rm -rf /var/lib/"$1" /var/log/"$1"
install -d -o "$1" -g "$1" -m 750 /var/lib/"$1" /run/"$1"
install -d -o "$1" -g adm -m 2750 /var/log/"$1"
"""


class Plain(Watched):
    """The four hosts, and an account on each that writes to those whose address does not change, and back."""

    def __init__(self, layout: Layout, rig: Rig) -> None:
        super().__init__(layout)
        self.rig = rig
        self.numbers = iter(NUMBERS)
        self.roots = layout.state / "plain-root.pem"
        self.passwords = {name: secrets.token_urlsafe(12) for name in HOSTS}
        self.jids = {name: f"user@{domain_of(name)}" for name in HOSTS}
        self.names = {self.jids[name]: engine for name, engine in HOSTS.items()}
        self.moved = {self.jids[name] for name in MOVED}
        self.bystanders = set(self.jids.values()) - self.moved
        self.directions = [(a, b) for a in self.moved for b in self.bystanders]
        self.directions += [(b, a) for a, b in self.directions]

    def up(self) -> None:
        """Hosts, certificates, DNS, engines and accounts."""
        hidden = (str(self.layout.clone), str(self.layout.state))
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            make_ca(work)
            self.roots.write_text((work / "root.pem").read_text())
            for number, host_name in enumerate(HOSTS):
                host = self.rig.add(host_name, NUMBER + number, hidden=hidden)
                install(host, HOSTS[host_name], work)
        self.publish()
        for host_name, engine in HOSTS.items():
            host = self.rig.hosts[host_name]
            wait_ready(host)
            tool = {"prosody": "prosodyctl", "ejabberd": "ejabberdctl"}[engine]
            host.run(tool, "register", "user", domain_of(host_name), self.passwords[host_name])

    def talk(self) -> None:
        """Clients on each host's own machine, so that no change of its address takes their sessions away."""
        self.talkers = Talkers(self.layout)
        plan = {
            "resolver": f"{self.layout.resolver_address}@53",
            "roots": str(self.roots),
            "interval_s": INTERVAL_S,
        }
        for name, own in self.jids.items():
            account = {
                "jid": own,
                "password": self.passwords[name],
                "at": ["127.0.0.1", 5222],
                "targets": sorted(to for sender, to in self.directions if sender == own),
            }
            self.talkers.start(name, {**plan, "accounts": [account]})

    def publish(self) -> None:
        """One zone for all four, SRV records and short times to live as in Roost's own."""
        key = json.loads((self.layout.state / "secrets").read_text())["powerdns"]
        url = f"{self.layout.powerdns_url}/api/v1/servers/localhost/zones"
        sets = [(ZONE, "NS", f"ns.{ZONE}."), (f"ns.{ZONE}", "A", self.layout.authoritative_address)]
        for name in HOSTS:
            host, domain = self.rig.hosts[name], domain_of(name)
            for text in addresses(host):
                sets.append((f"xmpp.{domain}", "AAAA" if ":" in text else "A", text))
            sets.append((f"_xmpp-client._tcp.{domain}", "SRV", f"0 5 5222 xmpp.{domain}."))
            sets.append((f"_xmpp-server._tcp.{domain}", "SRV", f"0 5 5269 xmpp.{domain}."))
        rows = [
            {"name": f"{name}.", "type": kind, "ttl": TTL_S, "records": [{"content": text, "disabled": False}]}
            for name, kind, text in sets
        ]
        ask_powerdns("POST", url, {"name": f"{ZONE}.", "kind": "Native", "nameservers": [], "rrsets": rows}, key)

    def move(self) -> Change:
        """Another public address for one server of each engine, at once in DNS. No link is touched."""
        hosts = [self.rig.hosts[name] for name in MOVED]
        before = [text for host in hosts for text in addresses(host)]
        at = time.monotonic()
        for host in hosts:
            self.rig.change_address(host.name, next(self.numbers))
        whole = time.monotonic()
        rewrite_zone(self.layout, ZONE, dict(zip(before, (a for h in hosts for a in addresses(h)), strict=True)))
        return at, whole

    def begin(self) -> None:
        """All engines anew, as administrators do it: dead links would outlast the time between two runs.

        Nobody writes meanwhile: an ejabberd that finds its peer down tries again after minutes.
        """
        self.talkers.end()
        for name in HOSTS:
            self.rig.hosts[name].program("restart", "engine")
        for name in HOSTS:
            wait_ready(self.rig.hosts[name])
        self.talk()


def measure(layout: Layout, rig: Rig, runs: int, limit_s: float) -> list[tuple[str, str]]:
    """The table's rows of so many changes, each watched for ``limit_s`` at most. The hosts are the lab's then."""
    scene = Plain(layout, rig)
    found: list[dict[str, Any]] = []
    try:
        scene.up()
        for number in range(runs):
            scene.begin()
            found.append(scene.run(limit_s, scene.move))
            print(f"{TITLE} {number + 1}: {slowest(scene, found[-1])}", flush=True)
    finally:
        scene.talkers.end()
    return rows_of(scene, TITLE, found)


def domain_of(name: str) -> str:
    return f"{name}.{ZONE}"


def addresses(host: Host) -> list[str]:
    """Its public ones, IPv4 and IPv6."""
    return [text.partition("/")[0] for text in host.addresses[network.PUBLIC]]


def make_ca(work: Path) -> None:
    """``root.pem`` that all four trust, and ``<domain>.key`` and ``.crt`` for each, for both sides of a connection."""
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
    root = ["-keyout", f"{work}/root.key", "-out", f"{work}/root.pem", "-subj", "/CN=Root of the plain ones"]
    run(["openssl", "req", "-x509", *ec, *root])
    for name in HOSTS:
        domain = domain_of(name)
        signed = ["-CA", f"{work}/root.pem", "-CAkey", f"{work}/root.key"]
        out = ["-keyout", f"{work}/{domain}.key", "-out", f"{work}/{domain}.crt"]
        names = ["-subj", f"/CN={domain}", "-addext", f"subjectAltName=DNS:{domain}"]
        purpose = ["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=critical,CA:FALSE"]
        run(["openssl", "req", "-x509", *ec, *signed, *out, *names, *purpose])


def install(host: Host, engine: str, work: Path) -> None:
    """What a first installation asks for, and the engine's start. ``RigError`` if the package's file was changed."""
    domain = domain_of(host.name)
    host.file("/usr/local/share/ca-certificates/plain.crt").write_text((work / "root.pem").read_text())
    host.run("update-ca-certificates")
    host.run("sh", "-euc", EMPTY, "empty", engine)
    certificate, key = ((work / f"{domain}.{end}").read_text() for end in ("crt", "key"))
    if engine == "prosody":
        changed = host.run("dpkg", "-V", "prosody", check=False)
        if "/etc/prosody/prosody.cfg.lua" in changed:
            raise RigError("This machine's /etc/prosody/prosody.cfg.lua is not as Debian ships it.")
        host.run("sh", "-c", "rm -f /etc/prosody/certs/* /etc/prosody/conf.d/*")
        host.file(f"/etc/prosody/certs/{domain}.crt").write_text(certificate)
        host.file(f"/etc/prosody/certs/{domain}.key").write_text(key)
        host.file(f"/etc/prosody/conf.d/{domain}.cfg.lua").write_text(f'VirtualHost "{domain}"\n')
        host.run("sh", "-c", "chown root:prosody /etc/prosody/*/*; chmod 640 /etc/prosody/certs/*")
    else:
        host.file("/etc/ejabberd/ejabberd.pem").write_text(certificate + key)
        host.run("sh", "-euc", EJABBERD_YML, "configure", domain)
    program = PROGRAM.format(command=COMMANDS[engine], user=engine)
    host.file("/etc/supervisor/conf.d/engine.conf").write_text(program)
    host.run("supervisorctl", "update")


def wait_ready(host: Host) -> None:
    """Until it lets clients and servers in; ``RigError`` with its log if it does not."""
    deadline = time.monotonic() + READY_S
    while True:
        listening = host.run("ss", "-Hltn", check=False)
        if ":5222 " in listening and ":5269 " in listening:
            return
        if time.monotonic() > deadline:
            log = host.run("tail", "-n", "20", "/var/log/supervisor/engine.log", check=False)
            raise RigError(f"The engine of {host.name} did not start: {log}")
        time.sleep(0.5)
