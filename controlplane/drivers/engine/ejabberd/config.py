"""ejabberd's configuration from an ``InstanceSpec``: pure functions, every value quoted by ``yaml_text``.

``ejabberd.yml`` is taken over by a reload with every session kept; ``inetrc`` (the resolver) and our own
modules are read at the start only. How the engine is started is left to ``launch``. Settings were chosen by
measurement where ``docs/engines/ejabberd.md`` says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from importlib import resources

from controlplane.drivers.engine.ejabberd.yaml_text import Value, Word, document
from controlplane.values.bundle import ManagedFile
from controlplane.values.spec import PROBE_ACCOUNT, InstanceSpec

CONFIG_FILE, INETRC_FILE, MODULE_DIR = "config/ejabberd.yml", "config/inetrc", "config/modules"
MEGABYTE = 1024 * 1024

#: Characters that XML 1.0 §2.2 has no way to write; a form or a vCard with one would end its reader's stream.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Listeners by service. ``roost_edge_*`` hand on to ejabberd's own after the PROXY header was read.
LISTENERS = {
    "c2s": ("roost_edge_c2s", False),
    "c2s_tls": ("roost_edge_c2s", True),
    "s2s": ("roost_edge_s2s", False),
    "s2s_tls": ("roost_edge_s2s", True),
    "https": ("roost_edge_http", True),
}
#: How often a changed list of links is published (XEP-0485) at most, in seconds.
LINKS_EVERY_S = 180
BOSH_PATH, WEBSOCKET_PATH, UPLOAD_PATH = "/http-bind", "/xmpp-websocket", "/upload"
#: Modules that need no option of ours.
PLAIN_MODULES = (
    *("mod_adhoc", "mod_avatar", "mod_blocking", "mod_carboncopy", "mod_client_state", "mod_last"),
    *("mod_offline", "mod_privacy", "mod_private", "mod_push", "mod_s2s_dialback", "mod_time"),
    *("mod_vcard_xupdate", "mod_version"),
)


def files(spec: InstanceSpec) -> tuple[ManagedFile, ...]:
    """Everything below ``config/``, with what each needs when it has changed."""
    return (
        ManagedFile(CONFIG_FILE, render(spec).encode(), on_change="reload"),
        ManagedFile(INETRC_FILE, render_inetrc(spec).encode(), on_change="restart"),
        *_modules(),
    )


def _modules() -> tuple[ManagedFile, ...]:
    directory = resources.files(__package__) / "modules"
    found = sorted((entry for entry in directory.iterdir() if entry.name.endswith(".erl")), key=lambda e: e.name)
    return tuple(ManagedFile(f"{MODULE_DIR}/{entry.name}", entry.read_bytes()) for entry in found)


def render(spec: InstanceSpec) -> str:
    """``ejabberd.yml``."""
    settings: dict[str, Value] = {
        **_process(spec),
        **_security(spec),
        **_federation(spec),
        **_rules(spec),
        "listen": _listeners(spec),
        "modules": {**_storage_modules(spec), **_service_modules(spec), **_messaging_modules(spec)},
    }
    return "# Rendered by Roost; changes are overwritten.\n" + document(settings)


def render_inetrc(spec: InstanceSpec) -> str:
    """Erlang's own resolver (ERTS User's Guide, "Inet Configuration"): the tenant's nameserver and no other.

    Raises ``ValueError`` if ``spec.resolver`` is no address.
    """
    lines = ["%% Rendered by Roost.", "{edns, 0}.", "{timeout, 2000}.", "{retry, 2}.", "{cache_refresh, 5000}."]
    if spec.resolver is not None:
        address, _, port = spec.resolver.partition("@")
        server = ipaddress.ip_address(address)
        parts = list(server.packed) if server.version == 4 else _words(server)
        inside = ",".join(str(part) for part in parts)
        lines += ['{resolv_conf, ""}.', '{hosts_file, ""}.', "{lookup, [dns]}."]
        lines.append(f"{{nameserver, {{{inside}}}, {int(port or 53)}}}.")
    return "\n".join(lines) + "\n"


def _words(address: ipaddress.IPv6Address) -> list[int]:
    return [int.from_bytes(address.packed[i : i + 2], "big") for i in range(0, 16, 2)]


def plain_text(text: str) -> str:
    """``text`` without the characters that XML cannot carry."""
    return _NOT_IN_XML.sub("", text)


def _process(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "hosts": [spec.domain.ascii],
        "language": spec.language,
        "loglevel": Word("info"),
        # ejabberd.log and error.log, each with one older file beside it: 40 MB at most.
        "log_rotate_size": 10_000_000,
        "log_rotate_count": 1,
        "hide_sensitive_log_data": False,
        "default_db": Word("sql"),
        "sql_type": Word("sqlite"),
        "sql_database": str(spec.paths.data / "ejabberd.sqlite"),
        # One SQLite file in the same process is its own cache; others would only be a second truth.
        "use_cache": False,
        "auth_use_cache": False,
        "auth_method": [Word("sql")],
        "auth_password_format": Word("scram"),
        "auth_scram_hash": Word("sha256"),
        "disable_sasl_mechanisms": ["digest-md5", "x-oauth2"],
        "acme": {"auto": False},
        "queue_type": Word("ram"),
        # Plain numbers of these time-outs are seconds.
        "negotiation_timeout": 30,
    }


def _security(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "certfiles": [str(spec.paths.chain_file), str(spec.paths.key_file)],
        "ca_file": str(spec.paths.trust_file),
        "c2s_cafile": str(spec.paths.trust_file),
        "c2s_protocol_options": ["no_sslv3", "no_tlsv1", "no_tlsv1_1"],
        "s2s_protocol_options": ["no_sslv3", "no_tlsv1", "no_tlsv1_1"],
    }


def _federation(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "s2s_use_starttls": Word("required"),
        "s2s_cafile": str(spec.paths.trust_file),
        "s2s_access": Word("s2s"),
        # How long a stream may be silent. It finds no dead link early (a write counts as life): the kernel does, by
        # the options that roost.erl gives to every connection, and the watcher before it.
        "s2s_timeout": 3600,
        # A resolver that is dead costs 6 s of a dial, and one lost packet 3 s.
        "s2s_dns_timeout": 3,
        "s2s_dns_retries": 2,
        # For each address of a peer: the next is tried while its users still wait.
        "outgoing_s2s_timeout": 8,
        # After a failure messages bounce for up to this long. The default of 5 minutes would outlast our healing.
        "s2s_max_retry_delay": 5,
    }


def _rules(spec: InstanceSpec) -> dict[str, Value]:
    limits = spec.limits
    quota_megabytes = max(1, limits.upload_quota_bytes // MEGABYTE)
    return {
        "acl": {
            "admin": {"user": [str(jid) for jid in spec.admins]},
            "local": {"user_regexp": ""},
            "blocked_peer": {
                "server": [d.ascii for d in spec.s2s_blocked],
                "server_glob": [f"*.{d.ascii}" for d in spec.s2s_blocked],
            },
        },
        "access_rules": {
            "local": [{"allow": Word("local")}],
            "s2s": [{"deny": Word("all" if spec.isolated else "blocked_peer")}, {"allow": Word("all")}],
            "nobody": [{"deny": Word("all")}],
        },
        "shaper": {"c2s": _rate(limits.c2s_bytes_per_s), "s2s": _rate(limits.s2s_bytes_per_s)},
        "shaper_rules": {
            "c2s": [{"c2s": Word("all")}],
            "s2s": [{"s2s": Word("all")}],
            "max_user_sessions": 20,
            "max_user_offline_messages": 5000,
            # What is beyond the hard quota goes, oldest first, down to the soft one.
            "soft_upload_quota": max(1, quota_megabytes * 9 // 10),
            "hard_upload_quota": quota_megabytes,
        },
    }


def _rate(bytes_per_s: int) -> dict[str, Value]:
    return {"rate": max(1, bytes_per_s), "burst_size": max(1, 2 * bytes_per_s)}


def _listeners(spec: InstanceSpec) -> list[Value]:
    found: list[Value] = []
    for service, (module, tls) in LISTENERS.items():
        if spec.isolated and service.startswith("s2s"):
            continue
        options: dict[str, Value] = {
            "port": spec.listen.port(service),
            "ip": spec.listen.address,
            "module": Word(module),
            "edge_addresses": list(spec.edge_addresses),
        }
        if service.startswith("c2s"):
            options |= {"access": Word("local"), "shaper": Word("c2s"), "max_stanza_size": 262_144}
        if service.startswith("s2s"):
            options |= {"shaper": Word("s2s"), "max_stanza_size": 524_288}
        if service == "c2s":
            options["starttls_required"] = True
        if service == "https":
            options["protocol_options"] = ["no_sslv3", "no_tlsv1", "no_tlsv1_1"]
            options["request_handlers"] = {
                "/.well-known/host-meta": Word("mod_host_meta"),
                "/.well-known/host-meta.json": Word("mod_host_meta"),
                BOSH_PATH: Word("mod_bosh"),
                WEBSOCKET_PATH: Word("ejabberd_http_ws"),
                UPLOAD_PATH: Word("mod_http_upload"),
            }
        if tls:
            options["tls"] = True
        found.append(options)
    return found


def _base_url(spec: InstanceSpec, scheme: str = "https") -> str:
    port = "" if spec.public_https_port == 443 else f":{spec.public_https_port}"
    return f"{scheme}://{spec.domain.ascii}{port}"


def _storage_modules(spec: InstanceSpec) -> dict[str, Value]:
    limits = spec.limits
    return {
        **{name: {} for name in PLAIN_MODULES},
        "mod_mam": {"default": Word("always"), "assume_mam_usage": True, "clear_archive_on_room_destroy": True},
        "mod_roster": {"versioning": True},
        "mod_vcard": {"search": False, "allow_return_all": False},
        "mod_http_upload": {
            "hosts": [spec.components.upload.ascii],
            "name": "File upload",
            "access": Word("local"),
            "max_size": limits.upload_max_bytes,
            "docroot": str(spec.paths.uploads),
            "put_url": _base_url(spec) + UPLOAD_PATH,
            "file_mode": "0640",
            "dir_mode": "0750",
            "rm_on_unregister": True,
        },
        "mod_http_upload_quota": {
            "access_soft_quota": Word("soft_upload_quota"),
            "access_hard_quota": Word("hard_upload_quota"),
            "max_days": max(1, limits.upload_days),
        },
        "mod_roost": {
            "control_socket": str(spec.paths.control_socket),
            "probe_account": PROBE_ACCOUNT,
            "archive_days": max(1, limits.archive_days),
            "uploads": str(spec.paths.uploads),
            "turn": _turn(spec),
            "outage_url": plain_text(spec.outage_url),
        },
        **({"mod_roost_serverinfo": {"every_s": LINKS_EVERY_S}} if spec.publish_links else {}),
    }


def _turn(spec: InstanceSpec) -> list[Value]:
    """XEP-0215 services, one entry each; ``mod_roost`` makes the credentials, ejabberd's own cannot carry a label."""
    turn = spec.turn
    if turn is None:
        return []
    shared: dict[str, Value] = {
        "host": turn.host.ascii,
        "secret": turn.secret.reveal(),
        "label": turn.label,
        "ttl_s": turn.ttl_s,
    }
    offered = [("stun", "udp", turn.port), ("turn", "udp", turn.port), ("turn", "tcp", turn.port)]
    if turn.tls_port is not None:
        offered.append(("turns", "tcp", turn.tls_port))
    return [{**shared, "type": Word(kind), "transport": Word(by), "port": port} for kind, by, port in offered]


