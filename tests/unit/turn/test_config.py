"""turnserver.conf: every value comes back as it was given, or is refused."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.turn import config as module
from controlplane.drivers.turn.config import DENIED_PEERS, TurnServerConfig, option, render_turnserver_conf

CONFIG = TurnServerConfig(("192.0.2.4", "2001:db8::4"), "turn.example", "/var/turn.sqlite", "/run/turn.pid")


def parse(text: str) -> list[tuple[str, str]]:
    """As coturn reads it: a line is ``name`` or ``name=value``, cut at the end of the line."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def values(config: TurnServerConfig, name: str) -> list[str]:
    return [v for n, v in parse(render_turnserver_conf(config)) if n == name]


@given(st.text())
def test_a_value_comes_back_or_is_refused(text: str) -> None:
    try:
        line = option("realm", text)
    except ValueError:
        return
    assert parse(line) == [("realm", text)]
    assert text == text.strip()


@pytest.mark.parametrize(
    "changes",
    [
        {"realm": "a\nno-auth"},
        {"realm": ""},
        {"realm": "a b"},
        {"database": "/tmp/x\nno-auth"},
        {"pidfile": ""},
        {"listening_ips": ()},
        {"listening_ips": ("localhost",)},
        {"external_ip": "1.2.3.4/24"},
        {"port": 0},
        {"min_relay_port": 50000, "max_relay_port": 40000},
        {"tls_port": 5349},
        {"user_quota": -1},
        {"allowed_peers": ("10.0.0.1/8",)},
    ],
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        render_turnserver_conf(replace(CONFIG, **changes))  # type: ignore[arg-type]


def test_special_ranges_are_denied_unless_the_operator_says_so() -> None:
    denied = values(CONFIG, "denied-peer-ip")
    assert len(denied) == len(DENIED_PEERS)
    assert "10.0.0.0-10.255.255.255" in denied
    assert "127.0.0.0-127.255.255.255" in denied
    assert "::1-::1" in denied
    assert not values(CONFIG, "allow-loopback-peers")
    lab = replace(CONFIG, allow_loopback_peers=True, allowed_peers=("10.1.0.0/16",))
    assert "127.0.0.0-127.255.255.255" not in values(lab, "denied-peer-ip")
    assert values(lab, "allow-loopback-peers") == [""]
    assert values(lab, "allowed-peer-ip") == ["10.1.0.0-10.1.255.255"]


def test_no_denied_range_starts_at_the_unspecified_ipv6_address() -> None:
    """coturn reads ``::`` as "any", and would deny every peer there is."""
    assert all(ipaddress.ip_network(n)[0] != ipaddress.ip_address("::") for n in DENIED_PEERS)


@given(st.ip_addresses())
def test_what_is_no_public_unicast_address_is_denied(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if special and not address.is_unspecified:
        networks = [ipaddress.ip_network(n) for n in DENIED_PEERS]
        assert any(address in n for n in networks if n.version == address.version)


def test_tls_is_off_or_complete() -> None:
    assert values(CONFIG, "no-tls") == values(CONFIG, "no-dtls") == [""]
    tls = replace(CONFIG, tls_port=5349, certificate="/c.pem", private_key="/k.pem")
    assert values(tls, "tls-listening-port") == ["5349"]
    assert values(tls, "cert") == ["/c.pem"]
    assert values(tls, "no-tlsv1") == [""]
    assert not values(tls, "no-tls")


def test_nothing_but_the_standard_library_is_imported() -> None:
    code = (
        "import sys; before = set(sys.modules); import controlplane.drivers.turn.config,"
        " controlplane.drivers.turn.database; print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    root = str(module.__file__).partition("/controlplane/")[0]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert set(found.stdout.split()) <= set(sys.stdlib_module_names) | {"controlplane"}
