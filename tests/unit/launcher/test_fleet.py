"""The fleet's commands where no API is needed: whose API is asked, and how texts are laid out."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import cli, fleet, fleet_nodes, fleet_rollouts, fleet_shown
from launcher.errors import Problem
from launcher.layout import Layout


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for name in ("ROOST_API_URL", "ROOST_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Layout(tmp_path, tmp_path / "var", tmp_path / "var", 77)


def test_without_a_stack_it_says_so(nothing: Layout) -> None:
    with pytest.raises(Problem, match=r"\./roost up"):
        fleet_nodes.node(nothing, ["list"])
    assert not nothing.state.exists(), "asking makes no state"


def test_another_api_needs_both_words(nothing: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_API_URL", "http://127.0.0.1:9/")
    with pytest.raises(Problem, match="both ROOST_API_URL"):
        fleet_rollouts.rollout(nothing, ["list"])
    monkeypatch.setenv("ROOST_API_TOKEN", "t")
    assert fleet.api_of(nothing)._base == "http://127.0.0.1:9"


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    told = capsys.readouterr().out
    assert "  node COMMAND" in told
    assert "  rollout COMMAND" in told


def test_columns_are_as_wide_as_they_need_to_be() -> None:
    assert fleet_shown.table(("A", "LONG", ""), [("x", 1, "free text"), ("longer", 22, "")]).splitlines() == [
        "A       LONG",
        "x       1     free text",
        "longer  22",
    ]


def test_long_messages_are_wrapped_below_themselves() -> None:
    said = {
        "type": "Reachable",
        "status": "False",
        "reason": "KeyRefused",
        "message": "word " * 40,
        "remedy": "Put this line into ~root/.ssh/authorized_keys there: " + "A" * 120,
    }
    lines = fleet_shown.conditions({"conditions": [said]}).splitlines()
    assert lines[0].startswith("  ✗  Reachable       KeyRefused: word")
    assert all(line.startswith(" " * 21) for line in lines[1:])
    assert any("A" * 120 in line for line in lines), "what is to be copied stays whole"


def test_names_beyond_a_dozen_are_counted() -> None:
    row = {"node": "n1", "instances": 20, "memory_mib": 1, "accounts": 1, "led": 0, "only_here": 0, "wholly": []}
    text = fleet_shown.blast({**row, "organisations": [f"o{number}" for number in range(20)]})
    assert "20: o0, o1," in text
    assert "and 8 more" in text
    assert "wholly on it        0: none" in text


def test_what_moved_is_shown_once() -> None:
    before, after = {"prosody": "1", "haproxy": "2"}, {"prosody": "1", "haproxy": "3", "coturn": "4"}
    assert fleet_shown.versions(before, after) == "coturn none -> 4, haproxy 2 -> 3"