def _service_modules(spec: InstanceSpec) -> dict[str, Value]:
    contacts: dict[str, list[Value]] = {}
    for contact in spec.contacts:
        contacts.setdefault(contact.kind, []).append(plain_text(contact.uri))
    return {
        "mod_disco": {
            "name": plain_text(spec.display_name),
            "server_info": [
                {"modules": Word("all"), "name": f"{kind}-addresses", "urls": uris} for kind, uris in contacts.items()
            ],
        },
        "mod_muc": {
            "hosts": [spec.components.muc.ascii],
            "name": "Chat rooms",
            "access": Word("all"),
            "access_create": Word("local"),
            "access_persistent": Word("local"),
            "access_mam": Word("all"),
            "access_admin": Word("nobody"),
            "max_users": 1000,
            "max_room_name": 1000,
            "max_room_desc": 10_000,
            "default_room_options": {
                "persistent": True,
                "mam": True,
                "public": False,
                "moderated": False,
                "anonymous": True,
                "lang": spec.language,
                "max_users": 1000,
            },
        },
        **({} if spec.isolated else {"mod_proxy65": _proxy65(spec)}),
        "mod_host_meta": {
            "bosh_service_url": _base_url(spec) + BOSH_PATH,
            "websocket_url": _base_url(spec, "wss") + WEBSOCKET_PATH,
        },
    }


