"""The rig's wires: a hub with two bridges (the public network and a private one), a link to each host, and faults.

The hub is a namespace of its own; all faults are its doing, so a host sees what it would see of a real network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from launcher.rig.processes import run

#: Bridges in the hub.
PUBLIC, PRIVATE = "pub", "priv"
TABLE = "rig_faults"
#: Whatever is not neighbours asking for each other.
SPEECH = (
    "ether type ip",
    "ether type ip6 icmpv6 type != { nd-neighbor-solicit, nd-neighbor-advert }",
    "ether type ip6 meta l4proto != ipv6-icmp",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Addresses: 198.18.<net>.0/24 and 2001:db8:<net>::/64 public, 10.18.<net>.0/24 private (RFC 2544, 3849, 1918)."""

    net: int

    def public(self, number: int) -> str:
        return f"198.18.{self.net}.{number}"

    def public6(self, number: int) -> str:
        return f"2001:db8:{self.net:x}::{number:x}"

    def private(self, number: int) -> str:
        return f"10.18.{self.net}.{number}"


def inside(pid: int) -> list[str]:
    """A command's prefix that puts it into the network of this process."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def ip(pid: int, *lines: str) -> None:
    """Lines of ip(8) in the network of this process; the first that fails ends it."""
    run([*inside(pid), "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))


def make_hub(pid: int) -> None:
    lines = ["link set lo up"]
    for bridge in (PUBLIC, PRIVATE):
        lines += [f"link add {bridge} type bridge forward_delay 0", f"link set {bridge} up"]
    ip(pid, *lines)
    run([*inside(pid), "nft", "-f", "-"], stdin=_table())


def _table() -> str:
    return "\n".join(
        [
            f"add table bridge {TABLE}",
            f"add chain bridge {TABLE} forward {{ type filter hook forward priority 0; policy accept; }}",
            # The hub itself speaks with nobody; the addresses that it has are black holes.
            f"add table inet {TABLE}",
            f"add chain inet {TABLE} input {{ type filter hook input priority 0; policy drop; }}",
            f"add rule inet {TABLE} input icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept",
            "",
        ]
    )


def wire(hub: int, host: int, name: str, bridge: str, device: str, addresses: list[str]) -> None:
    """A link from a bridge to the host, with these addresses (with their lengths) on the host's end."""
    port = port_of(name, bridge)
    ip(hub, f"link add {port} type veth peer name {device} netns {host}", f"link set {port} master {bridge} up")
    # A machine that boots again has the card that it had: its neighbours need not learn anything.
    card = hashlib.sha256(port.encode()).hexdigest()
    lines = [f"link set {device} address 02:{':'.join(card[n : n + 2] for n in range(0, 10, 2))} up"]
    for address in addresses:
        # Duplicate address detection would leave an IPv6 address unusable for seconds.
        lines.append(f"address add {address} dev {device}" + (" nodad" if ":" in address else ""))
    ip(host, "link set lo up", *lines)


def port_of(name: str, bridge: str) -> str:
    """The hub's end of a host's link; 15 letters at most."""
    return f"{bridge[:3]}-{name}"[:15]


def prepare(host: int) -> None:
    """Settings of a host's network."""
    settings = {
        # Else the first address of a network takes the others of it with it.
        "net.ipv4.conf.all.promote_secondaries": "1",
        "net.ipv4.conf.default.promote_secondaries": "1",
        "net.ipv6.conf.default.accept_ra": "0",
        "net.ipv6.conf.default.router_solicitations": "0",
    }
    run([*inside(host), "sysctl", "-q", *(f"{name}={value}" for name, value in settings.items())])


def remove_ports(hub: int, name: str) -> None:
    """Take the hub's ends of a host's links away; they may be gone already, with the host's network."""
    for bridge in (PUBLIC, PRIVATE):
        run([*inside(hub), "ip", "link", "delete", port_of(name, bridge)], check=False)


def readdress(host: int, device: str, old: list[str], new: list[str]) -> None:
    """Replace addresses (with their lengths) on a device. What both lists have stays."""
    added = [a for a in new if a not in old]
    lines = [f"address add {a} dev {device}" + (" nodad" if ":" in a else "") for a in added]
    lines += [f"address delete {a} dev {device}" for a in old if a not in new]
    ip(host, *lines)


def set_links(hub: int, name: str, *, up: bool) -> None:
    """Plug the cables of a host out or in: it sees the loss of the carrier."""
    for bridge in (PUBLIC, PRIVATE):
        run([*inside(hub), "ip", "link", "set", port_of(name, bridge), "up" if up else "down"], check=False)


def drop(hub: int, name: str, *, loss_percent: int = 100) -> None:
    """Swallow what goes to and comes from a host, silently: all of it, or so many packets of a hundred.

    Neighbours still find each other: else the kernel gives up after three seconds, and says so.
    """
    some = "" if loss_percent >= 100 else f"numgen random mod 100 < {int(loss_percent)} "
    lines = []
    for bridge in (PUBLIC, PRIVATE):
        port = port_of(name, bridge)
        for way in ("iifname", "oifname"):
            for what in SPEECH:
                lines.append(
                    f'add rule bridge {TABLE} forward {way} "{port}" {what} {some}counter drop comment "{name}"'
                )
    run([*inside(hub), "nft", "-f", "-"], stdin="\n".join(lines) + "\n")


def make_hole(hub: int, addresses: list[str]) -> None:
    """Black holes where addresses were: the hub says that it has them, and what is sent there vanishes."""
    ip(hub, *(f"address replace {_alone(a)} dev {PUBLIC}" + (" nodad" if ":" in a else "") for a in addresses))


def end_hole(hub: int, addresses: list[str]) -> None:
    for address in addresses:
        run([*inside(hub), "ip", "address", "delete", _alone(address), "dev", PUBLIC], check=False)


def _alone(address: str) -> str:
    bare = address.partition("/")[0]
    return f"{bare}/{128 if ':' in bare else 32}"


def undo_drops(hub: int, comment: str) -> None:
    """Take away what ``drop`` did for this host."""
    text = run([*inside(hub), "nft", "--handle", "list", "chain", "bridge", TABLE, "forward"])
    lines = [
        f"delete rule bridge {TABLE} forward handle {line.rpartition('# handle ')[2].strip()}"
        for line in text.splitlines()
        if f'comment "{comment}"' in line
    ]
    if lines:
        run([*inside(hub), "nft", "-f", "-"], stdin="\n".join(lines) + "\n")


def translate(router: int, inner: str, ports: list[int]) -> None:
    """NAT between a router's ``inside`` and ``eth0``: these TCP ports are led on to ``inner``, others stay outside."""
    run([*inside(router), "sysctl", "-q", "net.ipv4.ip_forward=1"])
    lines = [
        "add table ip nat",
        "add chain ip nat in { type nat hook prerouting priority -100; }",
        "add chain ip nat out { type nat hook postrouting priority 100; }",
        'add rule ip nat out oifname "eth0" masquerade',
        *(f'add rule ip nat in iifname "eth0" tcp dport {port} dnat to {inner}' for port in ports),
        "add chain ip nat through { type filter hook forward priority 0; policy drop; }",
        'add rule ip nat through iifname "inside" accept',
        "add rule ip nat through ct state established,related accept",
        "add rule ip nat through ct status dnat accept",
    ]
    run([*inside(router), "nft", "-f", "-"], stdin="\n".join(lines) + "\n")
