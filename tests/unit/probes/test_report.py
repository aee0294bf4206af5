"""What a walk's report says of itself."""

from __future__ import annotations

import pytest

from controlplane.probes.report import StepResult, WalkReport

GOOD = StepResult("tls", True, False, "fine", 0.1)
SKIPPED = StepResult("s2s", True, True, "nobody to ask", 0.0)
BAD = StepResult("login", False, False, "wrong password", 0.1)
BLOCKED = StepResult("disco", False, True, "no session", 0.0)


def test_it_is_ok_when_every_step_is_and_skipped_ones_do_no_harm() -> None:
    report = WalkReport((GOOD, SKIPPED), 1.25)
    assert report.ok
    assert report.message == "A client's walk passed 1 steps (tls) in 1.2 s."
    assert not report.failures


def test_a_report_without_steps_is_not_ok() -> None:
    assert not WalkReport(()).ok


def test_only_the_step_that_found_the_fault_is_a_failure() -> None:
    report = WalkReport((GOOD, BAD, BLOCKED))
    assert not report.ok
    assert report.failures == (BAD,)
    assert report.message == "login: wrong password"


def test_a_step_is_found_by_name() -> None:
    assert WalkReport((GOOD, BAD)).step("login") is BAD
    with pytest.raises(KeyError):
        WalkReport((GOOD,)).step("login")