def _proxy65(spec: InstanceSpec) -> dict[str, Value]:
    return {
        "hosts": [spec.components.proxy.ascii],
        "hostname": spec.components.proxy.ascii,
        "ip": spec.listen.address,
        "port": spec.listen.proxy65_port,
        "access": Word("local"),
        "max_connections": 20,
        "shaper": Word("c2s"),
    }


def _messaging_modules(_spec: InstanceSpec) -> Mapping[str, Value]:
    return {
        "mod_bosh": {},
        "mod_caps": {},
        "mod_ping": {"send_pings": False},
        "mod_stream_mgmt": {"resume_timeout": 600, "resend_on_timeout": Word("if_offline")},
        "mod_pubsub": {
            "hosts": [],
            "plugins": ["flat", "pep"],
            "last_item_cache": False,
            "max_items_node": 1000,
            "max_subscriptions_node": 1000,  # anybody may follow an open node
            "access_createnode": Word("local"),
            "pep_mapping": {},
            # OMEMO (XEP-0384 §8): strangers have to read devices and keys, whatever an old client forgets to say.
            "force_node_config": {
                "eu.siacs.conversations.axolotl.*": {"access_model": Word("open")},
                "urn:xmpp:omemo:2:*": {"access_model": Word("open")},
                "storage:bookmarks": {"access_model": Word("whitelist")},
                "urn:xmpp:bookmarks:1": {"access_model": Word("whitelist")},
            },
        },
    }
