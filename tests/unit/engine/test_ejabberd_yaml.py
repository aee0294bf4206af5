"""Quoting for ejabberd, parsed back: YAML by PyYAML (libyaml, as ejabberd's own parser), Erlang by Erlang."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.engine.ejabberd import erlang_text
from controlplane.drivers.engine.ejabberd.yaml_text import Word, document, quote

HOSTILE = [
    *("", "yes", "null", "~", "1", "0x10", "- a", "a: b", "#", "'", '"', "\\", '\\"', "{{ x }}", "%YAML", "---", "..."),
    *("&a", "*a", "!!python/object", "|\n", ">", "?", "@HOST@", "a\n- b: c\n", "\x00", "\x07", "\x7f", "\x85", "\xa0"),
    *("\u2028", "\ufeff", "\ufffe", "😀", "\U0010ffff", "ü", "日本", "\r\n", "\t", "$(id)", "`id`", "<x a='b'/>"),
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"])))
keys = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=90))
words = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
values = st.recursive(
    st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(keys, values, max_size=5))
def test_documents_are_read_as_they_were_written(value: dict[str, Any]) -> None:
    written = document(value)
    assert written.isascii()
    # Keys that are words are plain, because ejabberd wants atoms there; BaseLoader keeps all scalars as text.
    assert yaml.load(written, Loader=yaml.CBaseLoader) == as_text(value)


def as_text(value: Any) -> Any:
    match value:
        case dict():
            return {key: as_text(inner) for key, inner in value.items()}
        case list():
            return [as_text(inner) for inner in value]
        case bool():
            return "true" if value else "false"
    return str(value)


@given(texts)
def test_a_string_is_one_line_and_a_string(text: str) -> None:
    written = quote(text)
    assert "\n" not in written
    assert yaml.load(written, Loader=yaml.CSafeLoader) == text


@pytest.mark.parametrize("text", ["", "A", "a b", "a:", "1a", "-", "a\n", "ü", "a-b"])
def test_only_words_are_words(text: str) -> None:
    with pytest.raises(ValueError, match="not a word"):
        Word(text)


@given(words)
def test_words_are_plain(text: str) -> None:
    assert document({"key": Word(text)}) == f"key: {text}\n"


@pytest.mark.parametrize("function", [quote, erlang_text.quote])
def test_half_a_character_is_refused(function: Any) -> None:
    with pytest.raises(UnicodeEncodeError):
        function("\ud800")


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError):
        document({"key": 1.5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="too long for a key"):
        document({"A" * 2000: "value"})


@pytest.mark.servers
def test_erlang_reads_what_was_written(tmp_path: Path) -> None:
    """One Erlang for all the strings: it parses each and prints its code points."""
    terms = tmp_path / "terms"
    readable = [text for text in HOSTILE if text != "\ufffe"]
    terms.write_text("".join(f"{erlang_text.quote(text)}.\n" for text in readable), encoding="ascii")
    program = '{ok, T} = file:consult(os:getenv("TERMS")), [io:format("~w~n", [X]) || X <- T], init:stop().'
    done = subprocess.run(
        ["/usr/bin/erl", "-noinput", "-boot", "no_dot_erlang", "-eval", program],
        env={"TERMS": str(terms), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=30,
        check=True,
    )
    read = ["".join(chr(point) for point in json.loads(line)) for line in done.stdout.splitlines()]
    assert read == readable
    with pytest.raises(ValueError, match="no such character"):
        erlang_text.quote("\ufffe")
