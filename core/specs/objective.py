"""Slot `objective`: what is matched. Its implementation is `core/distillation/objectives/<kind>.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.specs.base import Spec


class MeanFeatureSpec(Spec):
    """DM: squared distance between the class means of real and synthetic features (Zhao & Bilen, arXiv:2110.04181)."""

    kind: Literal["mean_feature"] = "mean_feature"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    """Factor of the loss; summed over classes and feature entries."""


ObjectiveSpec = MeanFeatureSpec

TermSpecs = tuple[()]
"""Extra losses added to any objective. No kind exists yet, so the list must be empty."""
