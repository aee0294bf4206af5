"""Wrong settings are named when a process starts, and not when a secret does not open weeks later."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from controlplane.settings import environment

GOOD = "3GBj_TRLLT4iRrCHzQ6r7CqS0lMUrBmPpuyvG9kHJNQ="


@pytest.mark.parametrize(("text", "said"), [("", "no key"), ("short", "line 1"), (f"{GOOD}\n{GOOD[:-4]}\n", "line 2")])
def test_a_key_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    (tmp_path / "keys").write_text(text)
    monkeypatch.setenv("ROOST_KEYS", str(tmp_path / "keys"))
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        environment.key_lines("ROOST_KEYS")
    assert GOOD not in str(caught.value)


def test_several_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"{GOOD}\n\n{GOOD}\n")
    monkeypatch.setenv("ROOST_KEYS", str(tmp_path / "keys"))
    assert environment.key_lines("ROOST_KEYS") == [GOOD, GOOD]
