"""File names for anything, and paths that stay inside."""

from __future__ import annotations

import os
import re
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.portable.paths import MAX_NAME, beside, checked, file_name, opened
from controlplane.values.errors import InvalidInput

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


@given(names)
def test_a_name_is_a_harmless_file_name(text):
    name = file_name(text)
    assert re.fullmatch(r"[a-z0-9_.%A-F~-]{1,120}", name)
    assert checked(name) == name
    assert not name.startswith(".")
    assert not name.endswith(".")


@given(names)
def test_a_short_name_can_be_read_back(text):
    name = file_name(text)
    if text and len(name) < MAX_NAME and "~" not in name:
        assert urllib.parse.unquote(name) == text


@given(names, names)
def test_two_names_are_two_files_where_case_does_not_count(one, two):
    assert (file_name(one).lower() == file_name(two).lower()) == (one == two)


def test_long_names_that_differ_at_their_end_are_two_files():
    assert file_name("a" * 255) != file_name("a" * 254 + "b")
    assert len(file_name("ж" * 127)) <= MAX_NAME


@pytest.mark.parametrize("name", ["con", "nul.txt", "COM1", "..", ".", ".ssh", "a/b", "a\\b", "x.", "~"])
def test_names_with_a_meaning_lose_it(name):
    made = file_name(name, keep_case=True)
    assert made != name
    assert urllib.parse.unquote(made) == name


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "C:x", "a\nb", "a\0b", "x" * 2000,
             "/".join("abcdefghijklmnopqrs"), "file:///etc/passwd", "http://x/y", "a?b", "\ud800"]
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(InvalidInput):
        checked(path)
    with pytest.raises(InvalidInput):
        beside("dir/file.xml", path)


def test_links_are_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    os.symlink("real", tmp_path / "linked")
    os.symlink("real/file", tmp_path / "alias")
    os.mkfifo(tmp_path / "pipe")
    with opened(tmp_path, "real/file") as file:
        assert file.read() == b"x"
    for path in ("linked/file", "alias", "pipe", "real", "real/file/x"):
        with pytest.raises(InvalidInput), opened(tmp_path, path):
            pass
    with pytest.raises(FileNotFoundError), opened(tmp_path, "real/none"):
        pass
