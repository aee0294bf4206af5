"""A whole rig: the hub, its hosts, what is known of them in a file, and its end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from launcher.rig import network, slowness
from launcher.rig.machine import Host
from launcher.rig.processes import RigError, children, in_networks, is_marked, kill, lives, marked, run, start

#: What a rig needs of this machine, as Debian's packages.
PACKAGES = ["iproute2", "nftables", "openssh-server", "openssh-client", "supervisor", "util-linux", "procps"]
FILE = "rig.json"
#: Memory that all hosts' disks may take together.
DISKS = "12g"


class Rig:
    """``directory``: its state; exists while the rig does. ``net``: the number in its addresses."""

    def __init__(self, directory: Path, net: int) -> None:
        self.directory = directory
        self.plan = network.Plan(net)
        self.hub = 0
        self.hosts: dict[str, Host] = {}
        #: Name of a host -> the router before it.
        self.routers: dict[str, Host] = {}

    @classmethod
    def load(cls, directory: Path) -> Rig:
        """The rig that is up there; ``RigError`` if none is."""
        try:
            stored = json.loads((directory / FILE).read_text())
        except (OSError, ValueError) as error:
            raise RigError(f"There is no rig in {directory}.") from error
        rig = cls(directory, stored["net"])
        rig.hub = stored["hub"]
        for row in stored["hosts"]:
            host = rig._read(row)
            rig.hosts[host.name] = host
        rig.routers = {name: rig._read(row) for name, row in stored.get("routers", {}).items()}
        if not lives(rig.hub) or not is_marked(rig.hub, directory):
            raise RigError(f"The rig in {directory} is broken: take it down and up again.")
        return rig

    def _read(self, row: dict[str, Any]) -> Host:
        host = Host(row["name"], row["number"], self.plan, self.directory, self.hub, row["full"], row["holder"])
        host.addresses, host.hidden, host.nat_ports = row["addresses"], row["hidden"], row.get("nat_ports")
        return host

    def up(self) -> None:
        """The hub, without hosts."""
        for tool in ("ip", "nft", "nsenter", "unshare", "ssh-keygen", "supervisord", "ss"):
            if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
                raise RigError(f"The rig needs {tool}: install {' '.join(PACKAGES)}.")
        if os.geteuid() != 0:
            raise RigError("The rig needs root.")
        self.directory.mkdir(parents=True, exist_ok=True)
        disks = self.directory / "hosts"
        disks.mkdir(exist_ok=True)
        script = 'mount -t tmpfs -o "size=$1,mode=755" tmpfs "$2" && exec sleep infinity'
        apart = ["unshare", "--net", "--mount", "--propagation", "private", "--"]
        self.hub = start(
            [*apart, "/bin/sh", "-c", script, "hub", DISKS, str(disks)], self.directory, self.directory / "hub.log"
        )
        self._wait_hub(disks)
        network.make_hub(self.hub)
        self.save()

    def _wait_hub(self, disks: Path) -> None:
        import time

        deadline = time.monotonic() + 10
        while True:
            try:
                if f" {disks} " in Path(f"/proc/{self.hub}/mountinfo").read_text():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline or not lives(self.hub):
                raise RigError(f"The hub did not start: {(self.directory / 'hub.log').read_text()[-300:]}")
            time.sleep(0.02)

    def add(self, name: str, number: int, *, full: bool = True, hidden: tuple[str, ...] = ()) -> Host:
        """Make a host and switch it on; the one that is there if there is one."""
        host = self.hosts.get(name)
        if host is None:
            host = Host(name, number, self.plan, self.directory, self.hub, full, hidden=list(hidden))
            self.hosts[name] = host
        try:
            host.boot()
        finally:
            self.save()
        return host

    def off(self, name: str) -> None:
        """Cut its power. Its disk stays."""
        host = self.hosts[name]
        self._unslow(name)
        host.off()
        if name in self.routers:
            self.routers.pop(name).off()
        self.save()

    def on(self, name: str) -> None:
        """Boot it again with its disk and addresses, behind its router if it had one. Its cables are in."""
        host = self.hosts[name]
        host.boot()
        if host.nat_ports is not None and name not in self.routers:
            self._insert_router(host)
        self.save()

    def cut(self, name: str) -> None:
        """Pull its cables: neighbours notice within seconds."""
        for one in self._ports(name):
            network.set_links(self.hub, one, up=False)

    def plug(self, name: str) -> None:
        for one in self._ports(name):
            network.set_links(self.hub, one, up=True)

    def swallow(self, name: str, *, loss_percent: int = 100) -> None:
        """A black hole: what goes to it and comes from it vanishes (or so many packets of a hundred), silently."""
        for one in self._ports(name):
            network.drop(self.hub, one, loss_percent=loss_percent)

    def delay(self, name: str, milliseconds: int) -> None:
        """Whatever goes to it or comes from it by its public link is late by that much. 0: no more."""
        self._unslow(name)
        if milliseconds:
            slowness.add(self.directory, self.hub, self._ports(name)[-1], milliseconds)

    def _unslow(self, name: str) -> None:
        for one in self._ports(name):
            slowness.remove(self.directory, self.hub, one)

    def heal(self, name: str) -> None:
        """End of ``swallow`` and ``delay``."""
        for one in self._ports(name):
            network.undo_drops(self.hub, one)
        self._unslow(name)

    def _ports(self, name: str) -> list[str]:
        """Whose ports in the hub are the host's: its own, and its router's."""
        return [name, self.routers[name].name] if name in self.routers else [name]

    def change_address(self, name: str, number: int) -> None:
        """Other public addresses; the old ones become black holes. ``RigError`` if another host has them."""
        host = self.hosts[name]
        if host.nat_ports is not None:
            raise RigError(f"{name} is behind NAT: its addresses are the router's.")
        taken = [
            other.name
            for other in self.hosts.values()
            if other is not host
            and self.plan.public(number) in [text.partition("/")[0] for text in other.addresses.get(network.PUBLIC, [])]
        ]
        if taken:
            raise RigError(f"{self.plan.public(number)} belongs to {taken[0]}.")
        old = host.addresses[network.PUBLIC]
        host.change_address(number)
        self._forget_neighbours([*old, *host.addresses[network.PUBLIC]])
        self.save()

    def put_behind_nat(self, name: str, ports: tuple[int, ...] = (22,)) -> Host:
        """Give its public addresses to a router that translates; these TCP ports are led on to the host.

        Behind it there is IPv4 only. The private link stays. Its own address is ``inner_address`` then.
        """
        host = self.hosts[name]
        if host.nat_ports is not None:
            raise RigError(f"{name} is behind NAT already.")
        self._unslow(name)
        host.nat_ports = list(ports)
        router = self._insert_router(host)
        self.save()
        return router

    def inner_address(self, name: str) -> str:
        """Of a host behind NAT."""
        return f"192.168.{self.hosts[name].number}.2"

    def _insert_router(self, host: Host) -> Host:
        router = Host(f"{host.name[:8]}-r", host.number, self.plan, self.directory, self.hub, full=False)
        router.addresses = {network.PUBLIC: [], network.PRIVATE: []}
        router.boot()
        self.routers[host.name] = router
        public, inner = host.addresses[network.PUBLIC], self.inner_address(host.name)
        outer = f"{inner.rpartition('.')[0]}.1"
        # The router comes in between: the host's cable ends at it, and its own in the hub.
        network.ip(self.hub, f"link set {network.port_of(host.name, network.PUBLIC)} netns {router.pid} name inside")
        network.ip(router.pid, "link set inside up", f"address add {outer}/24 dev inside")
        network.readdress(host.pid, "eth0", public, [f"{inner}/24"])
        network.ip(host.pid, f"route replace default via {outer}")
        network.readdress(router.pid, "eth0", [], public)
        network.translate(router.pid, inner, host.nat_ports or [])
        self._forget_neighbours(public)
        return router

    def remove_nat(self, name: str) -> None:
        """The host has its public addresses itself again."""
        host = self.hosts[name]
        if host.nat_ports is None:
            return
        self._unslow(name)
        host.nat_ports = None
        if name in self.routers:
            router = self.routers.pop(name)
            port, inner = network.port_of(name, network.PUBLIC), self.inner_address(name)
            network.ip(router.pid, f"link set inside netns {self.hub} name {port}")
            router.off()
            network.ip(self.hub, f"link set {port} master {network.PUBLIC} up")
            network.ip(host.pid, "route delete default")
            network.readdress(host.pid, "eth0", [f"{inner}/24"], host.addresses[network.PUBLIC])
            self._forget_neighbours(host.addresses[network.PUBLIC])
        self.save()

    def _forget_neighbours(self, addresses: list[str]) -> None:
        """Everybody asks anew who has them."""
        for host in self.hosts.values():
            if host.is_on:
                for address in addresses:
                    bare = address.partition("/")[0]
                    run([*network.inside(host.pid), "ip", "neigh", "flush", "to", bare], check=False)

    def save(self) -> None:
        stored: dict[str, Any] = {
            "net": self.plan.net,
            "hub": self.hub,
            "hosts": [host.as_json() for host in self.hosts.values()],
        }
        stored["routers"] = {name: router.as_json() for name, router in self.routers.items()}
        temporary = self.directory / f".{FILE}"
        temporary.write_text(json.dumps(stored, indent=1))
        temporary.replace(self.directory / FILE)

    def down(self) -> None:
        """End all of it, by what is really there and not only by what was written down; safe to run twice."""
        take_down(self.directory)


def take_down(directory: Path) -> int:
    """End everything that belongs to the rig in this directory; how many processes that were."""
    ended = 0
    while found := marked(directory):
        # Whoever is in their networks, too: a program whose supervisor was killed has no mark.
        found += [pid for pid in in_networks(found) if pid not in found]
        # The holders first: their hosts die with them, and with the last process of a namespace goes all that is in it.
        ended += len(found)
        kill(sorted(found, key=lambda pid: -len(children(pid))))
    shutil.rmtree(directory, ignore_errors=True)
    return ended
