"""A real HAProxy with the configuration that Roost renders, on a loopback address of the caller's."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.drivers.edge.config import BACKENDS_MAP, PROXY65_MAP, EdgeConfig, render_haproxy_cfg


@dataclass
class Haproxy:
    """A context manager. ``restart()`` keeps the maps' files, as a crash would.

    ``address``: where it listens, several with spaces between. ``namespace``: the network namespace that it runs in.
    """

    address: str
    acme_http: str = ""
    proxy65_ports: tuple[int, int] = (20000, 20009)
    max_connections_per_source: int = 0
    sources: tuple[str, ...] = ()
    namespace: str = ""
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="edge")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "admin.sock"

    def __enter__(self) -> Self:
        for name in (BACKENDS_MAP, PROXY65_MAP):
            (self.directory / name).touch()
        config = EdgeConfig(
            addresses=tuple(self.address.split()),
            socket=str(self.socket),
            map_dir=str(self.directory),
            control_group="root",
            proxy65_ports=self.proxy65_ports,
            acme_http=self.acme_http,
            max_connections_per_source=self.max_connections_per_source,
            sources=self.sources,
        )
        (self.directory / "haproxy.cfg").write_text(render_haproxy_cfg(config))
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        with (self.directory / "haproxy.log").open("ab") as log:
            within = ["ip", "netns", "exec", self.namespace] if self.namespace else []
            self.process = subprocess.Popen(
                [*within, "haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 15
        while True:
            try:
                if not self.namespace:
                    socket.create_connection((self.address, 5222), timeout=1).close()
                with socket.socket(socket.AF_UNIX) as admin:  # it appears after the ports do
                    admin.connect(str(self.socket))
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.directory / "haproxy.log").read_text()) from None
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()
