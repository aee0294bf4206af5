"""The edge: HAProxy on the standard ports. Its configuration never changes with tenants; they are in its maps."""

from __future__ import annotations

import hashlib
import os
import pwd

from controlplane.drivers.edge.agent import BACKENDS_MAP, PROXY65_MAP
from controlplane.drivers.edge.config import EdgeConfig, render_haproxy_cfg
from launcher import checks, files
from launcher.layout import Layout
from launcher.programs import Program

PORTS = (80, 443, 5222, 5223, 5269, 5270)


def prepare(layout: Layout) -> Program:
    # HAProxy reads the maps as root, before it becomes haproxy; who is routed where is no tenant's to read.
    base = files.directory(layout.edge, owner="roost", group="roost", mode=0o750)
    # The control plane's two kinds of workers (roost and root) both replace the maps and share the lock.
    owner = pwd.getpwnam("roost")
    for name, mode in ((BACKENDS_MAP, 0o644), (PROXY65_MAP, 0o644), ("lock", 0o664)):
        (base / name).touch()
        os.chown(base / name, owner.pw_uid, owner.pw_gid)
        (base / name).chmod(mode)
    address = layout.edge_address
    text = render_haproxy_cfg(
        EdgeConfig(
            addresses=(address,),
            socket=str(base / "admin.sock"),
            map_dir=str(base),
            acme_http=layout.web_address,
            max_connections=8000,
            max_connections_per_source=0,  # everybody here comes from one address
        )
    )
    files.write(base / "haproxy.cfg", text)
    return Program(
        name="edge",
        title="HAProxy (edge)",
        argv=["/usr/sbin/haproxy", "-db", "-f", str(base / "haproxy.cfg")],
        user="root",  # it binds the ports, then becomes haproxy
        ready=lambda: checks.tcp(address, 5222) and checks.unix_socket(base / "admin.sock"),
        remedy="see `./roost logs edge`",
        digest=hashlib.sha256(text.encode()).hexdigest(),
        priority=40,
        ports=[("tcp", address, port) for port in PORTS],
    )
