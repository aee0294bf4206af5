"""Prepares a machine by the roles of ``ansible/node.yml``: one run, of which each task that changed something is told.

What the variables are is the caller's affair; who runs ansible, and how the machine is reached, is
``drivers.node.ansible``'s. The fence is checked on the machine before each play, so a run that was overtaken ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from controlplane.drivers.node.base import NodeTarget, Prepared, Task
from controlplane.values.errors import Rejected, Unavailable

PLAY = "node.yml"
#: A preparation waits this long at most for a run that holds the node.
LOCK_TIMEOUT_S = 60
#: What is kept of a task's difference, characters.
DIFF_LIMIT = 4000
_VERSIONS = {"Read the versions before": "before", "Read the versions after": "after"}


class PlayRunner(Protocol):
    """See ``AnsibleNode.run_play``."""

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
    ) -> tuple[str, str]: ...


def prepare(
    runner: PlayRunner,
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
    """Apply the roles of ``groups`` ("nodes", "edges", "turn") with ``variables``; see ``NodeDriver.prepare``.

    ``Unavailable``: the machine is not reached, another run holds it, the time is over, or ``cancelled()`` said so.
    ``Rejected``: a task failed, which is named, or the fence is too low.
    """
    progress = Progress()
    values = {
        **variables,
        "node_base_upgrade": upgrade,
        "roost_fence": fence,
        "roost_lock_timeout_s": max(1, min(LOCK_TIMEOUT_S, int(timeout_s / 2))),
    }
    status, output = runner.run_play(
        target,
        PLAY,
        values,
        events=progress,
        timeout_s=timeout_s,
        cancelled=cancelled,
        check=check,
        groups=groups,
    )
    if status == "successful":
        return Prepared(tuple(progress.tasks), progress.versions["before"], progress.versions["after"])
    raise progress.error(target, status, output)


class Progress:
    """Is given each event of the run; keeps the changed tasks, the versions, and why it failed."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.versions: dict[str, dict[str, str]] = {"before": {}, "after": {}}
        self.unreachable = ""
        self.failure = ""
        self.refusal = ""

    def __call__(self, event: dict[str, Any]) -> bool:
        kind = event.get("event")
        data = event.get("event_data") or {}
        result = data.get("res") or {}
        if kind == "runner_on_ok":
            self._ok(data, result)
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            self.refusal = self.refusal or str(result.get("refusal", ""))
            self.failure = self.failure or f"{_where(data)}: {_why(result)}"
        elif kind == "runner_on_unreachable":
            self.unreachable = str(result.get("msg", "no message"))
        return False  # nothing of it goes to disk

    def _ok(self, data: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        name = str(data.get("task", ""))
        if name in _VERSIONS:
            self.versions[_VERSIONS[name]] = parse_versions(str(result.get("stdout", "")))
        if result.get("changed"):
            self.tasks.append(Task(str(data.get("role", "")), name, _diff(result)))

    def error(self, target: NodeTarget, status: str, output: str) -> Unavailable | Rejected:
        """What to raise for a run that did not succeed."""
        if self.unreachable:
            return Unavailable(f"The node {target.name} is not reached: {self.unreachable[:300]}")
        if status == "canceled":
            return Unavailable(f"The preparation of {target.name} was cancelled.")
        if status == "timeout":
            return Unavailable(f"The preparation of {target.name} took too long and was ended.")
        message = self.failure or output or "no message"
        if self.refusal == "locked":
            return Unavailable(f"The node {target.name} is held: {message}", retry_after_s=5.0)
        if self.refusal == "fence":
            return Rejected(
                f"The node {target.name} refused the fence: {message}",
                remedy=f"If the database was restored from a backup, remove {target.state_dir}/fence on the node.",
            )
        return Rejected(f"The preparation of {target.name} failed. {message}")


def parse_versions(text: str) -> dict[str, str]:
    """``package version status`` lines of dpkg-query -> package -> version, of those that are installed."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def _where(data: Mapping[str, Any]) -> str:
    role, task = data.get("role"), data.get("task", "a task")
    return f"{role}, {task}" if role else str(task)


def _why(result: Mapping[str, Any]) -> str:
    """The message and, of a command, what it complained of; a loop's first failed item speaks for it."""
    for item in result.get("results") or []:
        if isinstance(item, dict) and item.get("failed"):
            result = item
            break
    parts = [str(result.get(name, "")).strip() for name in ("msg", "stderr")]
    return " ".join(part for part in parts if part)[-600:] or "no message"


def _diff(result: Mapping[str, Any]) -> str:
    """Before and after of a task as text, a line per entry, shortened."""
    found = result.get("diff")
    entries = found if isinstance(found, list) else [found]
    for item in result.get("results") or []:
        more = item.get("diff") if isinstance(item, dict) else None
        entries += more if isinstance(more, list) else [more]
    lines = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        if "prepared" in entry:
            lines.append(str(entry["prepared"]))
        elif entry.get("before") or entry.get("after"):
            lines += [f"--- {_text(entry.get('before'))}", f"+++ {_text(entry.get('after'))}"]
    return "\n".join(lines)[:DIFF_LIMIT]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
