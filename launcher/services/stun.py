"""A lab's STUN server: tells nodes which addresses the world sees them by, over IPv4 and IPv6. It relays nothing.

Beside it the TURN server answers the same question, over IPv4; so nodes have two sources outside in each family.
"""

from __future__ import annotations

import hashlib

from launcher import checks, files
from launcher.layout import Layout
from launcher.programs import Program

#: The last number of its address, which is the outside's own.
NUMBER = 100
PORTS = (3478, 3479)
CONFIG = """\
# Written by Roost; changes are lost.
stun-only
no-auth
listening-ip={address}
listening-ip={address6}
listening-port={ports[0]}
alt-listening-port={ports[1]}
no-tls
no-dtls
no-cli
no-software-attribute
pidfile={base}/stun.pid
userdb={base}/stun.sqlite
log-file=stdout
"""


def addresses(layout: Layout) -> tuple[str, str]:
    """IPv4 and IPv6."""
    return layout.address(NUMBER), f"2001:db8:{layout.net:x}::{NUMBER:x}"


def servers(layout: Layout) -> list[str]:
    """What nodes ask: two servers in each family."""
    address, address6 = addresses(layout)
    return [f"{layout.turn_address}:3478", f"{address}:{PORTS[0]}", *(f"[{address6}]:{port}" for port in PORTS)]


def prepare(layout: Layout) -> Program:
    address, address6 = addresses(layout)
    base = files.directory(layout.state / "stun", owner="turnserver", group="turnserver", mode=0o750)
    text = CONFIG.format(address=address, address6=address6, ports=PORTS, base=base)
    files.write(base / "stun.conf", text, mode=0o640, group="turnserver")
    return Program(
        name="stun",
        title="coturn (STUN alone, for the nodes)",
        argv=["/usr/bin/turnserver", "-c", str(base / "stun.conf")],
        user="turnserver",
        ready=lambda: checks.tcp(address, PORTS[0]),
        remedy="see `./roost logs stun`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=30,
    )
