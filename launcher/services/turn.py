"""coturn with its user database; the control plane writes the tenants' secrets into it, coturn only reads."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd

from controlplane.drivers.turn.config import TurnServerConfig, render_turnserver_conf
from controlplane.drivers.turn.database import create_database
from launcher import checks, files
from launcher.layout import ZONE, Layout
from launcher.programs import Program


def prepare(layout: Layout) -> Program:
    # Both write beside the database (SQLite's journal), so the directory is the group's, and new files inherit it.
    base = files.directory(layout.turn, owner="roost", group="turnserver", mode=0o2770)
    database = base / "turn.sqlite"
    create_database(database)
    os.chown(database, pwd.getpwnam("roost").pw_uid, grp.getgrnam("turnserver").gr_gid)
    database.chmod(0o660)
    address = layout.turn_address
    text = render_turnserver_conf(
        TurnServerConfig(
            listening_ips=(address,),
            realm=f"turn.{ZONE}",
            database=str(database),
            pidfile=str(base / "turnserver.pid"),
            # This whole stack is on addresses that are nobody's; the real machines' role allows none of them.
            allow_loopback_peers=not layout.is_lab,
            allowed_peers=(layout.own_network,) if layout.is_lab else (),
            min_relay_port=49152,
            max_relay_port=50151,
        )
    )
    files.write(base / "turnserver.conf", text, mode=0o640, group="turnserver")
    return Program(
        name="coturn",
        title="coturn (TURN)",
        argv=["/usr/bin/turnserver", "-c", str(base / "turnserver.conf")],
        user="turnserver",
        ready=lambda: checks.tcp(address, 3478),
        remedy="see `./roost logs coturn`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=30,
        ports=[("udp", address, 3478), ("tcp", address, 3478)],
    )
