#!/usr/bin/env python3
"""What healing takes: a node's address changes under tenants that talk, with Roost and without, in the same lab.

    sudo bench/heal.py [--runs 30] [--unmanaged 3] [--debian 2] [--write docs/benchmarks.md]

Two nodes with a Prosody and an ejabberd each, and a domain that is nobody's tenant (``remote.example``). Clients of all
write to each other every quarter of a second. Then the first node gets another public address, and the old one becomes
a black hole. Counted from that moment: seconds until the first message written after it arrives, in each direction,
and messages that never arrive. Without Roost: its workers, prober and watcher are stopped, and a careful administrator
rewrites DNS and the edge at once, so that what is measured is the engines' own recovery: that of Roost's engines, which
are tuned, and beside them that of engines as Debian ships them (``bench/plain.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

from bench import plain  # noqa: E402
from bench.fleet import report  # noqa: E402
from bench.outage import INTERVAL_S, QUIET_S, Change, Direction, Watched, quantile, rewrite_zone, rows_of, slowest  # noqa: E402
from launcher import checks, lab_network, stack  # noqa: E402
from launcher.layout import ZONE, find  # noqa: E402
from launcher.rest import Api  # noqa: E402
from launcher.rig import network  # noqa: E402
from launcher.rig.rig import Rig  # noqa: E402
from launcher.services import remote  # noqa: E402

#: Its own state and addresses, so that it runs beside other labs; beside another of its kind with others.
ENVIRONMENT = {
    "ROOST_VAR": os.environ.get("BENCH_VAR", "var-lab-heal"),
    "ROOST_NET": os.environ.get("BENCH_NET", "85"),
}
MOVED, OTHER = "n1", "n2"
#: Which node a tenant is on is said by a label (``launcher.lab.enrol``).
LABEL = {MOVED: "p1", OTHER: "p0"}
ENGINES = ("prosody", "ejabberd")
CONTROL = ("worker", "heal-worker", "node-worker", "beat", "prober", "watcher")
#: A run goes on until every direction works again, so long at most.
MANAGED_S, UNMANAGED_S = 90.0, 120.0
NUMBERS = range(150, 250)
#: A direction without a message for longer was disturbed (they are written four times a second).
GAP_S = 2.0


def roost(*words: str) -> None:
    done = subprocess.run(
        [str(CLONE / "roost"), *words],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"roost {' '.join(words)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


class Scene(Watched):
    """The lab with its tenants and talkers."""

    def __init__(self) -> None:
        super().__init__(find(CLONE, ENVIRONMENT))
        lab_network.enter(self.layout)
        self.api = Api(self.layout.web_url, json.loads((self.layout.state / "secrets").read_text())["token"])
        self.rig = Rig.load(self.layout.rig)
        self.keys: dict[str, str] = {}
        self.numbers = iter(NUMBERS)
        #: Where the stranger is, and where it goes next.
        self.peer_numbers = [remote.NUMBER, remote.SECOND]

    def people(self) -> None:
        """A tenant of each engine on each node, an account each, and who writes to whom."""
        accounts: dict[str, list[dict[str, Any]]] = {MOVED: [], OTHER: []}
        for node in (MOVED, OTHER):
            for engine in ENGINES:
                slug = f"{engine}-{node}"
                self.api.post("organisations/", {"slug": slug, "name": slug})
                body = {"domain": f"{slug}.roost.example", "engine": engine, "plan": "small"}
                body["node_labels"] = {"provider": LABEL[node]}  # type: ignore[assignment]
                self.keys[slug] = self.api.post(f"organisations/{slug}/instances/", body)["key"]
                self.names[f"user@{slug}.roost.example"] = engine
        wait_ready(self.api, len(self.keys))
        roots = self.layout.state / "bench-roots.pem"
        roots.write_text(
            str(
                checks.get_json_or_text(
                    f"https://{self.layout.pebble_address}:15000/roots/0", ca_file=self.layout.pebble_ca
                )
            )
        )
        juliet, password = remote.account(self.layout)
        self.names[juliet] = "remote (Prosody)"
        for node in (MOVED, OTHER):
            for engine in ENGINES:
                slug = f"{engine}-{node}"
                key = self.keys[slug]
                made = self.api.post(f"instances/{key}/accounts/", {"username": "user"})
                account = {"jid": f"user@{slug}.roost.example", "password": made["password"], "roots": str(roots)}
                accounts[node].append(account)
        others = [account["jid"] for account in accounts[OTHER]] + [juliet]
        movers = [account["jid"] for account in accounts[MOVED]]
        for account in accounts[MOVED]:
            account["targets"], account["via"] = others, self.behind(account["jid"])
        stranger = {
            "jid": juliet,
            "password": password,
            "roots": str(self.layout.state / "remote" / "root.pem"),
            "targets": movers,
        }
        for account in accounts[OTHER]:
            account["targets"] = movers
        plan = {"resolver": f"{self.layout.resolver_address}@53", "roots": str(roots), "interval_s": INTERVAL_S}
        self.talkers.start(MOVED, {**plan, "accounts": accounts[MOVED]})
        self.talkers.start(lab_network.OUTSIDE, {**plan, "accounts": [*accounts[OTHER], stranger]})
        ours = [account["jid"] for account in accounts[OTHER]]
        self.moved, self.bystanders = set(movers), set(ours)
        self.directions = [(a, b) for a in movers for b in others]
        self.directions += [(b, a) for a in movers for b in ours]
        #: A server of somebody else's writes into its own stale stream until its kernel gives up: measured by itself.
        self.strangers: list[Direction] = [(juliet, a) for a in movers]

    def behind(self, jid: str) -> list[Any]:
        """Address and port that the edge forwards clients of this tenant to."""
        slug = jid.partition("@")[2].partition(".")[0]
        text = self.manage(
            "from controlplane.fleet.models import Placement as P;"
            f"p=P.objects.get(instance__key={self.keys[slug]!r});print(p.address, p.base_port)"
        ).split()
        return [text[-2], int(text[-1])]

    def manage(self, code: str) -> str:
        values = dict(
            line.split("=", 1) for line in (self.layout.state / "environment").read_text().splitlines() if "=" in line
        )
        done = subprocess.run(
            [str(self.layout.python), "manage.py", "shell", "-v", "0", "-c", code],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=self.layout.app,
            env={**values, "PATH": f"{self.layout.venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return done.stdout

    def stranger(self, limit_s: float) -> list[tuple[str, str]]:
        """Rows: how long the stranger's own half stays dead after one more change, with Roost at work."""
        at, whole = self.move()
        rows = []
        deadline = time.monotonic() + limit_s
        waiting = set(self.strangers)
        while waiting and time.monotonic() < deadline:
            time.sleep(0.5)
            for line in self.talkers.of("got", at):
                way = (line["sender"], line["who"])
                if way in waiting and line["sent"] >= whole:
                    waiting.discard(way)
                    name = f"with Roost: {self.names[way[0]]}'s own half → {self.names[way[1]]} (moved)"
                    rows.append((name, f"{line['at'] - at:.0f} s (one run)"))
        rows += [(f"with Roost: {self.names[a]}'s own half", f"not within {limit_s:.0f} s") for a, _ in sorted(waiting)]
        return rows

    def move(self) -> Change:
        """Give the node another public address."""
        at = time.monotonic()
        self.rig.change_address(MOVED, next(self.numbers))
        return at, time.monotonic()

    def move_by_hand(self) -> Change:
        """The same, and what an administrator who stands by does: the new address into DNS and into the edge.

        No link is touched.
        """
        before = self.addresses()
        change = self.move()
        replaced = dict(zip(before, self.addresses(), strict=True))
        rewrite_zone(self.layout, ZONE, replaced)
        script = "; ".join(f"sed -i s/{old}/{new}/g /etc/haproxy/haproxy.cfg" for old, new in replaced.items())
        self.rig.hosts[MOVED].run("sh", "-c", f"{script}; kill -USR2 $(pgrep -o -x haproxy)")
        return change

    def hole(self, pair: Direction) -> float:
        """Let what two servers have open to each other's machines vanish, and nothing else; when that was."""
        rules = []
        for node, jid in zip((MOVED, OTHER), pair, strict=True):
            host = self.rig.hosts[node]
            slug = jid.partition("@")[2].partition(".")[0]
            uid = host.run("id", "-u", f"r-{self.keys[slug]}").strip()
            far = self.rig.hosts[OTHER if node == MOVED else MOVED].addresses[network.PUBLIC]
            theirs = {text.partition("/")[0] for text in far}
            for line in host.run("ss", "-tneH", "state", "established").splitlines():
                words = line.split()
                address, _, port = words[3].rpartition(":")
                if f"uid:{uid}" in words and address.strip("[]") in theirs and port in ("5269", "5270"):
                    rules.append((host, words[2].rpartition(":")[2], port))
        for host in {host.name: host for host, _, _ in rules}.values():
            lines = ["add table inet bench"]
            for hook, ways in (("output", ("sport", "dport")), ("input", ("dport", "sport"))):
                lines.append(f"add chain inet bench {hook} {{ type filter hook {hook} priority -50; }}")
                lines += [
                    f"add rule inet bench {hook} tcp {ways[0]} {near} tcp {ways[1]} {port} drop"
                    for at, near, port in rules
                    if at is host
                ]
            host.run("nft", "\n".join(lines))
        return time.monotonic()

    def run_hole(self, pair: Direction, limit_s: float) -> dict[str, Any]:
        """One black hole in one link; every other direction has to go on as if nothing had happened."""
        self.healthy(time.monotonic(), 60)
        time.sleep(QUIET_S)
        at = self.hole(pair)
        found = self.watch((at, at), time.monotonic(), limit_s)
        # Connections are told apart by whose they are and which edge they lead to, not by the domain behind it.
        others = [way for way in self.directions if not (set(way) & set(pair)) or remote.DOMAIN in way[1]]
        found["disturbed"] = self.disturbed(found, others, at)
        return found

    def move_peer(self) -> Change:
        """The stranger gets another address, which its zone tells; what came to the old one goes into a black hole."""
        at = time.monotonic()
        old, new = (self.layout.address(number) for number in self.peer_numbers)
        self.peer_numbers.reverse()
        drop = "\n".join(
            f"add rule inet bench {hook} ip {side} {old} tcp {port} 5269 drop"
            for hook, side, port in (("input", "daddr", "dport"), ("output", "saddr", "sport"))
        )
        chains = "\n".join(
            f"add chain inet bench {hook} {{ type filter hook {hook} priority -50; }}" for hook in ("input", "output")
        )
        rules = f"add table inet bench\ndelete table inet bench\nadd table inet bench\n{chains}\n{drop}\n"
        nft = [*lab_network.outside(self.layout), "nft", "-f", "-"]
        subprocess.run(nft, input=rules, text=True, check=True, timeout=30)
        rewrite_zone(self.layout, remote.DOMAIN, {old: new})
        return at, time.monotonic()

    def run_peer(self, limit_s: float) -> dict[str, Any]:
        """A stranger moves; the other links of the tenants that talk with it have to go on undisturbed."""
        self.healthy(time.monotonic(), 60)
        time.sleep(QUIET_S)
        change = self.move_peer()
        found = self.watch(change, time.monotonic(), limit_s)
        others = [way for way in self.directions if remote.DOMAIN not in way[0] + way[1]]
        found["disturbed"] = self.disturbed(found, others, change[0])
        return found

    def disturbed(self, found: dict[str, Any], others: Sequence[Direction], at: float) -> list[str]:
        """Which of these directions lost something or were silent for long, in words."""
        said = []
        for way in others:
            lost, gap = len(found["lost"][way]), self.gap(way, at)
            if lost or gap > GAP_S:
                said.append(f"{self.names[way[0]]} → {self.names[way[1]]}: {lost} lost, {gap:.1f} s without one")
        return said

    def addresses(self) -> list[str]:
        """The moved node's public ones, IPv4 and IPv6."""
        return [text.partition("/")[0] for text in self.rig.hosts[MOVED].addresses[network.PUBLIC]]


