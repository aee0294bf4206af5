"""A domain of somebody else's in a lab: a Prosody that Roost does not manage, with a CA of its own, outside.

It is what the tenants federate with beside each other. Its zone is in the lab's DNS server; one account, ``juliet``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from launcher import checks, files
from launcher.layout import Layout
from launcher.processes import run
from launcher.programs import Program

DOMAIN, ACCOUNT = "remote.example", "juliet"
#: The last number of its address, and of the one that it may move to: it listens at both.
NUMBER, SECOND = 91, 92
CONFIG = """\
-- Written by Roost's launcher; changes are overwritten.
pidfile = nil
data_path = "{base}/data"
plugin_paths = {{}}
network_backend = "epoll"
interfaces = {{ "{address}", "{second}" }}
unbound = {{ resolvconf = false, hoststxt = false, forward = {{ "{resolver}" }} }}
log = {{ info = "*console" }}
modules_enabled = {{ "roster", "saslauth", "tls", "disco", "ping", "dialback", "carbons", "smacks", "private" }}
authentication = "internal_hashed"
s2s_secure_auth = false
c2s_require_encryption = true
ssl = {{ cafile = "{base}/trust.pem" }}
VirtualHost "{domain}"
  ssl = {{ certificate = "{base}/chain.pem", key = "{base}/key.pem", cafile = "{base}/trust.pem" }}
"""


def prepare(layout: Layout, within: list[str]) -> Program:
    """Its files and its program. ``within``: the prefix that puts it outside."""
    base = files.directory(layout.state / "remote", owner="prosody", group="prosody")
    files.directory(base / "data", owner="prosody", group="prosody", mode=0o750)
    _make_certificate(base)
    # It trusts the lab's CA as the world trusts Let's Encrypt: by dialback alone its answers to a tenant that moved
    # would wait for its own stale stream. Pebble runs by now; its root is another one after each of its starts.
    url = f"https://{layout.pebble_address}:15000/roots/0"
    trusted = (base / "root.pem").read_text() + str(checks.get_json_or_text(url, ca_file=layout.pebble_ca))
    files.write(base / "trust.pem", trusted)
    address = layout.address(NUMBER)
    second = layout.address(SECOND)
    text = CONFIG.format(base=base, address=address, second=second, resolver=layout.resolver_address, domain=DOMAIN)
    files.write(base / "prosody.cfg.lua", text, group="prosody", mode=0o640)
    return Program(
        name="remote",
        title=f"Prosody of {DOMAIN} (nobody's tenant)",
        argv=["/usr/bin/prosody", "--config", str(base / "prosody.cfg.lua"), "-F"],
        user="prosody",
        within=within,
        ready=lambda: checks.tcp(address, 5269),
        remedy="see `./roost logs remote`",
        digest=hashlib.sha256((text + trusted).encode()).hexdigest(),
        priority=55,
    )


def _make_certificate(base: Path) -> None:
    if (base / "chain.pem").exists():
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
        root = ["-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Somebody else's root"]
        run(["openssl", "req", "-x509", *ec, *root], timeout_s=30, cwd=work)
        leaf = ["-CA", "root.pem", "-CAkey", "root.key", "-keyout", "key.pem", "-out", "chain.pem"]
        names = ["-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}"]
        purpose = ["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=critical,CA:FALSE"]
        run(["openssl", "req", "-x509", *ec, *leaf, *names, *purpose], timeout_s=30, cwd=work)
        files.write(base / "root.pem", (work / "root.pem").read_text())
        files.write(base / "key.pem", (work / "key.pem").read_text(), mode=0o640, group="prosody")
        files.write(base / "chain.pem", (work / "chain.pem").read_text())


def publish(layout: Layout, api_key: str) -> None:
    """Its zone, at the lab's DNS server."""
    address = layout.address(NUMBER)
    target = f"xmpp.{DOMAIN}."
    sets = [
        (f"{DOMAIN}.", "NS", [f"ns.{DOMAIN}."]),
        (f"ns.{DOMAIN}.", "A", [layout.authoritative_address]),
        (target, "A", [address]),
        (f"_xmpp-client._tcp.{DOMAIN}.", "SRV", [f"0 5 5222 {target}"]),
        (f"_xmpp-server._tcp.{DOMAIN}.", "SRV", [f"0 5 5269 {target}"]),
    ]
    url = f"{layout.powerdns_url}/api/v1/servers/localhost/zones"
    zone = {"name": f"{DOMAIN}.", "kind": "Native", "nameservers": []}
    try:
        _say("POST", url, zone, api_key)
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise
    rrsets = [
        {
            "name": name,
            "type": kind,
            "ttl": 5,
            "changetype": "REPLACE",
            "records": [{"content": text, "disabled": False} for text in texts],
        }
        for name, kind, texts in sets
    ]
    _say("PATCH", f"{url}/{DOMAIN}.", {"rrsets": rrsets}, api_key)


def _say(method: str, url: str, body: object, api_key: str) -> None:
    headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10):
        pass


def account(layout: Layout) -> tuple[str, str]:
    """(JID, password) of the one account, which is made if there is none."""
    path = layout.state / "remote" / "password"
    if not path.exists():
        files.write(path, secrets.token_urlsafe(12), mode=0o600)
    password = path.read_text()
    config = str(layout.state / "remote" / "prosody.cfg.lua")
    argv = ["prosodyctl", "--config", config, "register", ACCOUNT, DOMAIN, password]
    run(argv, timeout_s=60, user="prosody", cwd=Path("/"))
    return f"{ACCOUNT}@{DOMAIN}", password
