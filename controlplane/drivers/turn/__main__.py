"""``python -m controlplane.drivers.turn``: prints coturn's turnserver.conf, for ansible or for a look."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from controlplane.drivers.turn.config import TurnServerConfig, render_turnserver_conf


def config_of(argv: Sequence[str] | None = None) -> TurnServerConfig:
    """The configuration that these arguments mean. Ends with ``SystemExit`` and a message if they mean none."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.drivers.turn", description="Print turnserver.conf.")
    parser.add_argument("--listen", action="append", required=True, help="address to listen on; again for more")
    parser.add_argument("--realm", required=True, help="the realm of every tenant's credentials")
    parser.add_argument("--database", required=True, help="path of the SQLite user database")
    parser.add_argument("--pidfile", default="/run/turnserver/turnserver.pid", help="path of the pid file")
    parser.add_argument("--external-ip", default="", help="the public address behind 1:1 NAT")
    parser.add_argument("--port", type=int, default=3478, help="UDP and TCP")
    parser.add_argument("--tls-port", type=int, default=None, help="TLS and DTLS; without it there is neither")
    parser.add_argument("--certificate", default="", help="path of the certificate chain, PEM")
    parser.add_argument("--private-key", default="", help="path of its key, PEM")
    parser.add_argument("--relay-ports", default="49152-65535", help="range of relay ports")
    parser.add_argument("--allow-peers", action="append", default=[], help="network that is denied otherwise (CIDR)")
    options = parser.parse_args(argv)
    low, _, high = options.relay_ports.partition("-")
    try:
        config = TurnServerConfig(
            listening_ips=tuple(options.listen),
            realm=options.realm,
            database=options.database,
            pidfile=options.pidfile,
            port=options.port,
            tls_port=options.tls_port,
            certificate=options.certificate,
            private_key=options.private_key,
            external_ip=options.external_ip,
            min_relay_port=int(low),
            max_relay_port=int(high),
            allowed_peers=tuple(options.allow_peers),
        )
        render_turnserver_conf(config)
    except ValueError as error:
        parser.error(str(error))
    return config


def main() -> None:
    print(render_turnserver_conf(config_of()), end="")


if __name__ == "__main__":
    main()
