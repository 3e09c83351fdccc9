"""Start from real images drawn uniformly within each class, without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet


class RandomInit:
    """With 0 iterations: random selection, the baseline of every table of the field."""

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) real images in network space."""
        index = [
            torch.randperm(size, generator=generator)[:per_class] + offset
            for size, offset in zip(data.counts, data.offsets, strict=True)
        ]
        return data.gather(torch.stack(index))
