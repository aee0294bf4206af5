"""The live stack; each module makes tenants of its own, since others use the stack at the same time."""

from __future__ import annotations

from tests.stack.conftest import live

__all__ = ["live"]  # a fixture
