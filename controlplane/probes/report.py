"""What the walk says: a result for each step, worded for a person and with details for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.values.errors import RoostError


@dataclass(frozen=True, slots=True)
class Finding:
    """A step's good end. ``details`` holds JSON values only."""

    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Failed(RoostError):
    """A step found something wrong; ``details`` as in ``Finding``."""

    def __init__(self, message: str, *, remedy: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.details: Mapping[str, Any] = details or {}


class Skipped(Exception):
    """A step does not apply, for the reason given; that is not a failure."""


class Blocked(Exception):
    """A step cannot run because of something that an earlier step reported already: nothing is known."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's end.

    ``skipped`` with ``ok``: it does not apply or was not wanted. ``skipped`` without ``ok``: an earlier step
    failed, so nothing is known. ``message``: what, where and the remedy in plain words.
    """

    name: str
    ok: bool
    skipped: bool
    message: str
    duration_s: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WalkReport:
    """All steps in their fixed order. ``ok`` only if every one is; ``cpu_s`` is what the walk cost this thread."""

    steps: tuple[StepResult, ...]
    duration_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def failures(self) -> tuple[StepResult, ...]:
        """The steps that found something wrong themselves, without those that could not run because of them."""
        return tuple(step for step in self.steps if not step.ok and not step.skipped)

    @property
    def message(self) -> str:
        """One line for a condition: every failure, or what was done."""
        if self.ok:
            done = [step.name for step in self.steps if not step.skipped]
            return f"A client's walk passed {len(done)} steps ({', '.join(done)}) in {self.duration_s:.1f} s."
        return " ".join(f"{step.name}: {step.message}" for step in self.failures or self.steps)

    def step(self, name: str) -> StepResult:
        """Raises ``KeyError`` for a step that is not in it."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def __iter__(self) -> Iterator[StepResult]:
        return iter(self.steps)
