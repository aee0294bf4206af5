"""What a killed run had begun to write goes with the next one; everything else stays."""

from __future__ import annotations

from pathlib import Path

from tests.unit.node.modules import part


def test_only_files_that_were_begun_are_removed(tmp_path: Path) -> None:
    names = ("roost-t1.conf", "roost-t1.conf.77.tmp", "other.conf.77.tmp", "roost-t1.conf.tmp", "roost-77.tmp.conf")
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / "roost-d.1.tmp").mkdir()
    part("roost_bundle").remove_unfinished(str(tmp_path), "roost-")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {*names, "roost-d.1.tmp"} - {"roost-t1.conf.77.tmp"}
    part("roost_bundle").remove_unfinished(str(tmp_path / "not there"), "")
