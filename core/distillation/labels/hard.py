"""Hard labels: the class index of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.protocols import Parameterization, Stateless, Weights


class HardLabels(Stateless):
    """Nothing is learned or stored."""

    def start(self, parameterization: Parameterization, generator: torch.Generator) -> None:
        """They are known from the beginning."""

    def observe(self, index: Tensor, images: Tensor, weights: Weights) -> None:
        """They do not look."""

    def targets(self, index: Tensor, classes: Tensor) -> Tensor:
        """(U,) int64."""
        return classes

    def storage(self) -> dict[str, int]:
        """None: the class follows from the place of an image."""
        return {}
