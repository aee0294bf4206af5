"""``./roost test``: lint, then the tests from the cheap to the dear, against a stack of their own in var-test.

The test stack is made afresh (all but the Python environment) and stopped at the end, also after a failure.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher import keys, machine, stack
from launcher.errors import Problem
from launcher.jobs import Count, Job, run_all, try_again, verdict
from launcher.layout import TEST_VAR, Layout, find
from launcher.processes import CLEAN_ENV, run
from launcher.progress import Progress
from launcher.services import postgres
from launcher.up import bring_up, prepare

#: Directories of tests/ that need no stack, or servers of their own; whatever else is there runs against the stack.
APART = {"unit", "contract", "db", "servers", "fleet"}
#: It breaks the stack: nobody else may need it any more when it begins.
LAST = "faults"
#: What takes longest goes first; what is not named comes at the end.
LONGEST = ["node", "engine", "store", "roles", "edge", "probes", "alerts"]
#: They wait for engines, machines and each other about as much as they compute.
SIDE_BY_SIDE = 3
TEST_TIMEOUT_S = 300
#: What survives from one run to the next.
KEPT = {"venv", "reports"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sets to run; ``words``: arguments for pytest instead of all sets."""

    lint: bool = True
    unit: bool = True
    integration: bool = True
    e2e: bool = True
    keep: bool = False
    words: tuple[str, ...] = ()

    @property
    def needs_stack(self) -> bool:
        return self.integration or self.e2e or bool(self.words)


def parse(arguments: list[str]) -> Wanted:
    """``--unit``, ``--integration``, ``--e2e`` select sets; anything else goes to pytest."""
    flags = {word for word in arguments if word in {"--unit", "--integration", "--e2e"}}
    words = tuple(word for word in arguments if word not in flags and word != "--keep")
    keep = "--keep" in arguments
    if words and flags:
        raise Problem("Name either a set (--unit, --integration, --e2e) or pytest's arguments.")
    if words:
        return Wanted(lint=False, unit=False, integration=False, e2e=False, keep=keep, words=words)
    if flags:
        return Wanted("--unit" in flags, "--unit" in flags, "--integration" in flags, "--e2e" in flags, keep=keep)
    return Wanted(keep=keep)


def test(clone: Path, arguments: list[str]) -> int:
    wanted = parse(arguments)
    layout = find(clone, {"ROOST_VAR": TEST_VAR, "ROOST_NET": os.environ.get("ROOST_TEST_NET", "")})
    progress, count, start = Progress(), Count(), time.monotonic()
    prepare(layout, progress, with_tests=True)
    reports = layout.state / "reports"
    plain = _environment(layout, {})
    if wanted.lint or wanted.unit:
        jobs = [*(_unit(layout, plain) if wanted.unit else ()), *(_lint(layout, plain) if wanted.lint else ())]
        run_all(jobs, count, at_once=2, logs=reports)
    if wanted.needs_stack:
        try:
            _with_stack(layout, progress, wanted, count)
        finally:
            if not wanted.keep:
                _stop(layout)
    print(f"All of it took {time.monotonic() - start:.0f} s.")
    return verdict(count)


def _with_stack(layout: Layout, progress: Progress, wanted: Wanted, count: Count) -> None:
    _afresh(layout)
    bring_up(layout, progress, with_tests=True)
    _spare_the_disk(layout)
    environment = _environment(layout, keys.read_environment(layout))
    reports = layout.state / "reports"
    if wanted.words:
        run_all([_pytest(layout, environment, "selected", list(wanted.words))], count, at_once=1, logs=reports)
    broken = len(count.broken)
    sets = [_pytest(layout, environment, name, [f"tests/{name}"]) for name in _stack_sets(layout, wanted)]
    jobs = _in_order(sets, *_own_servers(layout, environment)) if wanted.integration else sets
    run_all(jobs, count, at_once=SIDE_BY_SIDE, logs=reports)
    try_again(count, logs=reports)
    if len(count.broken) > broken:
        _show_logs(layout)


def _in_order(sets: list[Job], sharing: list[Job], apart: list[Job]) -> list[Job]:
    """First what needs the stack, so that what breaks it can begin while the rest is still at work.

    ``sets``: those that run against the stack; ``sharing``: those that use its database; ``apart``: all others, of
    which the first mostly waits for a lab of its own.
    """
    needs = [*(job for job in sets if job.name != LAST), *sharing]
    last = [replace(job, after=frozenset(one.name for one in needs)) for job in sets if job.name == LAST]
    return [*apart[:1], *needs, *last, *apart[1:]]


def _spare_the_disk(layout: Layout) -> None:
    """PostgreSQL need not wait for the disk: this cluster is made anew for each run, and no power is cut in it.

    Each test that commits empties all tables afterwards, which are hundreds of files.
    """
    postgres.psql(layout, "ALTER SYSTEM SET fsync = off")
    postgres.psql(layout, "SELECT pg_reload_conf()")


def _afresh(layout: Layout) -> None:
    """Stop an earlier test stack and remove what it knew."""
    if not layout.state.is_dir():
        return
    with stack.exclusive(layout):
        _stop(layout)
        for user in machine.tenant_users(layout.state):
            run(["userdel", user], timeout_s=60, check=False)
        for entry in layout.state.iterdir():
            if entry.name in KEPT or entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _stop(layout: Layout) -> None:
    stack.supervisor(layout).stop(stack.STOP_TIMEOUT_S)
    stack.end_leftovers(layout)


