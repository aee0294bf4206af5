"""An allocation whose port the server still remembers is tried again from another one; other refusals are final."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioice import stun

from controlplane.probes import relay
from controlplane.values.secret import Secret


class Transport:
    async def _close(self) -> None:
        return None


def refusal(code: int) -> stun.TransactionFailed:
    answer = stun.Message(message_method=stun.Method.ALLOCATE, message_class=stun.Class.ERROR)
    answer.attributes["ERROR-CODE"] = (code, "no")
    return stun.TransactionFailed(answer)


def attempts(monkeypatch: pytest.MonkeyPatch, *codes: int) -> tuple[int, int | None]:
    """(how often it was tried, the code of the refusal that came out) when the server answers so."""
    left, tried = list(codes), 0

    async def create(factory: Any, *_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        if left:
            raise refusal(left.pop(0))
        return Transport(), factory()

    monkeypatch.setattr(relay, "create_turn_endpoint", create)

    async def run() -> None:
        async with relay.Relay.allocate(("127.0.0.1", 3478), "user", Secret("x")):
            pass

    try:
        asyncio.run(run())
    except relay.Refused as error:
        return tried, error.code
    return tried, None


def test_another_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, 437, 437) == (3, None)


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, 437, 437, 437) == (3, 437)


def test_wrong_credentials_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempts(monkeypatch, 401) == (1, 401)
