"""The dashboards are what the program makes, their queries are valid, and each asks for series that are given."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.contract.alerts.test_rules import FILES, MONITORING, ROOT, run

pytestmark = pytest.mark.servers


def program() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("dashboards_make", MONITORING / "grafana" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MAKE = program()
FOUND = {path.stem: path for path in (MONITORING / "grafana" / "dashboards").glob("*.json")}


def queries() -> list[str]:
    return [query for one in MAKE.DASHBOARDS for panel in one.panels for query in panel.queries]


def test_files_are_what_the_program_makes() -> None:
    assert {one.name: MAKE.text(one) for one in MAKE.DASHBOARDS} == {n: p.read_text() for n, p in FOUND.items()}


@pytest.mark.parametrize("name", FOUND)
def test_panels_lie_beside_each_other(name: str) -> None:
    places: set[tuple[int, int]] = set()
    for panel in json.loads(FOUND[name].read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells


def test_queries_are_valid(tmp_path: Path) -> None:
    rules = [{"record": f"q{n}", "expr": query.replace("$instance", "x")} for n, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
    done = run("promtool", "check", "rules", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_series_are_given() -> None:
    given = set()
    for file in (ROOT / "controlplane" / "metrics").rglob("*.py"):
        given |= set(re.findall(r'"((?:roost|xmpp)_[a-z0-9_]+)"', file.read_text()))
    given |= {f"{name}{end}" for name in given for end in ("_total", "_bucket", "_count", "_sum")}
    for file in FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            given |= {rule["record"] for rule in group["rules"] if "record" in rule}
    used = {name for query in queries() for name in re.findall(r"\b(?:roost|xmpp)[_:][a-z0-9_:]+", query)}
    assert used <= given, used - given
