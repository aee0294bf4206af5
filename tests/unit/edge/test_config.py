"""The edge's configuration: what may be in it, and that HAProxy itself accepts it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from controlplane.drivers.edge.config import EdgeConfig, render_haproxy_cfg

PLAIN = EdgeConfig(addresses=("192.0.2.1", "2001:db8::1"), socket="/run/edge/admin.sock", map_dir="/run/edge")


def test_listens_on_the_standard_ports_of_each_address() -> None:
    binds = [line.split()[1] for line in render_haproxy_cfg(PLAIN).splitlines() if line.startswith("  bind ")]
    for port in (5222, 5223, 5269, 5270, 443, "20000-21999"):
        assert f"192.0.2.1:{port}" in binds
        assert f"[2001:db8::1]:{port}" in binds
    assert not any(bind[-3:] == ":80" for bind in binds)


def test_clients_may_be_silent_for_longer_than_servers() -> None:
    frontends = {part.split()[0]: part for part in render_haproxy_cfg(PLAIN).split("\nfrontend ")[1:]}
    for name, part in frontends.items():
        is_server = name.startswith("s2s")
        binds = [line for line in part.splitlines() if line.startswith("  bind ")]
        assert all(line.endswith(" tcp-ut 15s" if is_server else " tcp-ut 120s") for line in binds)
        assert ("clitcpka-idle 10s" in part) == is_server


def test_port_80_only_for_validations() -> None:
    text = render_haproxy_cfg(dataclasses.replace(PLAIN, acme_http="192.0.2.9:8000"))
    assert "bind 192.0.2.1:80" in text
    assert "server web 192.0.2.9:8000" in text


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ()},
        {"addresses": ("example.org",)},
        {"addresses": ("192.0.2.1\n  stats socket /tmp/x",)},
        {"socket": "relative.sock"},
        {"socket": "/run/edge/a b"},
        {"map_dir": "/run/edge\n"},
        {"user": "ha proxy"},
        {"control_group": "roost level admin"},
        {"proxy65_ports": (80, 90)},
        {"proxy65_ports": (3000, 2000)},
        {"max_connections_per_source": -1},
        {"acme_http": "web\n  server x 1.2.3.4:80"},
        {"sources": ("10.0.0.1", "10.0.0.2")},
        {"sources": ("10.0.0.1\n  server x 1.2.3.4:80",)},
    ],
)
def test_refuses_what_does_not_belong_there(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        render_haproxy_cfg(dataclasses.replace(PLAIN, **change))  # type: ignore[arg-type]


def test_map_dir_stays_a_path(tmp_path: Path) -> None:
    assert str(tmp_path / "backends.map") in render_haproxy_cfg(dataclasses.replace(PLAIN, map_dir=str(tmp_path)))


def test_every_frontend_counts_the_connections_of_a_source() -> None:
    limited = render_haproxy_cfg(dataclasses.replace(PLAIN, acme_http="192.0.2.9:80", max_connections_per_source=7))
    frontends = limited.count("\nfrontend ")
    assert frontends == 7
    assert limited.count("track-sc0 src,ipmask(32,64) table sources") == frontends
    assert limited.count("reject if { sc0_conn_cur(sources) gt 7 }") == frontends
    unlimited = render_haproxy_cfg(dataclasses.replace(PLAIN, max_connections_per_source=0))
    assert "sources" not in unlimited
    assert "gt 500 }" in render_haproxy_cfg(PLAIN)


def test_each_family_is_connected_to_from_an_address_of_its_own() -> None:
    text = render_haproxy_cfg(dataclasses.replace(PLAIN, sources=("10.0.0.1", "fd00::1")))
    assert "backend c2s_ipv4\n  server instance 0.0.0.0:0 send-proxy-v2 source 10.0.0.1\n" in text
    assert "backend c2s_ipv6\n  server instance 0.0.0.0:0 send-proxy-v2 source [fd00::1]\n" in text
    assert "backend proxy65_ipv6\n  server instance 0.0.0.0:0 source [fd00::1]\n" in text
    assert " source " not in render_haproxy_cfg(PLAIN).replace("# ", "")
