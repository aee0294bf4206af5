"""The table of environment variables names what the settings read, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def variables(*files: Path) -> set[str]:
    return {name for file in files for name in re.findall(r"ROOST_[A-Z0-9_]+", file.read_text())}


def test_every_setting_is_in_the_table() -> None:
    read = variables(*(ROOT / "controlplane/settings").glob("*.py"))
    table = variables(ROOT / "docs/environment.md") - {"ROOST_OPERATOR_PASSWORD", "ROOST_PERSON_PASSWORD"}
    assert read == table
