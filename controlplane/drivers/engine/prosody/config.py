"""Prosody's configuration from an ``InstanceSpec``: pure functions, every value quoted by ``lua.quote``.

Two files, because they differ in what a change of them costs: ``prosody.cfg.lua`` holds what needs a
restart (ports, paths, modules), and includes ``live.cfg.lua``, which a reload takes over with every session
kept. The modules of our own are beside this file, in ``modules/``. Settings were chosen by measurement where
``docs/engines/prosody.md`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from controlplane.drivers.engine.prosody.lua import Value, quote
from controlplane.values.bundle import ManagedFile
from controlplane.values.spec import PROBE_ACCOUNT, InstanceSpec

CONFIG_FILE, LIVE_FILE, MODULE_DIR = "config/prosody.cfg.lua", "config/live.cfg.lua", "config/modules"

#: How often a changed list of links is published (XEP-0485) at most, in seconds.
LINKS_EVERY_S = 180

#: Prosody's names of the ports in ``values.spec.SERVICE_OFFSETS``.
SERVICES = {"c2s": "c2s", "c2s_tls": "c2s_direct_tls", "s2s": "s2s", "s2s_tls": "s2s_direct_tls", "https": "https"}

#: Not among them: ``admin_shell``, which opens the control socket; ``roost_control`` loads it when all ports are open.
GLOBAL_MODULES = (
    *("roost_proxy", "roost_control", "roost_keepalive", "posix", "http", "limits"),
    *("s2s_auth_certs", "cron"),
)
HOST_MODULES = (
    *("roster", "saslauth", "tls", "disco", "dialback", "s2s", "c2s"),
    *("private", "pep", "vcard4", "vcard_legacy", "bookmarks", "blocklist", "carbons", "mam", "offline"),
    *("smacks", "csi_simple", "cloud_notify", "s2s_smacks_timeout"),
    *("ping", "time", "uptime", "version", "roost_serverinfo", "lastlog2", "log_auth"),
    *("bosh", "websocket", "roost_host_meta", "roost_accounts", "roost_block", "roost_outage"),
    *("invites", "invites_adhoc", "invites_register"),
)
COMPONENT_MODULES = ("tls", "dialback", "s2s", "disco", "ping", "s2s_smacks_timeout", "roost_block")


def files(spec: InstanceSpec) -> tuple[ManagedFile, ...]:
    """Everything below ``config/``, with what each needs when it has changed."""
    return (
        ManagedFile(CONFIG_FILE, render(spec).encode(), on_change="restart"),
        ManagedFile(LIVE_FILE, render_live(spec).encode(), on_change="reload"),
        *_modules(),
    )


def _modules() -> tuple[ManagedFile, ...]:
    directory = resources.files(__package__) / "modules"
    found = sorted((entry for entry in directory.iterdir() if entry.name.endswith(".lua")), key=lambda e: e.name)
    return tuple(ManagedFile(f"{MODULE_DIR}/{entry.name}", entry.read_bytes()) for entry in found)


def render(spec: InstanceSpec) -> str:
    """``prosody.cfg.lua``: what a change of needs a restart."""
    return "\n".join(
        (
            "-- Rendered by Roost (controlplane/drivers/engine/prosody/config.py); changes are overwritten.",
            _settings({**_process(spec), **_network(spec), **_security(spec), **_streams(), **_control(spec)}),
            f"VirtualHost {quote(spec.domain.ascii)}",
            _settings(_host(spec), indent=2),
            f"Component {quote(spec.components.muc.ascii)} {quote('muc')}",
            _settings(_muc(), indent=2),
            f"Component {quote(spec.components.upload.ascii)} {quote('http_file_share')}",
            _settings(_upload(spec), indent=2),
            f"Component {quote(spec.components.proxy.ascii)} {quote('proxy65')}",
            _settings(_proxy65(spec), indent=2),
            f"Include {quote(str(spec.paths.root / LIVE_FILE))}",
            "",
        )
    )


def render_live(spec: InstanceSpec) -> str:
    """``live.cfg.lua``: what a reload takes over. ``roost_server.lib.lua`` knows which modules read it."""
    limits = spec.limits
    contacts: dict[str, list[Value]] = {}
    for contact in spec.contacts:
        contacts.setdefault(contact.kind, []).append(contact.uri)
    host: dict[str, Value] = {
        "name": spec.display_name,
        "contact_info": contacts,
        "archive_expires_after": f"{limits.archive_days}d",
        "roost_outage_url": spec.outage_url,
        "roost_publish_links": spec.publish_links,
        "roost_publish_links_every": LINKS_EVERY_S,
        **_turn(spec),
    }
    upload: dict[str, Value] = {
        "http_file_share_size_limit": limits.upload_max_bytes,
        "http_file_share_daily_quota": limits.upload_quota_bytes,
        "http_file_share_global_quota": limits.upload_quota_bytes,
        "http_file_share_expires_after": limits.upload_days * 86_400,
    }
    muc: dict[str, Value] = {
        "muc_log_expires_after": f"{limits.archive_days}d",
        "muc_room_default_language": spec.language,
    }
    overall: dict[str, Value] = {
        "s2s_blocked": ["*"] if spec.isolated else [d.ascii for d in spec.s2s_blocked],
        "roost_edge_addresses": list(spec.edge_addresses),
        "limits": {
            "c2s": {"rate": _rate(limits.c2s_bytes_per_s)},
            "s2sin": {"rate": _rate(limits.s2s_bytes_per_s)},
        },
    }
    return "\n".join(
        (
            "-- Rendered by Roost; a reload takes this over.",
            'Host "*"',
            _settings(overall, indent=2),
            f"VirtualHost {quote(spec.domain.ascii)}",
            _settings(host, indent=2),
            f"Component {quote(spec.components.muc.ascii)} {quote('muc')}",
            _settings(muc, indent=2),
            f"Component {quote(spec.components.upload.ascii)} {quote('http_file_share')}",
            _settings(upload, indent=2),
            "",
        )
    )


def _settings(options: Mapping[str, Value], *, indent: int = 0) -> str:
    """One assignment a line. The names are this module's own constants and never a tenant's words."""
    return "\n".join(f"{' ' * indent}{name} = {quote(value)}" for name, value in options.items())


def _rate(bytes_per_s: int) -> str:
    # mod_limits 0.12 reads "1b/s" as ten bytes a second; kilobytes it reads right.
    return f"{max(1, bytes_per_s // 1000)}kb/s"


def _process(spec: InstanceSpec) -> dict[str, Value]:
    paths = spec.paths
    return {
        "pidfile": str(paths.run / "prosody.pid"),
        "data_path": str(paths.data),
        "plugin_paths": [str(paths.root / MODULE_DIR)],
        "umask": "007",
        "daemonize": False,
        # Prosody rotates no file: what it says goes to its supervisor, which bounds it (supervisord, journald).
        "log": [{"levels": {"min": "info"}, "to": "console", "timestamps": True}],
        "default_storage": "internal",
        # As files, an archive would be read whole for each page that a client asks for, and is cut at 10,000 messages
        # by default; in a database it has no limit but archive_days.
        "storage": {"archive": "sql", "muc_log": "sql"},
        "sql": {"driver": "SQLite3", "database": str(paths.data / "archive.sqlite")},
        "modules_enabled": [*GLOBAL_MODULES, *HOST_MODULES],
        "admins": [str(jid) for jid in spec.admins],
    }


def _network(spec: InstanceSpec) -> dict[str, Value]:
    listen = spec.listen
    found: dict[str, Value] = {
        # The event backend lost requests on the admin socket, and roost_proxy is written for this one.
        "network_backend": "epoll",
        # What comes by the edge, which asks clients and peers itself; roost_keepalive is for what we dial.
        "network_settings": {"tcp_keepalive": 60, "read_timeout": 300, "send_timeout": 60, "connect_timeout": 10},
        "network_default_read_size": 66_560,  # with the default of 4096 an upload took twice as long
        "interfaces": [listen.address],
        **{
            f"{name}_ports": [] if spec.isolated and service.startswith("s2s") else [listen.port(service)]
            for service, name in SERVICES.items()
        },
        "http_ports": [],
        "proxy65_ports": [] if spec.isolated else [listen.proxy65_port],
        "proxy65_interfaces": [listen.address],
        "roost_proxied_services": list(SERVICES.values()),
        "trusted_proxies": [],
        "http_default_host": spec.domain.ascii,
    }
    if spec.resolver is not None:
        found["unbound"] = {"resolvconf": False, "hoststxt": False, "forward": [spec.resolver]}
    return found


def _security(spec: InstanceSpec) -> dict[str, Value]:
    paths = spec.paths
    return {
        "certificates": str(paths.certs),
        "ssl": {
            "certificate": str(paths.chain_file),
            "key": str(paths.key_file),
            "cafile": str(paths.trust_file),
            # Debian's roots as a hashed directory, of which OpenSSL reads what it needs. All of them in the file
            # would be parsed for each of two dozen TLS contexts: 1.2 s of CPU at every start.
            "capath": "/etc/ssl/certs" if spec.trust_system else False,
        },
        "authentication": "internal_hashed",
        "password_hash": "SHA-256",
        "c2s_require_encryption": True,
        "s2s_require_encryption": True,
        "s2s_secure_auth": True,
        "allow_registration": True,  # by invitation alone, see registration_invite_only
        "registration_invite_only": True,
        "allow_user_invites": False,
    }


def _streams() -> dict[str, Value]:
    """What keeps streams alive and finds dead ones; the numbers were measured between two Prosodys."""
    return {
        "smacks_hibernation_time": 600,
        # With peers that acknowledge (Prosody) a link that does not for 5 s is closed by s2s_smacks_timeout, and what
        # was not acknowledged is sent again over the next: none lost, 5.1 s. Without the resend it would bounce.
        "smacks_enabled_s2s": True,
        "smacks_s2s_resend": True,
        "smacks_max_ack_delay": 5,
        # A dial that is not done by then is given up and what waits for it bounces; dialback over a slow resolver and
        # a second address (connect_timeout each) fit in.
        "s2s_timeout": 30,
    }


def _control(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "admin_socket": str(spec.paths.control_socket),
        "roost_host": spec.domain.ascii,
        "roost_muc_host": spec.components.muc.ascii,
        "roost_upload_host": spec.components.upload.ascii,
        "roost_probe_account": PROBE_ACCOUNT,
    }


def _base_url(spec: InstanceSpec, host: str, scheme: str = "https") -> str:
    port = "" if spec.public_https_port == 443 else f":{spec.public_https_port}"
    return f"{scheme}://{host}{port}"


def _host(spec: InstanceSpec) -> dict[str, Value]:
    web = spec.domain.ascii
    return {
        "default_archive_policy": True,
        "http_external_url": _base_url(spec, web) + "/",
        "roost_host_meta": [
            {"rel": "urn:xmpp:alt-connections:websocket", "href": _base_url(spec, web, "wss") + "/xmpp-websocket"},
            {"rel": "urn:xmpp:alt-connections:xbosh", "href": _base_url(spec, web) + "/http-bind"},
        ],
    }


def _turn(spec: InstanceSpec) -> dict[str, Value]:
    turn = spec.turn
    if turn is None:
        return {}
    return {
        "modules_enabled": ["turn_external"],
        "turn_external_host": turn.host.ascii,
        "turn_external_port": turn.port,
        "turn_external_tls_port": turn.tls_port,
        "turn_external_tcp": True,
        "turn_external_user": turn.label,
        "turn_external_ttl": turn.ttl_s,
        "turn_external_secret": turn.secret.reveal(),
    }


def _muc() -> dict[str, Value]:
    return {
        "name": "Chat rooms",
        "modules_enabled": [*COMPONENT_MODULES, "muc_mam"],
        "muc_room_default_persistent": True,
        "muc_room_default_public": False,
        "muc_log_by_default": True,
        # Without these, affiliations would not be what was set, and a deleted room's name stay taken for a month.
        "component_admins_as_room_owners": False,
        "muc_tombstones": False,
    }


def _upload(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "modules_enabled": list(COMPONENT_MODULES),
        "http_external_url": _base_url(spec, spec.components.upload.ascii) + "/",
    }


def _proxy65(spec: InstanceSpec) -> dict[str, Value]:
    return {"modules_enabled": list(COMPONENT_MODULES), "proxy65_address": spec.components.proxy.ascii}
