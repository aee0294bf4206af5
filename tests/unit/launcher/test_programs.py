from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.datatypes import dict_of_key_value_pairs
from supervisor.options import UnhosedConfigParser, expand

from launcher.programs import Program, command_value, environment_value, render_program, render_supervisord

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\x85"))
NAMES = st.from_regex(r"\A[A-Z][A-Z_]{0,10}\Z")


@given(st.dictionaries(NAMES, TEXT.filter(lambda text: not set("'\"") & set(text)), max_size=4))
def test_supervisord_reads_the_environment_back(pairs: dict[str, str]) -> None:
    assert dict_of_key_value_pairs(expand(environment_value(pairs), {}, "environment")) == pairs


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_supervisord_reads_the_command_back(argv: list[str]) -> None:
    assert shlex.split(expand(command_value(argv), {}, "command")) == argv


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", 'say "hi"', "it's"])
def test_what_supervisord_cannot_carry_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="KEY"):
        environment_value({"KEY": value})


def program(**changes: object) -> Program:
    given = {"name": "web", "title": "web", "argv": ["/bin/x", "a;b", "50%"], "user": "roost", "ready": lambda: True}
    return Program(**{**given, **changes})  # type: ignore[arg-type]


def parsed(text: str) -> configparser.RawConfigParser:
    parser = UnhosedConfigParser()
    parser.read_string(text)
    return parser


def test_a_definition_is_one_section_that_starts_again_for_ever() -> None:
    section = parsed(render_program(program(environment={"A": "semi; 100%"}), Path("/log")))["program:web"]
    assert section["autorestart"] == "true"
    assert shlex.split(expand(section["command"], {}, "command")) == ["/bin/x", "a;b", "50%"]
    assert dict_of_key_value_pairs(expand(section["environment"], {}, "environment"))["A"] == "semi; 100%"


def test_another_digest_is_another_definition() -> None:
    assert render_program(program(digest="1"), Path("/log")) != render_program(program(digest="2"), Path("/log"))
    assert render_program(program(digest="1"), Path("/log")) == render_program(program(digest="1"), Path("/log"))


def test_the_supervisor_speaks_on_a_socket_of_root_alone() -> None:
    text = render_supervisord(Path("/s/a.sock"), Path("/log"), Path("/s/a.pid"), Path("/s/*.conf"), "roost")
    sections = parsed(text)
    assert sections["unix_http_server"]["file"] == "/s/a.sock"
    assert sections["unix_http_server"]["chmod"] == "0600"
    assert "inet_http_server" not in sections
