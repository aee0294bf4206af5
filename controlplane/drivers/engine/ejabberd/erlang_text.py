"""Erlang terms on the engine's command line: the one place where a value becomes Erlang source."""

from __future__ import annotations


def quote(text: str) -> str:
    """``text`` as an Erlang string in ASCII (Reference Manual §3.1, escape sequences).

    Raises ``ValueError`` for lone surrogates, which no encoding has.
    """
    text.encode()
    return '"' + "".join(_character(c) for c in text) + '"'


def _character(c: str) -> str:
    return c if " " <= c < "\x7f" and c not in '"\\' else f"\\x{{{ord(c):X}}}"
