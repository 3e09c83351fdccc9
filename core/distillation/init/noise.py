"""Start from independent N(0, 1) pixels in network space."""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet


class NoiseInit:
    """Looks at the real set's shape only."""

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) standard normal, drawn on the CPU."""
        shape = (data.num_classes, per_class, *data.images.shape[1:])
        return torch.randn(shape, generator=generator).to(data.device)
