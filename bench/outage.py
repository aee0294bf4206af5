"""An outage as its users see it: clients that write to each other, and what becomes of their messages after a change.

``Watched`` leaves it to its heirs what is changed; here are the talkers' processes, seconds until the first message
that was written after the change arrives, messages that never do, the rows that say so, and DNS rewritten by hand.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher import lab_network
from launcher.layout import Layout

CLONE = Path(__file__).resolve().parent.parent
INTERVAL_S = 0.25
#: How long all is left in peace before a change; and after a run, for what is re-sent.
QUIET_S, SETTLE_S = 5.0, 6.0
#: A line may be read so much later than another one that was said after it.
LATE_S = 10.0
#: Who writes, and to whom: two JIDs.
Direction = tuple[str, str]
#: A change: when it began, and when it was whole. Time counts from the first; a message that was written before the
#: second may still have gone the old way.
Change = tuple[float, float]


class Talkers:
    """The processes that write and read, and every line that they said."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._processes: list[subprocess.Popen[str]] = []
        self.lines: list[dict[str, Any]] = []

    def start(self, host: str, plan: dict[str, Any]) -> None:
        pid = lab_network.rig_of(self._layout).hosts[host].pid
        process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "--", str(self._layout.python), "-m", "bench.talker"],
            cwd=CLONE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CLONE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan))
        process.stdin.close()
        self._processes.append(process)
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(json.loads(line))

    def of(self, what: str, since: float) -> list[dict[str, Any]]:
        """Those that were said since then, the newest first to be looked at: a long run has many."""
        found = []
        for line in reversed(self.lines[:]):
            if line["at"] < since - LATE_S:
                break
            if line["what"] == what and line["at"] >= since:
                found.append(line)
        return found[::-1]

    def end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(20)


class Watched:
    """Directions between accounts that talk. ``names``: JID -> what it is called in the tables.

    ``moved``: the JIDs whose address changes. ``bystanders``: those whose sessions no change has to touch.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.names: dict[str, str] = {}
        self.moved: set[str] = set()
        self.bystanders: set[str] = set()
        self.directions: list[Direction] = []
        self.talkers = Talkers(layout)

    def called(self, way: Direction) -> str:
        """A direction as the tables name it."""
        return " → ".join(self.names[jid] + (" (moved)" if jid in self.moved else "") for jid in way)

    def healthy(self, since: float, limit_s: float) -> bool:
        """Wait until each direction has delivered something that was written after ``since``."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not self.missing(since):
                return True
            time.sleep(0.1)
        return False

    def missing(self, since: float) -> set[Direction]:
        got = {(line["sender"], line["who"]) for line in self.talkers.of("got", since) if line["sent"] >= since}
        return set(self.directions) - got

    def gap(self, way: Direction, since: float) -> float:
        """The longest time without a message in this direction."""
        got = (line["at"] for line in self.talkers.of("got", since) if (line["sender"], line["who"]) == way)
        times: list[float] = [since, *sorted(got), time.monotonic()]
        return max(b - a for a, b in itertools.pairwise(times))

    def run(self, limit_s: float, change: Callable[[], Change]) -> dict[str, Any]:
        """One change, watched until all is well or the time is over."""
        since = time.monotonic()
        if not self.healthy(since, 60):
            refused = {line["who"]: line["why"] for line in self.talkers.of("refused", 0)}
            print(f"  not well before the change: {self.missing(since)}; refused: {refused}", flush=True)
        time.sleep(QUIET_S)
        gone_before = time.monotonic()
        return self.watch(change(), gone_before, limit_s)

    def watch(self, change: Change, gone_before: float, limit_s: float) -> dict[str, Any]:
        """What became of the messages that were written after the change."""
        at, whole = change
        self.healthy(whole, limit_s)
        end = time.monotonic()
        time.sleep(SETTLE_S)
        first: dict[Direction, float] = {}
        arrived = set()
        for line in self.talkers.of("got", at - 5):
            way = (line["sender"], line["who"])
            arrived.add((*way, line["number"]))
            if line["sent"] >= whole and way not in first:
                first[way] = line["at"] - at
        lost: dict[Direction, list[float]] = {way: [] for way in self.directions}
        for line in self.talkers.of("sent", at - 1):
            way = (line["who"], line["to"])
            if line["at"] <= end and way in lost and (*way, line["number"]) not in arrived:
                lost[way].append(line["at"] - at)
        dropped = [line["who"] for line in self.talkers.of("gone", gone_before) if line["who"] in self.bystanders]
        return {"first": first, "lost": lost, "dropped": dropped, "limit_s": limit_s}


def ask_powerdns(method: str, url: str, body: object, key: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"X-API-Key": key}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def rewrite_zone(layout: Layout, zone: str, replaced: Mapping[str, str]) -> None:
    """Old addresses -> new ones in all records of a zone (without the final dot), at the lab's DNS server."""
    key = json.loads((layout.state / "secrets").read_text())["powerdns"]
    url = f"{layout.powerdns_url}/api/v1/servers/localhost/zones/{zone}."
    sets = []
    for row in ask_powerdns("GET", url, None, key)["rrsets"]:
        texts = [record["content"] for record in row["records"]]
        now = [replaced.get(text, text) for text in texts]
        if row["type"] in ("A", "AAAA") and now != texts:
            records = [{"content": text, "disabled": False} for text in now]
            sets.append({**row, "changetype": "REPLACE", "records": records})
    ask_powerdns("PATCH", url, {"rrsets": sets}, key)


def rows_of(scene: Watched, title: str, runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The table's rows: for each pairing and direction seconds to the first delivered message, and what was lost."""
    rows = []
    for way in sorted(scene.directions, key=lambda w: (scene.names[w[0]], scene.names[w[1]], w)):
        limit_s = runs[0]["limit_s"]
        times = [run["first"].get(way, limit_s) for run in runs]
        never = sum(way not in run["first"] for run in runs)
        lost = [len(run["lost"][way]) for run in runs]
        late = sum(at > 5.0 for run in runs for at in run["lost"][way])
        if never == len(runs):
            text = f"not within {limit_s:.0f} s: {never} of {len(runs)}"
        else:
            text = f"p50 {statistics.median(times):.1f} s, p95 {quantile(times):.1f} s"
            text += f", not within {limit_s:.0f} s: {never} of {len(runs)}" if never else ""
        # A link that is still dead may deliver what it holds after the run: how much of it, nobody waited to see.
        gone = "not arrived when the run ended" if never else "never arrived"
        text += f"; {gone}: {statistics.mean(lost):.1f} messages a run, {late} in all written later than 5 s after"
        rows.append((f"{title}: {scene.called(way)}", text))
    return rows


def quantile(times: Iterable[float], share: float = 0.95) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def slowest(scene: Watched, run: dict[str, Any]) -> str:
    """One line for who watches."""
    late = sorted(((at, way) for way, at in run["first"].items()), reverse=True)[:2]
    said = [f"{at:.1f} s {scene.called(way)}" for at, way in late]
    never = [scene.called(way) for way in set(scene.directions) - set(run["first"])]
    lost = sum(map(len, run["lost"].values()))
    return "; ".join([*said, f"{lost} lost", *([f"never: {never}"] if never else [])])
