"""The context of one iteration, or of some of its classes: networks, images, draws, features.

A step is never stored. `features` is computed once for each side and shared by all losses.
Tensor letters as in `protocols.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from core.compilation import chunk_sizes
from core.data.real_set import RealSet
from core.distillation.protocols import Batch, Draw, Plan, Transform, Weights
from core.distillation.randomness import rng
from core.networks.network import Forward, Tensors

Side = Literal["syn", "real"]


@dataclass
class Step:
    """What losses may look at."""

    number: int
    """Iteration, from 0."""

    seed: int
    data: RealSet
    weights: Weights
    plan: Plan
    syn: Batch
    real_index: Tensor | None
    """Positions of the real images, (K, N) or (N,), on the CPU."""

    forward: Forward
    transform: Transform
    """This iteration's augmentation, one group for each class; both sides share it."""

    start: int = 0
    stop: int = 0
    """Classes of this step: all K, or a chunk."""

    _features: dict[tuple[Side, Draw], Tensors] = field(default_factory=dict)

    def rng(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for this iteration."""
        return rng(self.seed, name, self.number, device)

    def images(self, side: Side, draw: Draw) -> Tensor:
        """Images of the step's classes before augmentation, (K, M, C, H, W); synthetic ones are cut from the leaf."""
        if side == "real":
            assert self.real_index is not None, "the loss planned no real images"
            return self.data.gather(self.real_index[self.start : self.stop])
        rows = self.syn.rows[self.syn.draws.index(draw)][self.start : self.stop]
        return take(self.syn.images, rows)

    def features(self, side: Side, draw: Draw | None = None) -> Tensors:
        """Taps of the augmented images of a per-class draw, (K, M, ...).

        Gradient flows to the synthetic leaf; real features carry no graph.
        """
        draw = draw or self.plan.syn[0]
        key = (side, draw if side == "syn" else Draw())
        if key not in self._features:
            with torch.set_grad_enabled(side == "syn"):
                images = self.transform.narrow(self.start, self.stop).apply(self.images(side, draw))
                flat = images.reshape(-1, *images.shape[2:])
                out = self.forward(self.weights.params, self.weights.buffers, flat, self.plan.taps)
                self._features[key] = {tap: value.unflatten(0, images.shape[:2]) for tap, value in out.items()}
        return self._features[key]

    def chunks(self, limit: int) -> Iterator[Step]:
        """This step cut into runs of classes with at most `limit` synthetic images each; itself when it must stay whole."""
        per_class = [rows.shape[1] for rows in self.syn.rows if rows.ndim == 2]
        if not self.plan.separable or self.forward.net.mixes_images or len(per_class) != len(self.syn.rows):
            yield self
            return
        count = self.stop - self.start
        _, size = chunk_sizes(count, max(1, limit // max(1, sum(per_class))))
        for first in range(self.start, self.stop, size):
            yield replace(self, start=first, stop=min(first + size, self.stop), _features={})


def take(images: Tensor, rows: Tensor) -> Tensor:
    """Rows of images, in the shape of `rows`: a view where they lie side by side."""
    flat = rows.reshape(-1)
    first, count = int(flat[0]), flat.numel()
    if torch.equal(flat, torch.arange(first, first + count)):
        picked = images[first : first + count]
    else:
        picked = images.index_select(0, flat.to(images.device, non_blocking=True))
    return picked.view(*rows.shape, *images.shape[1:])
