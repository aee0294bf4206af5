"""Lua literals for Prosody's configuration: the one place where a value becomes Lua source.

Strings are written in ASCII with decimal escapes (Lua 5.4 manual §3.1), so no quote, newline, comment or
long bracket in a value can end it. Which values belong into a configuration is left to ``config``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Value = str | bool | int | float | None | Sequence["Value"] | Mapping[str, "Value"]

_SMALLEST, _LARGEST = -(2**63) + 1, 2**63 - 1  # the literal of -2^63 itself would be read as a float


def quote(value: Value) -> str:
    """``value`` as a Lua expression: strings as UTF-8, sequences as lists, mappings as tables with string keys.

    Raises ``ValueError`` for what Lua has no literal for: integers beyond 64 bits, infinities, NaN, lone
    surrogates; ``TypeError`` for anything else that is not one of these types.
    """
    match value:
        case None:
            return "nil"
        case bool():
            return "true" if value else "false"
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case str():
            return _string(value)
        case Mapping():
            inner = "; ".join(f"[{_string(k)}] = {quote(v)}" for k, v in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            inner = "; ".join(quote(v) for v in value)
            return f"{{ {inner} }}" if inner else "{}"
    raise TypeError(f"no Lua literal for {type(value).__name__}")


def _integer(value: int) -> str:
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"beyond Lua's integers: {value}")
    return str(value)


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"no Lua literal for {value}")
    return repr(value)


def _string(text: str) -> str:
    return '"' + "".join(_octet(o) for o in text.encode()) + '"'


def _octet(octet: int) -> str:
    if 0x20 <= octet < 0x7F and octet not in (0x22, 0x5C):
        return chr(octet)
    return f"\\{octet:03d}"
