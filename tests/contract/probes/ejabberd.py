"""The ejabberd of the probes' world: one host that is right in everything."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.contract.probes.world import (
    DNS,
    EJABBERD,
    HOSTS,
    HTTPS_PORT,
    PASSWORD,
    SERVICES,
    TURN,
    TURN_SECRET,
    Host,
    listening,
    running,
    wait_for,
)

EJABBERD_API_PORT = 7280


def ejabberd_config(directory: Path, host: Host) -> str:
    """JSON, which is YAML too."""
    plain = {"starttls_required": True}
    ports = SERVICES

    def listen(module: str, port: int, **more: object) -> dict[str, object]:
        return {"ip": EJABBERD, "port": port, "module": module, **more}

    web = {"/ws": "ejabberd_http_ws", "/bosh": "mod_bosh", "/upload": "mod_http_upload"}
    web["/.well-known/host-meta"] = web["/.well-known/host-meta.json"] = "mod_host_meta"
    base = f"{host.domain}:{HTTPS_PORT}"
    turn_service = {"host": TURN, "port": 3478, "type": "turn", "transport": "udp"}
    config = {
        "hosts": [host.domain],
        "loglevel": "info",
        "ca_file": f"{directory}/certs/ca.pem",
        "certfiles": [f"{directory}/certs/{host.domain}.pem"],
        "s2s_use_starttls": "required",
        "auth_password_format": "scram",
        "disable_sasl_mechanisms": ["PLAIN", "X-OAUTH2"],
        "default_db": "mnesia",
        "listen": [
            listen("ejabberd_c2s", ports["xmpp-client"], **plain),
            listen("ejabberd_c2s", ports["xmpps-client"], tls=True),
            listen("ejabberd_s2s_in", ports["xmpp-server"]),
            listen("ejabberd_s2s_in", ports["xmpps-server"], tls=True),
            listen("ejabberd_http", HTTPS_PORT, tls=True, request_handlers=web),
            listen("ejabberd_http", EJABBERD_API_PORT, request_handlers={"/api": "mod_http_api"}),
        ],
        "api_permissions": {"all": {"who": {"ip": "127.0.0.0/8"}, "what": "*"}},
        "acl": {"local": {"user_regexp": ""}},
        "access_rules": {"local": {"allow": "local"}},
        "modules": {
            "mod_adhoc": {},
            "mod_blocking": {},
            "mod_bosh": {},
            "mod_caps": {},
            "mod_carboncopy": {},
            "mod_client_state": {},
            "mod_disco": {},
            "mod_time": {},
            "mod_host_meta": {"bosh_service_url": f"https://{base}/bosh", "websocket_url": f"wss://{base}/ws"},
            "mod_http_api": {},
            "mod_http_upload": {
                "host": f"upload.{host.domain}",
                "put_url": f"https://upload.{base}/upload",
                "docroot": f"{directory}/upload",
            },
            "mod_mam": {"default": "always"},
            "mod_muc": {"host": f"conference.{host.domain}", "default_room_options": {"mam": True, "persistent": True}},
            "mod_ping": {},
            "mod_privacy": {},
            "mod_private": {},
            "mod_proxy65": {"host": f"proxy.{host.domain}", "ip": EJABBERD, "port": 7500, "access": "local"},
            "mod_pubsub": {"plugins": ["flat", "pep"]},
            "mod_push": {},
            "mod_roster": {},
            "mod_stream_mgmt": {},
            "mod_stun_disco": {"secret": TURN_SECRET, "services": [turn_service]},
            "mod_vcard": {"search": False},
        },
    }
    return json.dumps(config)


@contextlib.contextmanager
def ejabberd(directory: Path) -> Iterator[None]:
    """``directory/certs`` has to hold the certificates already. No epmd: the node speaks with no other."""
    (host,) = (h for h in HOSTS if h.engine == EJABBERD)
    certs = directory / "certs"
    both = [(certs / f"{host.domain}.{part}").read_text() for part in ("crt", "key")]
    (certs / f"{host.domain}.pem").write_text("".join(both))
    (directory / "ejabberd.yml").write_text(ejabberd_config(directory, host))
    lib = "/usr/lib/x86_64-linux-gnu"
    argv = ["erl", "-pa", f"{lib}/ejabberd-23.01-1/ebin", "-noinput", "+S", "1:1", "+sbwt", "none"]
    argv += ["-mnesia", "dir", f'"{directory}/spool"', "-s", "ejabberd"]
    (directory / "resolv.conf").write_text(f"nameserver {DNS}\n")
    # Not ERL_INETRC alone: ejabberd 23.01 asks Erlang for SRV records and the C library for s2s addresses.
    own_resolver = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", own_resolver, str(directory / "resolv.conf"), *argv]
    env = {
        "EJABBERD_CONFIG_PATH": f"{directory}/ejabberd.yml",
        "EJABBERD_LOG_PATH": f"{directory}/ejabberd.log",
        "ERL_LIBS": lib,
        "HOME": str(directory),
    }
    with running(argv, directory, env=env) as process:
        wait_for("ejabberd", lambda: listening(EJABBERD, EJABBERD_API_PORT), process=process)
        for user in ("roost-probe", "ann"):
            body = json.dumps({"user": user, "host": host.domain, "password": PASSWORD}).encode()
            url = f"http://{EJABBERD}:{EJABBERD_API_PORT}/api/register"
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
                answer.read()
        yield
