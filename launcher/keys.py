"""The stack's own secrets (made once, kept in a file that only root reads) and the ROOST_* environment from them.

docs/environment.md explains the variables; ``controlplane/settings/base.py`` reads them.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from launcher import files
from launcher.errors import Problem
from launcher.layout import ZONE, Layout
from launcher.services import stun


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Random, of this stack only. ``operator_password``: shown once, when the account was made."""

    django: str
    powerdns: str
    master_key: str
    operator_password: str
    token: str
    metrics: str = ""


_MAKERS: dict[str, Callable[[], str]] = {
    "django": lambda: secrets.token_urlsafe(50),
    "powerdns": lambda: secrets.token_urlsafe(24),
    "master_key": lambda: base64.urlsafe_b64encode(os.urandom(32)).decode(),
    "operator_password": lambda: "",
    "token": lambda: "",
    "metrics": lambda: secrets.token_urlsafe(32),
}


def load(layout: Layout) -> Secrets:
    """Read the secrets; those that are missing are made and written first."""
    path = layout.state / "secrets"
    stored = _read(path)
    values = {f.name: stored[f.name] if f.name in stored else _MAKERS[f.name]() for f in fields(Secrets)}
    if values != stored:
        files.write(path, json.dumps(values, indent=1) + "\n", mode=0o600)
    return Secrets(**values)


def keep(layout: Layout, **changed: str) -> Secrets:
    """Write changed secrets and return all."""
    path = layout.state / "secrets"
    files.write(path, json.dumps({**_read(path), **changed}, indent=1) + "\n", mode=0o600)
    return load(layout)


def _read(path: Path) -> dict[str, str]:
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Problem(f"{path} is damaged: run `./roost destroy`, then `./roost up`.", str(error)) from error
    return {str(k): str(v) for k, v in stored.items()}


def environment(layout: Layout, kept: Secrets) -> dict[str, str]:
    """The ROOST_* variables of every process of the control plane."""
    state = layout.state
    pairs = {
        "DJANGO_SETTINGS_MODULE": "controlplane.settings.local",
        "ROOST_SECRET_KEY": kept.django,
        "ROOST_MASTER_KEY_FILE": str(state / "master.key"),
        "ROOST_ALLOWED_HOSTS": f"localhost,127.0.0.1,{layout.edge_address}",
        "ROOST_BASE_URL": layout.web_url,
        "ROOST_STATIC_ROOT": str(state / "static"),
        "ROOST_DATABASE_URL": f"postgresql://roost@/roost?host={layout.postgres_socket_dir}",
        "ROOST_BROKER_URL": f"redis+socket://{layout.redis_socket}",
        "ROOST_PROVIDER_ZONE": ZONE,
        "ROOST_RECORD_TTL_S": "5",
        "ROOST_DNS_DRIVER": "powerdns",
        "ROOST_POWERDNS_URL": layout.powerdns_url,
        "ROOST_POWERDNS_API_KEY": kept.powerdns,
        "ROOST_DNS_NAMESERVERS": f"ns.{ZONE}",
        "ROOST_DNS_AUTHORITATIVE": f"{layout.authoritative_address}@53",
        "ROOST_RESOLVER": f"{layout.resolver_address}@53",
        "ROOST_ACME_DIRECTORY": f"https://{layout.pebble_address}:14000/dir",
        "ROOST_ACME_CA_FILE": str(layout.pebble_ca),
        "ROOST_TRUST_SYSTEM": "0",  # the stack is a world of its own: its one CA is Pebble
        "ROOST_ACME_ROOTS_URL": f"https://{layout.pebble_address}:15000/roots/0",
        "ROOST_TURN_HOST": f"turn.{ZONE}",
        "ROOST_TURN_PORT": "3478",
        "ROOST_TURN_DATABASE": str(layout.turn / "turn.sqlite"),
        "ROOST_TURN_REALM": f"turn.{ZONE}",
        "ROOST_EDGE_ADDRESSES": layout.edge_address,
        "ROOST_PROXY65_PORTS": "20000-21999",
        "ROOST_SSH_DIR": str(state / "ssh"),
        "ROOST_ANSIBLE_DIR": str(state / "ansible"),
        "ROOST_SPOOL_DIR": str(state / "spool"),
        "ROOST_RESTIC_CACHE_DIR": str(state / "restic"),
        "ROOST_METRICS_TOKEN": kept.metrics,
        "ROOST_METRICS_DIR": str(state / "run" / "metrics"),
    }
    if layout.is_lab:
        del pairs["ROOST_EDGE_ADDRESSES"]  # each node says its own
        # The root of the one domain there that Roost does not manage.
        pairs |= {"ROOST_TRUST_EXTRA_FILE": str(state / "remote" / "root.pem")}
        # Its networks are nobody's in the real world (RFC 2544, RFC 3849).
        pairs |= {"ROOST_STUN_SERVERS": ",".join(stun.servers(layout))}
        pairs |= {"ROOST_PUBLIC_NETWORKS": f"{layout.own_network},2001:db8::/32"}
    if layout.is_test:
        pairs |= {"ROOST_FAULT_DIR": str(state / "faults"), "ROOST_SWEEP_S": "1", "ROOST_HEALTH_S": "20"}
        pairs |= {"ROOST_ROLL_S": "20"}
        # Faults are to be noticed while a test waits: three doubts in a row take ten seconds here. What is looked at
        # more often than that takes the time of the tests. In the world the defaults do.
        pairs |= {"ROOST_PROBE_CHEAP_S": "5", "ROOST_PROBE_FULL_S": "30", "ROOST_PROBE_RETRY_S": "2"}
        pairs |= {"ROOST_BACKOFF_CAP_S": "5", "ROOST_RESYNC_S": "60"}
    return pairs


def write_environment(layout: Layout, kept: Secrets) -> dict[str, str]:
    """Write the environment for people and for ``roost manage``, and the master key's file; returns the pairs."""
    pairs = environment(layout, kept)
    text = "".join(f"{name}={value}\n" for name, value in pairs.items())
    files.write(layout.state / "environment", text, mode=0o640, group="roost")
    files.write(layout.state / "master.key", kept.master_key + "\n", mode=0o640, group="roost")
    return pairs


def read_environment(layout: Layout) -> dict[str, str]:
    """The pairs that the last ``up`` wrote."""
    try:
        lines = (layout.state / "environment").read_text().splitlines()
    except FileNotFoundError as error:
        raise Problem("There is no stack here yet: run `./roost up`.") from error
    return dict(line.split("=", 1) for line in lines if "=" in line)
