"""The table of causes in the documentation names what the program can say, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from controlplane.monitoring.causes import CAUSES, NEEDS

TEXT = (Path(__file__).parents[3] / "docs/monitoring.md").read_text()


def test_every_cause_is_in_the_table() -> None:
    table = dict(re.findall(r"^\| `([A-Z]\w+)` \| (.+) \|$", TEXT, re.MULTILINE))
    assert CAUSES.items() <= table.items()


def test_every_check_is_in_the_table() -> None:
    prober = TEXT.partition("### From results to incidents")[2].partition("### When the prober")[0]
    assert NEEDS.keys() - {"s2s"} <= set(re.findall(r"`([a-z][a-z0-9-]*)`", prober))
