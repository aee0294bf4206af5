"""Passwords that Roost makes up for members."""

from __future__ import annotations

from controlplane.provisioning.accounts import _generate


def test_they_differ_and_can_be_typed_off() -> None:
    made = {_generate().reveal() for _ in range(500)}
    assert len(made) == 500
    assert all(len(one) == 20 and one.isalnum() and not set(one) & set("l1I0O") for one in made)