def wait_ready(api: Api, count: int) -> None:
    deadline = time.monotonic() + 300
    while True:
        rows = api.get("instances/?limit=1000")["results"]
        if sum(row["ready"] for row in rows) == count:
            return
        if time.monotonic() > deadline:
            sys.exit(f"Not Ready: {[row['domain'] for row in rows if not row['ready']]}")
        time.sleep(0.3)


def holes(scene: Scene, count: int) -> list[tuple[str, str]]:
    """The table's rows: one link's connections vanish, for each pairing of engines."""
    rows = []
    movers = [jid for jid in scene.names if f"-{MOVED}." in jid]
    others = [jid for jid in scene.names if f"-{OTHER}." in jid]
    for pair in [(a, b) for a in movers for b in others] if count else []:
        runs = [scene.run_hole(pair, MANAGED_S) for _ in range(count)]
        for way in (pair, pair[::-1]):
            times = [run["first"].get(way, run["limit_s"]) for run in runs]
            lost = [len(run["lost"][way]) for run in runs]
            name = f"a black hole, with Roost: {scene.names[way[0]]} → {scene.names[way[1]]}"
            text = f"p50 {statistics.median(times):.1f} s, p95 {quantile(times):.1f} s; never arrived: "
            rows.append((name, f"{text}{statistics.mean(lost):.1f} messages a run"))
            print(rows[-1], flush=True)
        disturbed = [name for run in runs for name in run["disturbed"]]
        said = ", ".join(sorted(set(disturbed))) or "none"
        rows.append((f"other links disturbed meanwhile ({count} runs)", f"{len(disturbed)} ({said})"))
        print(rows[-1], flush=True)
    return rows


