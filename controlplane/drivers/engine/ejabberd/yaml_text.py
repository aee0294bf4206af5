"""YAML for ejabberd's configuration: the one place where a value becomes YAML source.

Every string is a double-quoted flow scalar in ASCII (YAML 1.1 §5.7 escapes), so nothing in a value can end
it, and ejabberd reads it as a binary and never as an atom or a macro. Which values belong into a
configuration is left to ``config``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

#: ejabberd's own words (option names, enumerations): plain scalars, because it reads those as atoms.
_WORD = re.compile(r"[a-z][a-z0-9_]*\Z")

_LONGEST_KEY = 1000  # YAML 1.1 §9.2.2 lets a parser look 1024 characters ahead for the colon


class Word(str):
    """A word of ejabberd's own configuration language. Never a tenant's text: ``ValueError`` for what is no word."""

    __slots__ = ()

    def __new__(cls, text: str) -> Word:
        if not _WORD.match(text):
            raise ValueError(f"not a word of ejabberd's configuration: {text!r}")
        return super().__new__(cls, text)


Value = str | bool | int | Sequence["Value"] | Mapping[str, "Value"]


def quote(text: str) -> str:
    """``text`` as a double-quoted scalar. Raises ``ValueError`` for lone surrogates, which no encoding has."""
    text.encode()
    return '"' + "".join(_character(c) for c in text) + '"'


def _character(c: str) -> str:
    code = ord(c)
    if 0x20 <= code < 0x7F and c not in '"\\':
        return c
    # Characters beyond the basic plane have their own escape: libyaml refuses JSON's surrogate pairs.
    return f"\\U{code:08X}" if code > 0xFFFF else f"\\u{code:04X}"


def scalar(value: str | bool | int) -> str:
    """One scalar. Raises ``TypeError`` for any other type."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Word():
            return str(value)
        case str():
            return quote(value)
    raise TypeError(f"no YAML scalar for {type(value).__name__}")


def document(value: Mapping[str, Value]) -> str:
    """A whole document: block mappings and sequences; keys that are no words are quoted."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Value) -> list[str]:
    if isinstance(value, Mapping):
        if not value:
            return ["{}"]
        return [line for key, inner in value.items() for line in _entry(_key(key) + ":", inner)]
    if isinstance(value, list | tuple):
        if not value:
            return ["[]"]
        return [line for inner in value for line in _entry("-", inner)]
    return [scalar(value)]  # type: ignore[arg-type]


def _entry(lead: str, value: Value) -> list[str]:
    """``lead`` with what belongs to it, on one line where it is a scalar or empty."""
    inner = _lines(value)
    if len(inner) == 1 and (not isinstance(value, Mapping | list | tuple) or not value):
        return [f"{lead} {inner[0]}"]
    return [lead, *(f"  {line}" for line in inner)]


def _key(key: str) -> str:
    if _WORD.match(key):
        return key
    quoted = quote(key)
    if len(quoted) > _LONGEST_KEY:
        raise ValueError("too long for a key")
    return quoted
