"""What long computations tell their caller, and what they ask of it: callables, no queue, no database.

`Record` is the part that survives a restart: it travels in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, Field

from core.specs.report import Phase


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The caller asked to stop; everything worth keeping is in the record and in the checkpoint."""


class DelegatedError(Exception):
    """The rest of the evaluation is for other jobs; a checkpoint of the finished set was written."""

    def __init__(self, units: tuple[str, ...], set_digest: str) -> None:
        super().__init__(f"{len(units)} units are for other jobs")
        self.units = units
        self.set_digest = set_digest


class Hooks:
    """Does nothing and never stops; a child process overrides what it needs. All calls are cheap and made by wall time."""

    def phase(self, phase: Phase, total_steps: int) -> None:
        """A phase begins."""

    def progress(self, step: int, total_steps: int, seconds_per_step: float | None = None, message: str = "") -> None:
        """`step` of `total_steps` of the current phase are done."""

    def metric(self, name: str, step: int, value: float) -> None:
        """One point of one curve."""

    def warning(self, code: str, message: str) -> None:
        """Something the user should know that does not stop the job."""

    def should_stop(self) -> bool:
        """Whether the caller wants a checkpoint and an end; asked between iterations and between epochs."""
        return False

    @contextmanager
    def busy(self, message: str) -> Iterator[None]:  # noqa: ARG002
        """Bracket a long call that reports nothing itself, such as a compilation."""
        yield


class Record(BaseModel):
    """What was measured so far, over all attempts."""

    series: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)
    """Curves by metric name."""

    units: dict[str, float] = Field(default_factory=dict)
    """Test accuracy of each finished evaluation unit, for example `distilled/0`."""

    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time by phase."""

    first_step: dict[str, float] = Field(default_factory=dict)
    """What one step took before the loop began, as `core.distillation.probe.FirstStep` names it; of the last attempt."""

    timed_iterations: int = 0
    """Iterations behind `timed_seconds`; the first of an attempt, which may compile, is left out."""

    timed_seconds: float = 0.0
    warnings: dict[str, str] = Field(default_factory=dict)
    """Message of each warning by code."""

    def add(self, hooks: Hooks, name: str, step: int, value: float) -> None:
        """Keep one point, unless it is not finite, and tell the caller."""
        if math.isfinite(value):
            self.series.setdefault(name, []).append((step, value))
        hooks.metric(name, step, value)

    def warn(self, hooks: Hooks, code: str, message: str) -> None:
        """Keep a warning and tell the caller, once for each code."""
        if code not in self.warnings:
            self.warnings[code] = message
            hooks.warning(code, message)

    def dump(self) -> Any:
        """JSON form."""
        return self.model_dump(mode="json")
