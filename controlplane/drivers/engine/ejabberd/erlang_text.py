"""Erlang terms on the engine's command line: the one place where a value becomes Erlang source."""

from __future__ import annotations

_FORBIDDEN = frozenset("\ufffe\uffff")


def quote(text: str) -> str:
    """``text`` as an Erlang string in ASCII (Reference Manual §3.1, escape sequences).

    Raises ``ValueError`` for what Erlang has no character for: lone surrogates, U+FFFE and U+FFFF.
    """
    text.encode()
    if not _FORBIDDEN.isdisjoint(text):
        raise ValueError("Erlang has no such character.")
    return '"' + "".join(_character(c) for c in text) + '"'


def _character(c: str) -> str:
    return c if " " <= c < "\x7f" and c not in '"\\' else f"\\x{{{ord(c):X}}}"
