"""Slot `models`: where the matching networks come from and how they move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.specs.base import Spec


class FreshRandomSpec(Spec):
    """A network with newly drawn weights, kept for a fixed number of iterations and never trained (DM)."""

    kind: Literal["fresh_random"] = "fresh_random"
    version: Literal[1] = 1
    iterations_per_network: int = Field(default=1, ge=1, le=100_000)
    """Iterations that share one draw of the weights."""


ModelsSpec = FreshRandomSpec
