"""Prosody's configuration from hostile specs: run by a real Lua 5.4 in an environment that only records."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.drivers.engine.prosody import config, driver
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import SERVICE_OFFSETS, Components, Contact, InstanceSpec, Limits, Listen, Paths, Turn

RECORD = r"""
local host, found, touched = "*", {}, {}
local function hex(v)
  if type(v) == "string" then return '"' .. v:gsub(".", function (c) return ("%02x"):format(c:byte()) end) .. '"' end
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  if next(v) == nil or #v > 0 then
    for _, x in ipairs(v) do parts[#parts + 1] = hex(x) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for k, x in pairs(v) do parts[#parts + 1] = hex(k) .. ":" .. hex(x) end
  return "{" .. table.concat(parts, ",") .. "}"
end
local function section(name) host = name; return function () end end
local words = { VirtualHost = section, Host = section, Component = section, Include = function () end }
local env = setmetatable({}, {
  __index = function (_, k) if not words[k] then touched[#touched + 1] = k end return words[k] end,
  __newindex = function (_, k, v) found[host] = found[host] or {}; found[host][k] = v end })
assert(load(io.read("a"), "config", "t", env))()
assert(#touched == 0, "it reads " .. table.concat(touched, " "))
print(hex(found))
"""

hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ['"', "]]", "\n}", "-- x", '"; os.execute("x") --', "{{ x }}", "\\", "\0", "<a/>", "%s", "$(id)"]
)


def spec(**changes: object) -> InstanceSpec:
    domain = DomainName("acme.example")
    made = InstanceSpec(
        key="acme1234",
        engine="prosody",
        domain=domain,
        components=Components.below(domain),
        listen=Listen("127.77.128.1", 7000, 20000),
        paths=Paths(PurePosixPath("/srv/roost/acme1234")),
        turn=Turn(DomainName("turn.example"), 3478, Secret("s3cret"), "acme1234"),
        limits=Limits(),
        display_name="Acme",
        edge_addresses=("127.77.0.1",),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def read_back(text: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(["lua5.4", "-e", RECORD], input=text.encode(), capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()
    read: dict[str, dict[str, Any]] = _text(json.loads(done.stdout))
    return read


def _text(node: Any) -> Any:
    match node:
        case str():
            return bytes.fromhex(node).decode()
        case list():
            return [_text(v) for v in node]
        case dict():
            return {_text(k): _text(v) for k, v in node.items()}
    return node


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=hostile, uri=hostile, kind=hostile, secret=hostile, label=hostile, language=hostile)
def test_no_text_gets_out_of_its_string(name: str, uri: str, kind: str, secret: str, label: str, language: str) -> None:
    made = spec(
        display_name=name,
        contacts=(Contact(kind, uri),),
        turn=Turn(DomainName("turn.example"), 3478, Secret(secret), label),
        language=language,
    )
    live = read_back(config.render_live(made))
    host = live["acme.example"]
    assert host["name"] == name
    assert host["contact_info"] == {kind: [uri]}
    assert host["turn_external_secret"] == secret
    assert host["turn_external_user"] == label
    assert live["conference.acme.example"]["muc_room_default_language"] == language


@settings(max_examples=30, deadline=None)
@given(hostile, hostile)
def test_paths_and_admins_are_quoted_too(directory: str, name: str) -> None:
    made = spec(
        paths=Paths(PurePosixPath("/srv") / directory.replace("/", "").replace("\0", "")),
        admins=(Jid(Localpart(name or "x"), DomainName("acme.example")),),
    )
    overall = read_back(config.render(made))["*"]
    assert overall["admin_socket"] == str(made.paths.control_socket)
    assert overall["admins"] == [str(made.admins[0])]


def test_every_port_is_proxied_and_nothing_else_is_open() -> None:
    overall = read_back(config.render(spec()))["*"]
    assert set(config.SERVICES) == set(SERVICE_OFFSETS)
    for service, name in config.SERVICES.items():
        assert overall[f"{name}_ports"] == [7000 + SERVICE_OFFSETS[service]]
    assert sorted(overall["roost_proxied_services"]) == sorted(config.SERVICES.values())
    assert overall["http_ports"] == []
    assert overall["interfaces"] == ["127.77.128.1"]


def test_a_secret_is_in_the_file_that_a_reload_takes_and_in_no_repr() -> None:
    files = {f.path: f for f in driver.files(spec())}
    assert b"s3cret" in files[config.LIVE_FILE].content
    assert b"s3cret" not in files[config.CONFIG_FILE].content
    assert "s3cret" not in repr(files)
    assert files[config.LIVE_FILE].on_change == "reload"
    assert files[config.CONFIG_FILE].on_change == "restart"


@pytest.mark.parametrize(
    "change",
    [
        {"display_name": "New"},
        {"contacts": (Contact("abuse", "mailto:a@b.example"),)},
        {"turn": Turn(DomainName("turn.example"), 3478, Secret("other"), "acme1234")},
        {"turn": None},
        {"s2s_blocked": (DomainName("bad.example"),)},
        {"limits": Limits(upload_max_bytes=1, archive_days=2, c2s_bytes_per_s=5)},
        {"language": "de"},
        {"publish_links": True},
        {"edge_addresses": ("127.77.0.2",)},
    ],
)
def test_what_changes_often_needs_no_restart(change: dict[str, object]) -> None:
    before, after = driver.files(spec()), driver.files(spec(**change))
    assert {f.path for f, g in zip(before, after, strict=True) if f != g} == {config.LIVE_FILE}


def test_urls_name_a_port_only_if_it_is_unusual() -> None:
    usual = read_back(config.render(spec()))["acme.example"]
    unusual = read_back(config.render(spec(public_https_port=8443)))["acme.example"]
    assert [link["href"] for link in usual["roost_host_meta"]] == [
        "wss://acme.example/xmpp-websocket",
        "https://acme.example/http-bind",
    ]
    assert unusual["roost_host_meta"][0]["href"] == "wss://acme.example:8443/xmpp-websocket"
    assert unusual["http_external_url"] == "https://acme.example:8443/"


def test_our_modules_are_lua() -> None:
    modules = [f for f in driver.files(spec()) if f.path.startswith(config.MODULE_DIR)]
    assert {PurePosixPath(f.path).name for f in modules} >= {"mod_roost_proxy.lua", "mod_roost_control.lua"}
    for module in modules:
        done = subprocess.run(
            ["lua5.4", "-e", 'assert(load(io.read("a")))'],
            input=module.content,
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, (module.path, done.stderr)


@pytest.mark.parametrize(
    ("trust_system", "capath"), [(False, 'capath"] = false'), (True, 'capath"] = "/etc/ssl/certs"')]
)
def test_trusts_the_nodes_roots_only_if_told(trust_system: bool, capath: str) -> None:
    text = config.render(spec(trust_system=trust_system))
    assert capath in text
    assert 'cafile"] = "' in text
