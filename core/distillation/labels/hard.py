"""Hard labels: the class index of each image."""

from __future__ import annotations

from torch import Tensor

from core.distillation.protocols import Stateless


class HardLabels(Stateless):
    """Nothing is learned or stored."""

    def targets(self, index: Tensor, classes: Tensor) -> Tensor:
        """(U,) int64."""
        return classes
