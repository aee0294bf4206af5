"""Every alert fires when it should, with its labels and words, and stays quiet when it should: by promtool itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.alerts.cases import ALERTS, Alert, Case

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[3]
MONITORING = ROOT / "monitoring"
RUNBOOKS = "https://roost.example/docs/runbooks/"
FILES = sorted((MONITORING / "rules").glob("*.yml"))


def run(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    found = shutil.which(argv[0])
    assert found, f"{argv[0]} is missing: it comes with Debian's prometheus and prometheus-alertmanager"
    return subprocess.run([found, *argv[1:]], capture_output=True, text=True, timeout=120, **more)


def rules() -> dict[str, dict[str, Any]]:
    """Alert -> its rule."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    found = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    names = [rule["alert"] for rule in found]
    assert len(names) == len(set(names))
    return {rule["alert"]: rule for rule in found}


def test_each_alert_has_both_cases() -> None:
    assert set(ALERTS) == set(rules())
    for name, alert in ALERTS.items():
        assert alert.firing.fires is not None, name
        assert alert.quiet, name
        assert all(case.fires is None for case in alert.quiet), name


@pytest.mark.parametrize("name", ALERTS)
def test_alert(name: str, tmp_path: Path) -> None:
    alert = ALERTS[name]
    files = []
    for number, case in enumerate((alert.firing, *alert.quiet)):
        # A rule of days does not become another by being looked at less often; promtool does not heed intervals itself.
        step = "5m" if interval_of(name) == "5m" or case.at.endswith("d") else "1m" if case.at.endswith("h") else "15s"
        tests = {"rule_files": [file_of(name)], "evaluation_interval": step, "tests": [block(name, alert, case)]}
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(yaml.safe_dump(tests))
    done = run("promtool", "test", "rules", *(str(file) for file in files))
    assert done.returncode == 0, done.stdout + done.stderr


def interval_of(name: str) -> str:
    """How often its group is looked at."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    return next(str(g["interval"]) for g in groups for rule in g["rules"] if rule.get("alert") == name)


def file_of(name: str) -> str:
    """The rules that it is among; none needs another file's."""
    return next(str(file) for file in FILES if f"- alert: {name}\n" in file.read_text())


def block(name: str, alert: Alert, case: Case) -> dict[str, Any]:
    expected = []
    if case.fires is not None:
        annotations = {"summary": case.summary, "runbook_url": f"{RUNBOOKS}{name}.md"}
        labels = {"severity": alert.severity, "scope": alert.scope, **case.fires}
        expected = [{"exp_labels": labels, "exp_annotations": annotations}]
    return {
        "interval": "1m",
        "external_labels": {"runbooks": RUNBOOKS},
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"alertname": name, "eval_time": case.at, "exp_alerts": expected}],
    }


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    alert = ALERTS["NodeDead"]
    wrong = block("NodeDead", alert, Case(alert.firing.series, alert.firing.at))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [str(f) for f in FILES], "tests": [wrong]}))
    assert run("promtool", "test", "rules", str(tmp_path / "tests.yml")).returncode != 0


@pytest.mark.parametrize("name", rules())
def test_each_alert_has_a_runbook(name: str) -> None:
    rule = rules()[name]
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}" + f"{name}.md"
    page = ROOT / "docs" / "runbooks" / f"{name}.md"
    assert page.is_file(), f"write {page}"
    text = page.read_text()
    assert text.startswith(f"# {name}\n")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Meaning", "## First look", "## Causes", "## Commands", "## What Roost already tried"], name
    assert all(part.strip() for part in text.split("\n## ")[1:])


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(rules())


def test_rules_are_valid() -> None:
    done = run("promtool", "check", "rules", *(str(file) for file in FILES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_series_in_rules_are_given() -> None:
    """A rule about a series that nobody gives would be quiet for ever."""
    import re

    given = set()
    for file in (ROOT / "controlplane" / "metrics").rglob("*.py"):
        given |= set(re.findall(r'"(roost_[a-z0-9_]+)"', file.read_text()))
    given |= {f"{name}{end}" for name in given for end in ("_total", "_bucket", "_count", "_sum")}
    used = set()
    for file in FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            made = {rule["record"] for rule in group["rules"] if "record" in rule}
            for rule in group["rules"]:
                used |= set(re.findall(r"\broost_[a-z0-9_]+(?::[a-z0-9_:]+)?", rule["expr"])) - made
    used = {name for name in used if ":" not in name}
    assert used <= given, used - given
