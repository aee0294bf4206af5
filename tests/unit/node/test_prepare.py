"""What the events of a preparation come to: tasks that changed, versions, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from controlplane.drivers.node.base import NodeTarget, Task
from controlplane.drivers.node.prepare import parse_versions, prepare
from controlplane.values.errors import Rejected, Unavailable

TARGET = NodeTarget("n1", "ssh", "systemd", "192.0.2.1", "/var/lib/roost-node", "/etc/systemd/system")
VERSIONS = "haproxy 2.6.12-1 installed\nprosody 0.12.3-1 config-files\nejabberd  unknown\n"


def event(kind: str, task: str, role: str = "", **res: Any) -> dict[str, Any]:
    return {"event": f"runner_on_{kind}", "event_data": {"task": task, "role": role, "res": res}}


class Runner:
    """Plays recorded events back."""

    def __init__(self, *events: dict[str, Any], status: str = "successful", output: str = "") -> None:
        self.events, self.answer = events, (status, output)
        self.values: Mapping[str, Any] = {}

    def run_play(self, target, play, values, *, events, timeout_s, cancelled, check, groups=()):
        self.values = values
        for one in self.events:
            assert events(one) is False
        return self.answer


def run(*events: dict[str, Any], status: str = "successful", output: str = "", **options: Any):
    return prepare(
        Runner(*events, status=status, output=output),
        TARGET,
        groups=["nodes"],
        variables={},
        fence=7,
        timeout_s=90,
        **options,
    )


def test_changed_tasks_and_versions_are_told() -> None:
    done = run(
        event("ok", "Read the versions before", stdout=VERSIONS),
        event("ok", "Make the directories", "backup", changed=False),
        event("ok", "Install HAProxy", "edge", changed=True, diff={"before": "none\n", "after": "2.6\n"}),
        event("ok", "Apply", "edge", changed=True, results=[{"diff": [{"prepared": "started\n"}]}]),
        event("ok", "Read the versions after", stdout=VERSIONS.replace("2.6.12-1", "2.6.12-2")),
    )
    assert done.tasks == (
        Task("edge", "Install HAProxy", "--- none\n\n+++ 2.6\n"),
        Task("edge", "Apply", "started\n"),
    )
    assert done.changed == 2
    assert (done.before, done.versions) == ({"haproxy": "2.6.12-1"}, {"haproxy": "2.6.12-2"})


def test_the_run_is_told_its_fence_and_what_to_upgrade() -> None:
    runner = Runner()
    given = {"groups": ["nodes"], "variables": {"a": 1}, "fence": 7, "timeout_s": 90}
    prepare(runner, TARGET, upgrade=True, **given)
    assert runner.values == {"a": 1, "node_base_upgrade": True, "roost_fence": 7, "roost_lock_timeout_s": 45}


@pytest.mark.parametrize(
    ("events", "status", "error", "says"),
    [
        ([event("unreachable", "x", msg="no route")], "failed", Unavailable, "not reached: no route"),
        ([], "canceled", Unavailable, "cancelled"),
        ([], "timeout", Unavailable, "too long"),
        ([event("failed", "Refuse", msg="held", refusal="locked")], "failed", Unavailable, "is held"),
        ([event("failed", "Refuse", msg="seen 9", refusal="fence")], "failed", Rejected, "refused the fence"),
        ([event("failed", "Install", "edge", msg="apt: no")], "failed", Rejected, "edge, Install: apt: no"),
        (
            [event("failed", "Do", "edge", msg="All items", results=[{"msg": "a"}, {"failed": True, "msg": "b"}])],
            "failed",
            Rejected,
            "edge, Do: b",
        ),
        ([], "failed", Rejected, "the play is broken"),
    ],
)
def test_what_goes_wrong_is_said(events, status, error, says) -> None:
    with pytest.raises(error, match=says):
        run(*events, status=status, output="the play is broken")


def test_versions_of_what_is_not_installed_are_left_out() -> None:
    assert parse_versions(VERSIONS) == {"haproxy": "2.6.12-1"}
    assert parse_versions("") == {}
