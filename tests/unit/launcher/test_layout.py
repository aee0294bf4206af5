from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.errors import Problem
from launcher.layout import MAX_STATE_PATH, Layout, find, make_state, wanted_state


@pytest.fixture
def open_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that everybody may enter, whatever the mode of pytest's directory is."""
    monkeypatch.setattr("launcher.layout.all_may_enter", lambda _: True)
    monkeypatch.setattr("launcher.layout.MAX_STATE_PATH", 200)
    return tmp_path


def test_state_lies_in_the_clone_if_everybody_gets_there(open_clone: Path) -> None:
    found = find(open_clone, {})
    assert (found.state, found.net) == (open_clone / "var", 77)


def test_state_moves_away_from_a_place_that_others_cannot_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    state = wanted_state(closed, "var")
    assert state.parent == Path("/var/lib")
    assert state.name.startswith("roost-")
    assert wanted_state(closed, "var") == state
    assert wanted_state(closed, "var-test") != state


@pytest.mark.parametrize("name", ["x" * 60, "with space", "per%cent", "umläut"])
def test_state_moves_away_from_paths_that_sockets_or_formats_cannot_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("launcher.layout.all_may_enter", lambda _: True)
    assert wanted_state(tmp_path / name, "var").parent == Path("/var/lib")


def test_every_socket_fits_below_the_longest_state_path() -> None:
    longest = Layout(Path("/c"), Path("/c/var"), Path("/" + "s" * (MAX_STATE_PATH - 1)), 77)
    instance = longest.node / "instances" / ("k" * 20) / "run" / "control.sock"
    assert max(len(str(p)) for p in (instance, longest.supervisor_socket, longest.redis_socket)) < 108


def test_a_link_is_made_to_a_state_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.layout.wanted_state", lambda clone, name: tmp_path / "lib" / "roost-1")
    clone = tmp_path / "clone"
    clone.mkdir()
    made = find(clone, {"ROOST_NET": "81"})
    make_state(made)
    assert os.path.realpath(clone / "var") == str(tmp_path / "lib" / "roost-1")
    again = find(clone, {})
    assert (again.state, again.net) == (made.state, 81)
    make_state(again)


@pytest.mark.parametrize("name", ["../x", "/tmp/var", "src", ".", ".."])
def test_a_state_directory_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Problem, match="ROOST_VAR"):
        find(tmp_path, {"ROOST_VAR": name})


@pytest.mark.parametrize("net", ["0", "255", "seven", "-1"])
def test_a_network_that_is_none_is_refused(tmp_path: Path, net: str) -> None:
    with pytest.raises(Problem, match="ROOST_NET"):
        find(tmp_path, {"ROOST_NET": net})


def test_a_file_in_the_way_is_named(open_clone: Path) -> None:
    (open_clone / "var").write_text("")
    with pytest.raises(Problem, match="in the way"):
        make_state(find(open_clone, {}))
