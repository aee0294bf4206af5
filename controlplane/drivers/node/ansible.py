"""Changes nodes by ansible-runner: one run of ``ansible/converge.yml`` for all changed instances of a node.

It packs bundles, starts the run, and reads the module's result; what happens on the node is the module's
(``ansible/library/converge.py``). Secrets go through a file of mode 0600 in a directory of mode 0700 that is
removed with the run; they are in no argument, environment, event or artifact.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import logging
import os
import shlex
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_runner import Runner, RunnerConfig
from ansible_runner.exceptions import AnsibleRunnerException

from controlplane import logs, observing
from controlplane.drivers.node.base import Applied, NodeTarget, Prepared
from controlplane.drivers.node.prepare import prepare
from controlplane.drivers.node.ssh import SshLine
from controlplane.values.bundle import Bundle
from controlplane.values.errors import Rejected, Unavailable

log = logging.getLogger(__name__)

PLAYS = Path(__file__).resolve().parents[3] / "ansible"
#: Environment that a run gets from this process; all else (keys, database addresses) stays here.
INHERITED = ("HOME", "LANG", "LC_ALL", "SSH_AUTH_SOCK", "TMPDIR", "TZ")
#: How often ``cancelled`` is asked, seconds.
POLL_S = 0.5
#: Directories of runs whose worker was killed are removed after this time; their secrets at once.
STALE_S = 600.0
#: A run waits this long at most for another one on the same node.
LOCK_TIMEOUT_S = 60


class AnsibleNode:
    """``directory``: private to this driver (made with mode 0700); runs live below it while they last.

    ``lines``: where the connections to other machines lie. Runs go through those and open none of their own, so that
    no run has a key, and nobody but who is pinned is reached.
    """

    name = "ansible"

    def __init__(self, directory: Path, lines: Path = Path("/run/roost/ssh")) -> None:
        self.directory, self.lines = directory, lines

    def converge(
        self,
        target: NodeTarget,
        bundles: Sequence[Bundle],
        *,
        fence: int,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        ready_limit_s: int = 600,
    ) -> Mapping[str, Applied]:
        """Apply all bundles in one run; one entry per bundle, its fault in ``error``.

        ``Unavailable``: the node is not reached, another run holds it, the time is over, or ``cancelled()``
        said so. ``Rejected``: the fence is too low, or the run failed as a whole. A cancelled or late run may
        still finish what it holds the node's lock for; the next run waits for it.
        """
        if not bundles:
            return {}
        events = _Events()
        status, output = self.run_play(
            target,
            "converge.yml",
            _values(target, bundles, fence, timeout_s, ready_limit_s),
            events=events,
            timeout_s=timeout_s,
            cancelled=cancelled,
            check=check,
        )
        return _judge(target, bundles, events, status, output)

    def prepare(
        self,
        target: NodeTarget,
        *,
        groups: Sequence[str],
        variables: Mapping[str, Any],
        fence: int,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        upgrade: bool = False,
    ) -> Prepared:
        """Apply the roles of ``groups`` to the machine; see ``drivers.node.prepare.prepare``."""
        return prepare(
            self,
            target,
            groups=groups,
            variables=variables,
            fence=fence,
            timeout_s=timeout_s,
            cancelled=cancelled,
            check=check,
            upgrade=upgrade,
        )

    def run_play(
        self,
        target: NodeTarget,
        play: str,
        values: Mapping[str, Any],
        *,
        events: Callable[[dict[str, Any]], bool],
        timeout_s: float,
        cancelled: Callable[[], bool],
        check: bool,
        groups: Sequence[str] = (),
    ) -> tuple[str, str]:
        """Run a playbook of ``ansible/`` against one machine: (ansible-runner's status, the last line it printed).

        ``values``: extra variables, which may hold secrets; how the machine is reached is added to them.
        ``groups``: those of the inventory that it is in. ``events`` is given each event of the run.
        """
        reach = self._reach(target)
        with self._run_directory() as place:
            _write_private(place / "variables.json", json.dumps({**values, **reach}))
            inventory: dict[str, Any] = {"all": {"hosts": {target.name: {}}}} | {
                name: {"hosts": {target.name: {}}} for name in groups
            }
            _write_private(place / "hosts.yml", json.dumps(inventory))
            name = play.removesuffix(".yml")
            with logs.bound(node=target.name, run=place.name), observing.timed("ansible.run", play=name) as said:
                status = said["status"] = self._run(place, target, play, events, timeout_s, cancelled, check)
                log.info("%s ended: %s", name, status)
            return status, _tail(place / "artifacts" / "run" / "stdout")

    def _run(
        self,
        place: Path,
        target: NodeTarget,
        play: str,
        events: Callable[[dict[str, Any]], bool],
        timeout_s: float,
        cancelled: Callable[[], bool],
        check: bool,
    ) -> str:
        flags = " --check --diff" if check else ""
        # The classes instead of ansible_runner.run(): that one installs signal handlers over Celery's and
        # writes this process' whole environment into its artifacts.
        config = RunnerConfig(
            private_data_dir=str(place),
            project_dir=str(PLAYS),
            playbook=str(PLAYS / play),
            inventory=str(place / "hosts.yml"),
            cmdline=f"-e @variables.json{flags}",
            ident="run",
            quiet=True,
            timeout=max(1, int(timeout_s)),
            settings={"pexpect_timeout": POLL_S},
            envvars={
                "ANSIBLE_CONFIG": str(PLAYS / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.directory / "home"),
                "ANSIBLE_HOST_KEY_CHECKING": "True",
            },
        )
        try:
            config.prepare()
            config.cwd = str(place)
            config.command[0] = str(Path(sys.executable).with_name("ansible-playbook"))
            config.env = _environment(config.env)
            status, _ = Runner(config, event_handler=events, cancel_callback=cancelled).run()
        except (AnsibleRunnerException, OSError) as error:
            raise Rejected(
                f"ansible-runner could not run for the node {target.name}: {type(error).__name__}.",
                remedy="Look at free disk space and at the permissions of ROOST_ANSIBLE_DIR.",
            ) from error
        return str(status)

    def _reach(self, target: NodeTarget) -> dict[str, Any]:
        """How ansible gets to the machine: to another one by the line's connection, which is opened now."""
        if target.connection == "local":
            return {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        line = SshLine(target, self.lines)
        line.open()
        return {
            "ansible_connection": "ssh",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_host": target.address,
            "ansible_port": target.ssh_port,
            "ansible_user": target.ssh_user,
            "ansible_become": target.ssh_user != "root",
            "ansible_ssh_args": shlex.join(line.session_options()),
            "ansible_ssh_transfer_method": "piped",
        }

    @contextlib.contextmanager
    def _run_directory(self) -> Iterator[Path]:
        """A private directory for one run, locked while it lasts, removed after it."""
        try:
            runs = self.directory / "runs"
            for part in (self.directory, runs):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            _remove_stale(runs)
            place = runs / uuid.uuid4().hex[:12]
            place.mkdir(mode=0o700)
            lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"The directory {self.directory} cannot be written: {error.strerror}.",
                remedy="Make room on the disk, or let the worker's user write there (ROOST_ANSIBLE_DIR).",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
        finally:
            with contextlib.suppress(FileNotFoundError):
                (place / "variables.json").unlink()
            shutil.rmtree(place, ignore_errors=True)
            os.close(lock)


class _Events:
    """Keeps the module's result and why a host was not reached."""

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self.unreachable = ""

    def __call__(self, event: dict[str, Any]) -> bool:
        kind = event.get("event")
        data = event.get("event_data") or {}
        if kind in ("runner_on_ok", "runner_on_failed"):
            self.result = data.get("res") or {}
        elif kind == "runner_on_unreachable":
            self.unreachable = str((data.get("res") or {}).get("msg", "no message"))
        return False  # nothing of it goes to disk


def pack(bundles: Sequence[Bundle]) -> str:
    """The module's ``bundles``: one opaque string, so ansible neither templates nor logs what is in it."""
    text = json.dumps([bundle.as_json() for bundle in bundles], separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 1)).decode()


def _values(
    target: NodeTarget, bundles: Sequence[Bundle], fence: int, timeout_s: float, ready_limit_s: int = 600
) -> dict[str, Any]:
    return {
        "roost_bundles": pack(bundles),
        "roost_state_dir": target.state_dir,
        "roost_runtime": target.runtime,
        "roost_runtime_dir": target.runtime_dir,
        "roost_supervisor_socket": target.supervisor_socket,
        "roost_fence": fence,
        "roost_ready_limit_s": ready_limit_s,
        "roost_lock_timeout_s": max(1, min(LOCK_TIMEOUT_S, int(timeout_s / 2))),
    }


def _environment(prepared: Mapping[str, str]) -> dict[str, str]:
    """What ansible and its callback need, and the path; ``prepared`` holds all of this process' variables."""
    kept = {name: value for name, value in prepared.items() if name.startswith(("ANSIBLE_", "AWX_", "RUNNER_"))}
    kept |= {name: os.environ[name] for name in INHERITED if name in os.environ}
    kept["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept.setdefault("LANG", "C.UTF-8")
    if "PYTHONPATH" in prepared:
        kept["PYTHONPATH"] = prepared["PYTHONPATH"]
    return kept


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)


def _remove_stale(runs: Path) -> None:
    """Clear away what killed workers left: the secrets at once, the rest when its run must be over."""
    for place in runs.iterdir():
        try:
            lock = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            lock = -1
        try:
            if lock >= 0:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (place / "variables.json").unlink(missing_ok=True)
            if time.time() - place.stat().st_mtime > STALE_S:
                shutil.rmtree(place, ignore_errors=True)
        except OSError:
            continue  # its worker lives
        finally:
            if lock >= 0:
                os.close(lock)


def _tail(path: Path) -> str:
    """The last line that ansible printed, for a run that brought no result."""
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _judge(
    target: NodeTarget, bundles: Sequence[Bundle], events: _Events, status: str, output: str
) -> Mapping[str, Applied]:
    result = events.result
    if result is not None and result.get("instances"):
        missing = Applied("", error="The node said nothing about this bundle.")
        found = {key: _applied(key, entry) for key, entry in result["instances"].items()}
        return {bundle.key: found.get(bundle.key, missing) for bundle in bundles}
    if events.unreachable:
        raise Unavailable(f"The node {target.name} is not reached: {events.unreachable[:300]}")
    if status == "canceled":
        raise Unavailable(f"The run on the node {target.name} was cancelled.")
    if status == "timeout":
        raise Unavailable(f"The run on the node {target.name} took too long and was ended.")
    message = str((result or {}).get("msg", "")) or output or "no message"
    refusal = (result or {}).get("refusal")
    if refusal == "locked":
        raise Unavailable(f"The node {target.name} is held: {message}", retry_after_s=5.0)
    if refusal == "fence":
        raise Rejected(
            f"The node {target.name} refused the fence: {message}",
            remedy=f"If the database was restored from a backup, remove {target.state_dir}/fence on the node.",
        )
    raise Rejected(f"The run on the node {target.name} failed: {message}")


def _applied(key: str, entry: Mapping[str, Any]) -> Applied:
    return Applied(
        key,
        changed=bool(entry["changed"]),
        restarted=bool(entry["restarted"]),
        reload_needed=bool(entry["reload_needed"]),
        running=bool(entry["running"]),
        error=str(entry["error"]),
        diff=tuple(str(line) for line in entry["diff"]),
    )
