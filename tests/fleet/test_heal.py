"""Machines that get other addresses, links that become black holes: Roost notices, mends and proves it by itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.fleet_lab import Lab, Tenant, roost
from tests.stack.live import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def incidents(lab: Lab, kind: str) -> list[dict[str, Any]]:
    rows = lab.get("incidents/?limit=100")["results"]
    return [row for row in rows if row["kind"] == kind]


def talk(lab: Lab, one: Tenant, other: Tenant) -> None:
    """Both ways; by strangers' clients, who look the servers up."""
    assert "Delivered" in lab.send(one, other)
    assert "Delivered" in lab.send(other, one)


def test_an_address_that_changes_is_followed_everywhere(fleet: Lab) -> None:
    there, elsewhere = fleet.on("n1"), fleet.on("n2")
    for tenant, other in zip(there, elsewhere, strict=False):
        talk(fleet, tenant, other)
    before = {row["key"] for row in incidents(fleet, "address")}
    roost("lab", "move", "n1", "177")
    public = fleet.host("n1").public
    assert public.endswith(".177")
    until(lambda: public in fleet.get("nodes/n1/")["public_addresses"], "the node has it", timeout_s=60)
    for tenant, other in zip(there, elsewhere, strict=False):
        until(lambda tenant=tenant, other=other: talk(fleet, tenant, other) or True, "they talk again", timeout_s=90)  # type: ignore[misc]

    def told() -> dict[str, Any]:
        rows = [row for row in incidents(fleet, "address") if row["key"] not in before]
        assert len(rows) == 1, rows
        assert rows[0]["ended_at"], rows
        return rows[0]

    row = until(told, "its incident ends", timeout_s=90)
    details = fleet.get(f"incidents/{row['key']}/")["details"]
    assert {"detect_s", "publish_s", "heal_s"} <= set(details), details
    fleet.all_ready(fleet.tenants)
    fleet.nodes_ready(["n1"])


def test_a_black_hole_in_one_link_is_noticed_without_traffic_and_mended(fleet: Lab) -> None:
    one, other, third = fleet.on("n1")[0], fleet.on("n2")[0], fleet.on("n3")[0]
    talk(fleet, one, other)
    talk(fleet, one, third)
    since = {tenant.domain: opened(fleet, one, tenant) for tenant in (other, third)}
    swallow(fleet, one, "n2")

    def mended() -> bool:
        assert opened(fleet, one, other) - since[other.domain], "other connections than before"
        assert link(fleet, one, other)["state"] in {"up", "idle"}
        return True

    until(mended, "the link is dialled anew", timeout_s=90)
    talk(fleet, one, other)
    assert link(fleet, one, third)["state"] in {"up", "idle"}


def link(lab: Lab, tenant: Tenant, remote: Tenant) -> dict[str, Any]:
    found: dict[str, Any] = lab.get(f"instances/{tenant.key}/links/{remote.domain}/")
    return found


def opened(lab: Lab, tenant: Tenant, remote: Tenant) -> set[str]:
    """The instance's own connections to the other's edge, by their local ends, as its kernel tells."""
    host = lab.host(lab.instance(tenant)["node"])
    far = lab.host(lab.instance(remote)["node"])
    return {near for near, _ in sockets(lab, tenant, host.name, far.name)}


def sockets(lab: Lab, tenant: Tenant, near: str, far: str) -> list[tuple[str, str]]:
    """(local end, port there) of its established connections to the servers' ports of another host."""
    host = lab.host(near)
    uid = host.run("id", "-u", f"r-{tenant.key}").strip()
    addresses = {text.partition("/")[0] for text in lab.host(far).addresses["pub"]}
    found = []
    for line in host.run("ss", "-tneH", "state", "established").splitlines():
        words = line.split()
        address, _, port = words[3].rpartition(":")
        if f"uid:{uid}" in words and address.strip("[]") in addresses and port in ("5269", "5270"):
            found.append((words[2], port))
    return found


def swallow(lab: Lab, tenant: Tenant, far: str) -> None:
    """What it has open to that host now vanishes from here on, in both directions; whatever it opens later does not."""
    host = lab.host(lab.instance(tenant)["node"])
    lines = ["add table inet hole"]
    found = sockets(lab, tenant, host.name, far)
    assert found
    for hook, ways in (("output", ("sport", "dport")), ("input", ("dport", "sport"))):
        lines.append(f"add chain inet hole {hook} {{ type filter hook {hook} priority -50; }}")
        for near, port in found:
            lines.append(f"add rule inet hole {hook} tcp {ways[0]} {near.rpartition(':')[2]} tcp {ways[1]} {port} drop")
    host.run("nft", "\n".join(lines))
