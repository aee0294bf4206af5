#!/usr/bin/env python3
"""How fast an instance goes into a bundle and comes back, how much memory that takes, and what the next night costs.

Engines alone, without a stack: real Prosody and ejabberd as a node would start them, on loopback, with made-up people
who have talked a lot. The loops are those of backups and restores. Beside it, on the same data, what the engines'
own tools do (bench/backup_tools.py). restic keeps what each of them makes.

    sudo bench/backup.py [--sizes 10000 1000000] [--engines prosody ejabberd] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

from bench import backup_tools  # noqa: E402
from controlplane.backups.exporting import export  # noqa: E402
from controlplane.backups.importing import take_in  # noqa: E402
from controlplane.drivers.engine.ejabberd import driver as ejabberd  # noqa: E402
from controlplane.drivers.engine.prosody import driver as prosody  # noqa: E402
from controlplane.portable.bundle import Bundle  # noqa: E402
from controlplane.portable.manifest import About  # noqa: E402
from controlplane.portable.sinks import Directory  # noqa: E402
from controlplane.portable.tally import Tally  # noqa: E402
from controlplane.portable.writer import Writer  # noqa: E402
from controlplane.values.names import Localpart  # noqa: E402
from tests.servers.engine import Instance, make_spec  # noqa: E402
from tests.servers.little_ca import LittleCa  # noqa: E402

ENGINES = {"prosody": prosody, "ejabberd": ejabberd}
NETWORK, DOMAIN, ROOMS_AT = "127.95", "acme.example", "conference.acme.example"
ACCOUNTS, ROOMS = 20, 5
#: Of everything: what a slowly growing archive gets in a day.
NIGHT = 0.001
ENDED = 1_795_000_000  # the newest message, in seconds of 1970; no archive is older than its year
WORDS = (  # noqa: SIM905  # a list of so many words is no easier to read
    "lorem ipsum dolor sit amet consetetur sadipscing elitr sed diam nonumy eirmod tempor invidunt ut labore et dolore"
    " magna aliquyam erat voluptua at vero eos accusam justo duo dolores ea rebum stet clita kasd gubergren"
).split()


# What they said


def result(number: int, stamp: int, *, user: str = "", room: str = "") -> str:
    """A message as clients send it today: a body, an identifier of its own, a mark. The same for the same number."""
    chance = random.Random(number)
    body = " ".join(chance.choices(WORDS, k=chance.randint(3, 25)))
    at = datetime.datetime.fromtimestamp(stamp, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if room:
        where = f"{room}@{ROOMS_AT}"
        people = f"type='groupchat' from='{where}/Nick {chance.randrange(9)}' to='{where}'"
    else:
        people = f"type='chat' from='{user}@{DOMAIN}/phone' to='u{chance.randrange(ACCOUNTS)}@{DOMAIN}'"
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='{stamp * 1_000_000 + number % 1_000_000}'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='{at}'/>"
        f"<message xmlns='jabber:client' {people} id='m{number}'><body>{body}</body>"
        f"<markable xmlns='urn:xmpp:chat-markers:0'/><origin-id xmlns='urn:xmpp:sid:0' id='m{number}'/></message>"
        "</forwarded></result>"
    )


def messages(place: int, count: int, *, skip: int = 0, **who: str) -> Iterator[str]:
    """The last of ``count`` was said at ``ENDED``, each other 20 s before the next."""
    for n in range(skip, count):
        yield result(place * 10_000_000 + n, ENDED - 20 * (count - n), **who)


def made_up(target: Path, count: int) -> None:
    """A bundle with that many messages: 20 accounts and 5 rooms have the same number each."""
    each = count // (ACCOUNTS + ROOMS)
    about = About(DOMAIN, "2026-11-30T00:00:00Z", components={"muc": ROOMS_AT})
    with Writer(Directory(target), about) as writer:
        for n in range(ACCOUNTS):
            contacts = "".join(
                f"<item jid='u{m}@{DOMAIN}' subscription='both'><group>All</group></item>"
                for m in range(ACCOUNTS)
                if m != n
            )
            xml = (
                f"<user xmlns='urn:xmpp:pie:0' name='u{n}' password='secret-{n}'><query xmlns='jabber:iq:roster'>"
                f"{contacts}</query></user>"
            )
            writer.add_user(xml, messages(n, each, user=f"u{n}"))
        for n in range(ROOMS):
            members = "".join(f"<item jid='u{m}@{DOMAIN}' affiliation='member'/>" for m in range(1, ACCOUNTS))
            xml = (
                f"<room xmlns='urn:roost:portable:1' name='r{n}'><affiliations><item jid='u0@{DOMAIN}'"
                f" affiliation='owner'/>{members}</affiliations></room>"
            )
            writer.add_room(xml, messages(ACCOUNTS + n, each, room=f"r{n}"))


# Engines, and processes of their own to measure


@dataclass
class Measured:
    """``seconds``; peaks in MiB; ``megabytes`` (10^6) of the bundle."""

    seconds: float
    own_mib: float
    engine_mib: float
    megabytes: float = 0.0
    messages: int = 0

    def speed(self) -> str:
        return f"{self.messages / self.seconds:,.0f} messages/s, {self.megabytes / self.seconds:.1f} MB/s"


def spec_of(engine: str, root: Path, number: int) -> Any:
    spec = make_spec(
        f"bench77{number}", DOMAIN, engine=engine, root=root / f"{engine}{number}", number=number, network=NETWORK
    )
    return replace(spec, turn=None, resolver=None)


@contextlib.contextmanager
def alone(engine: str, root: Path, number: int) -> Iterator[Instance]:
    """One running instance, as root starts it for a user of its own."""
    instance = Instance(ENGINES[engine], spec_of(engine, root, number), f"{NETWORK}.1.1", LittleCa(), 61800 + number)
    instance.write()
    instance.certify()
    instance.start()
    try:
        yield instance
    finally:
        instance.close()


def peak_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def size_mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def measured(what: str, engine: str, instance: Instance, root: Path, number: int, bundle: Path) -> Measured:
    """``what`` (out, in) by a process of its own, whose peak is therefore that of this alone."""
    assert instance.process is not None
    Path(f"/proc/{instance.process.pid}/clear_refs").write_text("5")
    command = [sys.executable, __file__, "--child", what, engine, str(root), str(number), str(bundle)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    said = json.loads(done.stdout)
    return Measured(
        said["seconds"], said["mib"], peak_mib(instance.process.pid), size_mb(bundle), messages=said["messages"]
    )


def child(what: str, engine: str, root: Path, number: int, bundle: Path) -> None:
    control = ENGINES[engine].control(spec_of(engine, root, number))
    began = time.monotonic()
    if what == "out":
        moments: dict[str, str] = {}
        about = About(DOMAIN, "2026-11-30T00:00:00Z", components={"muc": ROOMS_AT}, moments=moments)
        with Tally(key=b"bench", rolled=True) as tally, Writer(Directory(bundle), about) as writer:
            export(control, writer, at=datetime.datetime.now(datetime.UTC), moments=moments, tally=tally)
        assert writer.manifest is not None
        count = writer.manifest.counts["user_messages"] + writer.manifest.counts["room_messages"]
    else:
        taken = take_in(control, Bundle(bundle).items(), root=bundle)
        assert not taken.refused_total, taken.report.refused[:3]
        count = taken.messages
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "mib": peak, "messages": count}))


# restic


@dataclass
class Repository:
    path: Path
    password: str = "bench"
    snapshots: list[dict[str, Any]] = field(default_factory=list)

    def _run(self, *words: str, cwd: Path | None = None) -> str:
        env = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": self.password, "RESTIC_CACHE_DIR": f"{self.path}-cache"}
        command = ["restic", "-r", str(self.path), *words]
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"restic {words[0]}: {done.stderr[-1000:]}")
        return done.stdout

    def save(self, directory: Path) -> tuple[float, float]:
        """Seconds, and megabytes that were new to the repository."""
        if not self.path.exists():
            self._run("init")
        before, began = size_mb(self.path), time.monotonic()
        self._run("backup", "--quiet", ".", cwd=directory)
        return time.monotonic() - began, size_mb(self.path) - before


# One engine


def size_rows(engine: str, root: Path, count: int) -> tuple[list[tuple[str, str]], Measured, Measured]:
    """The rows of one size; what going out and coming in took."""
    name, source, out, later = f"{engine}, {count:,} messages", root / "made", root / "out", root / "later"
    for path in (source, out, later):
        shutil.rmtree(path, ignore_errors=True)
    made_up(source, count)
    with alone(engine, root, 1) as instance:
        taken = measured("in", engine, instance, root, 1, source)
        given = measured("out", engine, instance, root, 1, out)
        repository = Repository(root / "repository")
        full_s, full_mb = repository.save(out)
        each = count // (ACCOUNTS + ROOMS)
        more = max(1, int(each * NIGHT))
        for n in range(ACCOUNTS):
            new = [result(900_000_000 + n * 10_000 + m, ENDED + 60 * m + 60, user=f"u{n}") for m in range(more)]
            instance.control.import_archive(new, owner=Localpart(f"u{n}"))
        again = measured("out", engine, instance, root, 1, later)
        shutil.rmtree(out)
        later.rename(out)  # the same place, as it is with backups
        night_s, night_mb = repository.save(out)
        rows = [
            (f"{name}: exported", given.speed()),
            (f"{name}: restored", taken.speed()),
            (f"{name}: peak memory, exporting", f"{given.own_mib:.0f} MiB here, {given.engine_mib:.0f} MiB the engine"),
            (f"{name}: peak memory, restoring", f"{taken.own_mib:.0f} MiB here, {taken.engine_mib:.0f} MiB the engine"),
            (
                f"{name}: full backup",
                f"{given.seconds + full_s:.1f} s (restic {full_s:.1f} s), {given.megabytes:.1f} MB, {full_mb:.1f} MB"
                " stored",
            ),
            (
                f"{name}: the next night, {ACCOUNTS * more} messages later",
                f"{again.seconds + night_s:.1f} s (restic {night_s:.1f} s), {night_mb:.2f} MB more stored",
            ),
        ]
        rows += backup_tools.rows(engine, instance, root, name, Repository(root / "own-repository"))
    shutil.rmtree(root)
    return rows, given, taken


def compared(engine: str, sizes: list[int], found: list[tuple[Measured, Measured]]) -> list[tuple[str, str]]:
    """How much more memory the largest takes than the smallest."""
    if len(found) < 2:
        return []
    (out_a, in_a), (out_b, in_b) = found[0], found[-1]
    words = [
        f"{word} {last.own_mib - first.own_mib:+.0f} MiB here and {last.engine_mib - first.engine_mib:+.0f} the engine"
        for word, first, last in (("exporting", out_a, out_b), ("restoring", in_a, in_b))
    ]
    return [(f"{engine}: peak memory at {sizes[-1]:,} against {sizes[0]:,} messages", ", ".join(words))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--write", type=Path, metavar="FILE", help="append the table to this file")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        what, engine, root, number, bundle = given.child
        child(what, engine, Path(root), int(number), Path(bundle))
        return 0
    if os.geteuid():
        sys.exit("Engines are started for users of their own: run it as root.")
    load, rows = os.getloadavg()[0], []
    for engine in given.engines:
        found = []
        for count in given.sizes:
            root = Path(tempfile.mkdtemp(prefix="bench-backup-"))
            root.chmod(0o755)
            try:
                some, out, taken = size_rows(engine, root, count)
            finally:
                shutil.rmtree(root, ignore_errors=True)
            for row in some:
                print(" | ".join(row), flush=True)
            rows += some
            found.append((out, taken))
        rows += compared(engine, given.sizes, found)
    text = report(rows, load)
    print(text)
    if given.write:
        with given.write.open("a") as file:
            file.write(f"\n{text}")
    return 0


def report(rows: list[tuple[str, str]], load: float) -> str:
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    lines = [
        f"## {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: backups",
        "",
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, restic 0.14, at a load of {load:.0f}"
        " from other work: compare the numbers with each other only. `bench/backup.py`: 20 accounts and 5 rooms,"
        " messages of some 480 bytes as clients send them today; engine, Roost's loop and restic share the cores.",
        "",
        "| measured | result |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
