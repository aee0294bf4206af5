"""Lua literals, parsed back by a real Lua 5.4: whatever goes in comes out, and nothing else happens."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.drivers.engine.prosody.lua import quote

#: Writes a value as JSON with strings in hexadecimal, so that no byte is lost on the way.
DUMP = r"""
local function dump(v)
  local t = math.type(v) or type(v)
  if t == "string" then return '{"s":"' .. v:gsub(".", function (c) return ("%02x"):format(c:byte()) end) .. '"}' end
  if t == "integer" then return '{"i":"' .. v .. '"}' end
  if t == "float" then return ('{"f":"%a"}'):format(v) end
  if t ~= "table" then return ('{"b":"%s"}'):format(tostring(v)) end
  local parts = {}
  for k, x in pairs(v) do parts[#parts + 1] = "[" .. dump(k) .. "," .. dump(x) .. "]" end
  return '{"t":[' .. table.concat(parts, ",") .. "]}"
end
"""

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ['"', "]]", "]=]", "--[[", "\\", "\n", "\r\n", "\0", "\x7f", "\\\n", '" .. os.exit() .. "', "\\065", "\x1a", "é"]
)
scalar = text | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
value = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)


def parsed(literals: list[str]) -> list[Any]:
    chunk = DUMP + "".join(f"print(dump({literal}))\n" for literal in literals)
    done = subprocess.run(["lua5.4", "-"], input=chunk.encode("ascii"), capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [_value(json.loads(line)) for line in done.stdout.decode().splitlines()]


def _value(node: dict[str, Any]) -> Any:
    ((kind, content),) = node.items()
    match kind:
        case "s":
            return bytes.fromhex(content).decode()
        case "i":
            return int(content)
        case "f":
            return float.fromhex(content)
        case "b":
            return {"true": True, "false": False, "nil": None}[content]
    pairs = [(_value(k), _value(v)) for k, v in content]
    keys = [k for k, _ in pairs]
    if all(type(k) is int for k in keys):
        return [v for _, v in sorted(pairs, key=lambda p: p[0])]
    return dict(pairs)


def as_lua_sees_it(given_: Any) -> Any:
    """An empty mapping is an empty list to Lua."""
    if isinstance(given_, dict):
        return {k: as_lua_sees_it(v) for k, v in given_.items()} or []
    if isinstance(given_, list):
        return [as_lua_sees_it(v) for v in given_]
    return given_


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(value, min_size=1, max_size=8))
def test_every_value_comes_back(values: list[Any]) -> None:
    literals = [quote(v) for v in values]
    assert all(literal.isascii() and literal.isprintable() for literal in literals)
    for given_, got in zip(values, parsed(literals), strict=True):
        assert got == as_lua_sees_it(given_)
        assert type(got) is type(as_lua_sees_it(given_))


def test_nil() -> None:
    assert parsed([quote(None)]) == [None]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 2**63, -(2**63), "\ud800", {"a": [math.nan]}])
def test_what_lua_cannot_hold_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        quote(bad)


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError):
        quote(object())  # type: ignore[arg-type]
