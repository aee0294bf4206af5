"""The virtual environment from the lock files: exact versions, checked hashes, wheels only.

Its key is a digest of the lock files; a finished one with the same key is used as it is, any other is made anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.errors import Problem
from launcher.processes import CLEAN_ENV, run, run_streaming

SYSTEM_PYTHON = "/usr/bin/python3.11"
TIMEOUT_S = 1800
_NO_INDEX = re.compile(
    r"NewConnectionError|ConnectTimeout|Temporary failure in name resolution|Name or service not known"
    r"|No matching distribution|ProxyError|Connection refused|Network is unreachable|Could not find a version"
)


def key(locks: Sequence[Path], place: Path) -> str:
    """Changes with the locks' contents, and with the place, which is written into the scripts."""
    digest = hashlib.sha256(str(place).encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    return digest.hexdigest()


def is_current(place: Path, locks: Sequence[Path]) -> bool:
    try:
        return (place / "roost-key").read_text() == key(locks, place) and (place / "bin" / "python").exists()
    except OSError:
        return False


def ensure(place: Path, locks: Sequence[Path], say: Callable[[str], None]) -> bool:
    """Make the environment if it is not there or not of these locks; True if it was made."""
    if is_current(place, locks):
        return False
    shutil.rmtree(place, ignore_errors=True)
    say("making it")
    run([SYSTEM_PYTHON, "-m", "venv", str(place)], timeout_s=120)
    total = sum(_count(lock) for lock in locks)
    seen: set[str] = set()

    def on_line(line: str) -> None:
        if line.startswith("Collecting "):
            seen.add(line.split()[1])
            say(f"{len(seen)} of {total} packages fetched")
        elif line.startswith("Installing collected"):
            say("installing")

    argv = [str(place / "bin" / "pip"), "install", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    argv += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    for lock in locks:
        argv += ["-r", str(lock)]
    try:
        run_streaming(argv, on_line, timeout_s=TIMEOUT_S, env=pip_environment())
    except Problem as problem:
        raise explain(problem) from problem
    (place / "roost-key").write_text(key(locks, place))
    say(f"{total} packages")
    return True


def explain(problem: Problem) -> Problem:
    """What pip's failure means for a person."""
    said = "\n".join(line for line in problem.detail.splitlines() if line.startswith("ERROR"))[-800:]
    if _NO_INDEX.search(problem.detail):
        return Problem(
            "No Python package mirror can be reached (or it lacks a package): check the network, and PIP_INDEX_URL "
            "or pip's configuration if you use a mirror of your own, then run this again.",
            said,
        )
    if "DO NOT MATCH THE HASHES" in problem.detail:
        return Problem(
            "A Python package differs from the one in the lock file: the mirror serves something else. "
            "Use another mirror (PIP_INDEX_URL).",
            problem.detail,
        )
    return problem


def pip_environment() -> dict[str, str]:
    """pip's own settings of the caller (mirror, certificates, proxies, cache), and nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
        or name.lower() in {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
        or name in {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TMPDIR"}
    }
    return {**CLEAN_ENV, **kept}


def _count(lock: Path) -> int:
    return sum(1 for line in lock.read_text().splitlines() if line[:1].isalnum())
