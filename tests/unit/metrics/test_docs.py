"""The documentation names every series that is given, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_series_is_in_the_tables() -> None:
    code = "".join(path.read_text() for path in (ROOT / "controlplane" / "metrics").rglob("*.py"))
    given = set(re.findall(r'"((?:roost|xmpp)_[a-z0-9_]+)"', code)) - {"roost_added"}
    tables = (ROOT / "docs" / "metrics.md").read_text().partition("## All series")[2]
    told = {name.removesuffix("_total") for name in re.findall(r"`((?:roost|xmpp)_[a-z0-9_]+)`", tables)}
    assert told == given
