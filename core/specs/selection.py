"""Slot `selection`: which real images an iteration sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.specs.base import Spec


class UniformSpec(Spec):
    """Images of each class drawn uniformly, without replacement inside a batch, anew at each iteration."""

    kind: Literal["uniform"] = "uniform"
    version: Literal[1] = 1
    real_batch_per_class: int = Field(default=256, ge=1, le=100_000)
    """Real images per class and iteration; clipped to the smallest class, with a warning event."""


SelectionSpec = UniformSpec
