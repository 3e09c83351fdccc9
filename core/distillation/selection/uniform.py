"""Uniform selection: real images of each class without replacement inside a batch, anew at each iteration.

Shapes: K classes, N images per class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.plan import Draw
from core.distillation.protocols import Stateless
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.specs.selection import UniformSpec


class Uniform(Stateless):
    """Draws on the CPU, so that every device sees the same images."""

    def __init__(self, spec: UniformSpec, data: RealSet, seed: int) -> None:
        self._data, self._counts = data, data.counts
        self._seed = seed
        self.wanted = spec.real_batch_per_class
        self.per_class: int = min(self.wanted, *self._counts)
        """Clipped to the smallest class, so that every class gives the same number."""

    def count(self, draw: Draw) -> int:
        """Images of one iteration."""
        return self._size(draw) * (len(self._counts) if draw.kind == "per_class" else 1)

    def pick(self, draw: Draw, step: Step) -> tuple[Tensor, None]:
        """(K, N) int64 positions; for draws without classes, (N,) over the whole set. All count alike."""
        generator = rng(self._seed, "real", step.number)
        count = self._size(draw)
        if draw.kind == "per_class":
            return self._data.draw_per_class(count, generator), None
        return torch.randperm(sum(self._counts), generator=generator)[:count], None

    def _size(self, draw: Draw) -> int:
        """Images of each class, or of the whole set for draws without classes."""
        if draw.kind == "per_class":
            return min(draw.count or self.per_class, self.per_class)
        total: int = sum(self._counts)
        return min(draw.count or self.per_class * len(self._counts), total)

    def warning(self) -> str:
        """What the user should know about clipping; empty when nothing was clipped."""
        if self.per_class == self.wanted:
            return ""
        return f"selection.real_batch_per_class is {self.wanted}, the smallest class has {self.per_class} images: clipped"