def peers(scene: Scene, count: int) -> list[tuple[str, str]]:
    """The table's rows: a stranger's address changes, and what of ours talks with it finds it again."""
    if not count:
        return []
    ways = [way for way in scene.directions if remote.DOMAIN in way[1]]
    runs = [scene.run_peer(MANAGED_S) for _ in range(count)]
    rows = []
    for way in ways:
        times = [run["first"].get(way, run["limit_s"]) for run in runs]
        lost = [len(run["lost"][way]) for run in runs]
        name = f"a stranger moves, with Roost: {scene.names[way[0]]} → {scene.names[way[1]]}"
        text = f"p50 {statistics.median(times):.1f} s, p95 {quantile(times):.1f} s; never arrived: "
        rows.append((name, f"{text}{statistics.mean(lost):.1f} messages a run"))
        print(rows[-1], flush=True)
    disturbed = [name for run in runs for name in run["disturbed"]]
    said = ", ".join(sorted(set(disturbed))) or "none"
    rows.append((f"other links disturbed meanwhile ({count} runs)", f"{len(disturbed)} ({said})"))
    print(rows[-1], flush=True)
    return rows


def change_rows(scene: Scene, title: str, runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The table's rows of runs of either kind."""
    dropped = sum(len(run["dropped"]) for run in runs)
    return [*rows_of(scene, title, runs), (f"{title}: sessions of other nodes' tenants dropped", str(dropped))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--unmanaged", type=int, default=3, help="runs without Roost, each up to two minutes")
    parser.add_argument("--holes", type=int, default=10, help="black holes in one link, for each pairing of engines")
    parser.add_argument("--peers", type=int, default=10, help="changes of a stranger's address")
    parser.add_argument(
        "--stranger", type=float, default=0, metavar="SECONDS", help="wait for somebody else's own half"
    )
    parser.add_argument("--debian", type=int, default=2, help="runs with engines as Debian ships them")
    parser.add_argument("--debian-wait", type=float, default=120.0, metavar="SECONDS", help="how long each at most")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    parser.add_argument("--write", metavar="FILE", help="append the table to this file")
    options = parser.parse_args()
    roost("lab", "down")
    roost("lab", "up", "--nodes", "2", "--no-demo")
    scene = Scene()
    try:
        scene.people()
        # Before a node moves: a stranger's own half would stay dead for long after it, and disturb the look at others.
        single = holes(scene, options.holes)
        managed = []
        for number in range(options.runs):
            managed.append(scene.run(MANAGED_S, scene.move))
            print(f"with Roost {number + 1}: {slowest(scene, managed[-1])}", flush=True)
        rows = change_rows(scene, "with Roost", managed) if managed else []
        rows += single
        rows += peers(scene, options.peers)
        rows += scene.stranger(options.stranger) if options.stranger else []
        if options.unmanaged:
            supervisor = stack.supervisor(scene.layout)
            for name in CONTROL:
                supervisor.stop_part(name)
            alone = []
            for number in range(options.unmanaged):
                alone.append(scene.run(UNMANAGED_S, scene.move_by_hand))
                print(f"without {number + 1}: {slowest(scene, alone[-1])}", flush=True)
            rows += change_rows(scene, "same engines, Roost switched off", alone)
        scene.talkers.end()
        rows += plain.measure(scene.layout, scene.rig, options.debian, options.debian_wait) if options.debian else []
    finally:
        scene.talkers.end()
        if not options.keep:
            roost("lab", "down")
    text = report(f"a node's address changes ({options.runs} times)", rows)
    print(text)
    if options.write:
        path = Path(options.write)
        path.write_text(f"{path.read_text().rstrip()}\n\n{text}")


if __name__ == "__main__":
    main()
