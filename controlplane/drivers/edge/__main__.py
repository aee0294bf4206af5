"""``python -m controlplane.drivers.edge``: prints the edge's haproxy.cfg, for ansible or for a look."""

from __future__ import annotations

import argparse

from controlplane.drivers.edge.config import PER_SOURCE, EdgeConfig, render_haproxy_cfg


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m controlplane.drivers.edge", description="Print haproxy.cfg.")
    parser.add_argument("--address", action="append", required=True, help="where to listen; again for more, * for all")
    parser.add_argument("--socket", required=True, help="path of the stats socket")
    parser.add_argument("--map-dir", required=True, help="directory of the maps")
    parser.add_argument("--control-group", default="roost", help="group that may use the socket")
    parser.add_argument("--proxy65-ports", default="20000-21999", help="range of ports for XEP-0065")
    parser.add_argument("--acme-http", default="", help="address:port of the web process, for HTTP-01 on port 80")
    parser.add_argument(
        "--max-connections-per-source",
        type=int,
        default=PER_SOURCE,
        help="open at once from one IPv4 address or IPv6 /64; 0: no limit",
    )
    parser.add_argument(
        "--source", action="append", default=[], help="own address to connect to instances from; one of each family"
    )
    options = parser.parse_args()
    low, _, high = options.proxy65_ports.partition("-")
    try:
        config = EdgeConfig(
            addresses=tuple(options.address),
            socket=options.socket,
            map_dir=options.map_dir,
            control_group=options.control_group,
            proxy65_ports=(int(low), int(high)),
            acme_http=options.acme_http,
            max_connections_per_source=options.max_connections_per_source,
            sources=tuple(options.source),
        )
        print(render_haproxy_cfg(config), end="")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