def _environment(layout: Layout, stack_variables: Mapping[str, str]) -> dict[str, str]:
    """Tests run in their own settings; with a stack they find its addresses in the same variables as its services."""
    home = layout.state / "home"
    home.mkdir(exist_ok=True)
    own = {
        **CLEAN_ENV,
        "PATH": f"{layout.venv}/bin:{CLEAN_ENV['PATH']}",
        "HOME": str(home),
        "ROOST_WAKE": "none",
        "ROOST_TEST_CLONE": str(layout.clone),
        "CI": "true",  # pytest's summary says why each test failed, however long the line
    }
    if stack_variables:
        own |= {
            **stack_variables,
            "ROOST_WAKE": "none",
            "ROOST_TEST_STATE": str(layout.state),
            "ROOST_TEST_VAR": layout.var.name,
        }
    return {**own, "DJANGO_SETTINGS_MODULE": "controlplane.settings.test"}


def _pytest(layout: Layout, environment: Mapping[str, str], name: str, words: list[str]) -> Job:
    report = layout.state / "reports" / f"{name.replace('/', '-')}.xml"
    argv = [str(layout.python), "-m", "pytest", "-q", f"--timeout={TEST_TIMEOUT_S}", f"--junitxml={report}"]
    argv += ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", *words]  # it names files
    return Job(name, argv, layout.clone, environment, report)


def _unit(layout: Layout, environment: Mapping[str, str]) -> list[Job]:
    return [_pytest(layout, environment, "unit", ["-n", "2", "tests/unit"])]


def _lint(layout: Layout, environment: Mapping[str, str]) -> list[Job]:
    binaries = layout.venv / "bin"

    def job(name: str, *argv: str, cwd: Path = layout.clone) -> Job:
        return Job(f"lint: {name}", [str(binaries / argv[0]), *argv[1:]], cwd, environment)

    python = [
        name for name in ("controlplane", "tenants", "launcher", "tests", "bench") if (layout.clone / name).is_dir()
    ]
    jobs = [
        job("mypy", "mypy", "controlplane", "tenants", "launcher"),
        job("ruff check", "ruff", "check", "."),
        job("ruff format", "ruff", "format", "--check", *python),
        job("imports", "lint-imports"),
    ]
    if (layout.clone / "ansible" / "roles").is_dir():
        jobs.append(job("ansible", "ansible-lint", "--offline", "-q", cwd=layout.clone / "ansible"))
    if (layout.clone / "templates").is_dir():
        jobs.append(job("templates", "djlint", "templates", "--lint"))
    return jobs


def _own_servers(layout: Layout, environment: Mapping[str, str]) -> tuple[list[Job], list[Job]]:
    """What uses the stack's database and nothing else of it; and what brings all that it needs, the longest first."""
    tests = layout.clone / "tests"
    rooms = sorted(path.name for path in (tests / "contract").iterdir() if any(path.glob("test_*.py")))
    rooms.sort(key=lambda name: (LONGEST.index(name) if name in LONGEST else len(LONGEST), name))
    plain = _environment(layout, {})
    # Each has addresses of its own.
    contract = [_pytest(layout, plain, f"contract/{name}", [f"tests/contract/{name}"]) for name in rooms]
    manage = [str(layout.python), "manage.py"]
    checks = [
        Job("migrations", [*manage, "makemigrations", "--check", "--dry-run"], layout.clone, environment),
        Job(
            "OpenAPI schema",
            [*manage, "spectacular", "--validate", "--fail-on-warn", "--file", str(layout.state / "openapi.yaml")],
            layout.clone,
            environment,
        ),
    ]
    with_database = {**plain, "ROOST_DATABASE_URL": environment["ROOST_DATABASE_URL"]}
    db = [_pytest(layout, with_database, "db", ["tests/db"])] if (tests / "db").is_dir() else []
    # It brings up a lab of its own, and mostly waits for it.
    rig = "tests/fleet/test_rig.py"
    fleet = [_pytest(layout, plain, "fleet", ["tests/fleet", f"--ignore={rig}"])] if (tests / "fleet").is_dir() else []
    rigs = [_pytest(layout, plain, "rig", [rig])] if (layout.clone / rig).is_file() else []
    return [*db, *checks], [*fleet, *contract, *rigs]


def _stack_sets(layout: Layout, wanted: Wanted) -> list[str]:
    """Names of the sets that run against the stack; a set is a directory with tests in it. The longest first."""
    tests = layout.clone / "tests"
    found = [p.name for p in tests.iterdir() if p.is_dir() and p.name not in APART and any(p.rglob("test_*.py"))]
    chosen = [name for name in found if (wanted.e2e if name == "e2e" else wanted.integration)]
    order = ["stack", "e2e"]
    return sorted(chosen, key=lambda name: (name == LAST, order.index(name) if name in order else len(order), name))


def _show_logs(layout: Layout) -> None:
    """The ends of the logs that tell most, since a machine for tests is often gone afterwards."""
    for name in ("worker", "node-worker", "heal-worker", "backup-worker", "prober", "watcher", "web"):
        print(f"==> {name} <==\n{stack.log_tail(layout, name, 40)}", flush=True)
