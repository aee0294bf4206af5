"""Debian packages: what the stack and the tests need, and installing what is missing without starting services.

While apt-get works, /usr/sbin/policy-rc.d forbids postinst scripts to start anything; whatever was there before is
put back. Packages are never removed: the machine may use them for other things.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import Problem
from launcher.processes import CLEAN_ENV, run, run_streaming

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# Roost is installing packages; this file goes away with it.\nexit 101\n"
INSTALL_TIMEOUT_S = 1800
LOCK_WAIT_S = 300

RUNTIME = [
    "python3.11",
    "python3-venv",
    "ca-certificates",
    "openssl",
    "openssh-client",
    "iproute2",
    "procps",
    "util-linux",
    "passwd",
    "postgresql-15",
    "redis-server",
    "restic",
    "pdns-server",
    "pdns-backend-sqlite3",
    "unbound",
    "pebble",
    "coturn",
    "haproxy",
    "prosody",
    "prosody-modules",
    "lua-dbi-sqlite3",
    "lua-unbound",
    "lua-event",
    "lua-readline",
    "lua-sec",
    "ejabberd",
    "erlang-p1-sqlite3",
]
#: What a lab's hosts need, since they have no way out to install it: their files are this machine's.
LAB = [
    "iputils-ping",
    "openssh-server",
    "supervisor",
    "nftables",
    "sqlite3",
]
MONITORING = ["prometheus", "prometheus-alertmanager"]
TESTS = [
    *LAB,
    *MONITORING,
    "prometheus-node-exporter",  # what its metrics cost is measured beside ours
    "git",
    "python3-apt",  # what the roles ask apt through in check mode
    "curl",
    "docker-compose",  # checks the compose file against its schema
    "go-sendxmpp",
    "profanity",
    "tmux",
    "knot",
    "knot-dnsutils",
    "dnsutils",
    "socat",
    "chromium",
    "fonts-dejavu",
    "jq",
    "faketime",  # an engine an hour ahead
]

_NO_MIRROR = re.compile(
    r"Temporary failure resolving|Could not resolve|Could not connect|Unable to connect"
    r"|Connection (?:timed out|refused)|Network is unreachable|No route to host"
    r"|Cannot initiate the connection|Failed to fetch|Unable to fetch"
)
_UNKNOWN = re.compile(r"Unable to locate package (\S+)|Package '?([^' ]+)'? has no installation candidate")
_OLD_LISTS = re.compile(r"\b404\b|Unable to locate package|has no installation candidate|Unable to fetch some archives")
_LOCKED = re.compile(r"Could not get lock|Unable to acquire the dpkg|Waiting for cache lock")


def missing(wanted: Sequence[str]) -> list[str]:
    """Those that are not wholly installed, in the given order."""
    seen = run(["dpkg-query", "-W", "-f", "${Package}\t${db:Status-Status}\n", *wanted], timeout_s=60, check=False)
    installed = {line.split("\t")[0] for line in seen.out.splitlines() if line.split("\t")[1:] == ["installed"]}
    return [name for name in wanted if name not in installed]


def install(wanted: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Install what is missing of ``wanted``; the list of it. Raises ``Problem`` with what to do."""
    lacking = missing(wanted)
    if not lacking:
        return []
    if os.geteuid() != 0:
        raise Problem("Packages are missing, and only root can install them: run this as root.")
    with _no_service_starts():
        if run(["dpkg", "--audit"], timeout_s=60, check=False).out.strip():
            say("finishing an interrupted installation")
            _apt(["dpkg", "--configure", "-a", "--force-confold"], say, lacking)
        if not _lists_there():
            say("reading the package lists")
            _apt(["apt-get", "update", "-q"], say, lacking)
        argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *_OPTIONS, *lacking]
        try:
            _apt(argv, say, lacking)
        except Problem as problem:
            if not _OLD_LISTS.search(problem.detail):
                raise
            say("reading the package lists")
            _apt(["apt-get", "update", "-q"], say, lacking)
            _apt(argv, say, lacking)
    still = missing(wanted)
    if still:
        raise Problem(
            f"apt-get did not install {', '.join(still)}: run `apt-get install {' '.join(still)}` to see why."
        )
    return lacking


_OPTIONS = [
    "-o",
    f"DPkg::Lock::Timeout={LOCK_WAIT_S}",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "Dpkg::Use-Pty=0",
]


def environment() -> dict[str, str]:
    """apt-get's environment: no questions, and the caller's proxies."""
    proxies = {k: v for k, v in os.environ.items() if k.lower() in {"http_proxy", "https_proxy", "no_proxy"}}
    return {**CLEAN_ENV, **proxies, "DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none"}


def _apt(argv: Sequence[str], say: Callable[[str], None], lacking: Sequence[str]) -> None:
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        words = line.split()
        if _LOCKED.search(line):
            say("waiting for another package installation to end")
        elif words and words[0].rstrip(":0123456789") in {"Get", "Unpacking", "Setting"}:
            say(" ".join(words[:3])[:60])

    try:
        run_streaming(argv, on_line, timeout_s=INSTALL_TIMEOUT_S, env=environment())
    except Problem as problem:
        raise explain("\n".join(lines), lacking, problem) from problem


def explain(output: str, lacking: Sequence[str], problem: Problem) -> Problem:
    """What apt-get's output means for a person. Keeps its last lines as detail."""
    detail = "\n".join(line for line in output.splitlines() if line.startswith(("E:", "W:", "Err", "dpkg:")))[-1500:]
    if "No space left" in output or "don't have enough free space" in output:
        return Problem("The disk is full: free some space (the packages need about 1 GB), then run this again.", detail)
    unknown = sorted({a or b for a, b in _UNKNOWN.findall(output)})
    if _NO_MIRROR.search(output):
        return Problem(
            f"No package mirror can be reached, and {len(lacking)} Debian packages are missing: check the network and "
            "/etc/apt/sources.list (behind a proxy set http_proxy), then run this again.",
            detail,
        )
    if unknown:
        return Problem(
            f"The package mirror does not know {', '.join(unknown)}: Roost needs Debian 12 with its main section "
            "in /etc/apt/sources.list.",
            detail,
        )
    if _LOCKED.search(output):
        return Problem(
            f"Another package installation has run for {LOCK_WAIT_S // 60} minutes: let it end, then run this again.",
            detail,
        )
    return Problem(str(problem), detail or problem.detail)


def _lists_there() -> bool:
    lists = Path("/var/lib/apt/lists")
    return lists.is_dir() and any(path.name.endswith(("_Packages", "_Packages.lz4")) for path in lists.iterdir())


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """policy-rc.d that forbids starts (invoke-rc.d's exit status 101), and the old one again afterwards."""
    kept = POLICY.with_name("policy-rc.d.roost-kept")
    if POLICY.exists() and POLICY.read_text(errors="replace") != POLICY_TEXT:
        shutil.copy2(POLICY, kept)
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept.exists():
            kept.replace(POLICY)
        else:
            POLICY.unlink(missing_ok=True)
