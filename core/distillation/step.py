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
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Augmentation, Batch, Labels, Parameterization, Transform, Weights
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
    forward: Forward
    augmentation: Augmentation
    transform: Transform
    """This iteration's augmentation, one group for each class; both sides share it."""

    parameterization: Parameterization
    labels: Labels
    real_index: Tensor | None = None
    """Positions of the real images, (K, N) or (N,), on the CPU."""

    real_share: Tensor | None = None
    """Share of each real image in its class, the shape of `real_index`; None where all count alike."""

    start: int = 0
    stop: int = 0
    """Classes of this step: all K, or a chunk."""

    vetoes: list[Tensor] = field(default_factory=list)
    """() bool each, on the device: losses that want this iteration to change nothing. Shared by all chunks."""

    _augmented: dict[tuple[Side, Draw], Tensor] = field(default_factory=dict)
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

    def targets(self, side: Side, draw: Draw | None = None) -> Tensor:
        """Labels of what `images` gives: (K, M) int64, or (K, M, K) float32 where those of the synthetic set are soft."""
        if side == "real":
            assert self.real_index is not None, "the loss planned no real images"
            return take(self.data.labels, self.real_index[self.start : self.stop])
        rows = self.syn.rows[self.syn.draws.index(draw or self.plan.syn[0])][self.start : self.stop]
        return take(self.syn.labels, rows)

    def augmented(self, side: Side, draw: Draw | None = None) -> Tensor:
        """Augmented images of a per-class draw, (K, M, C, H, W); gradient flows to the synthetic leaf only."""
        draw = draw or self.plan.per_class
        key = (side, draw if side == "syn" else Draw())
        if key not in self._augmented:
            with torch.set_grad_enabled(side == "syn"):
                self._augmented[key] = self.transform.narrow(self.start, self.stop).apply(self.images(side, draw))
        return self._augmented[key]

    def features(self, side: Side, draw: Draw | None = None) -> Tensors:
        """Taps of the augmented images of a per-class draw, (K, M, ...).

        Gradient flows to the synthetic leaf; real features carry no graph.
        """
        draw = draw or self.plan.per_class
        key = (side, draw if side == "syn" else Draw())
        if key not in self._features:
            with torch.set_grad_enabled(side == "syn"):
                self._features[key] = self.taps(self.weights, self.forward, self.augmented(side, draw), self.plan.taps)
        return self._features[key]

    @staticmethod
    def taps(weights: Weights, forward: Forward, images: Tensor, taps: tuple[str, ...]) -> Tensors:
        """Taps of (K, M, C, H, W) images under any network, (K, M, ...)."""
        out = forward(weights.params, weights.buffers, images.reshape(-1, *images.shape[2:]), taps)
        return {tap: value.unflatten(0, images.shape[:2]) for tap, value in out.items()}

    def veto(self, condition: Tensor) -> None:
        """Let the iteration change nothing where the condition, () bool on the device, is true; nobody waits for it."""
        self.vetoes.append(condition)

    @property
    def share(self) -> Tensor | None:
        """Shares of the real images of the step's classes, (K, N), or None."""
        return None if self.real_share is None else self.real_share[self.start : self.stop]

    @torch.no_grad()
    def fresh(self, draw: Draw, name: str) -> tuple[Tensor, Tensor]:
        """Images of the set as it is now, without graph, and their labels: for `update` and `advance`.

        Args:
            draw: which virtual images.
            name: stream of the draw.

        Returns:
            (K, M, C, H, W) and (K, M, ...) if per class, (2, M, ...) for pairs, else (M, C, H, W) and (M, ...).
        """
        rows = self.parameterization.indices(draw, self.rng(name))
        images, classes = self.parameterization.decode(rows.reshape(-1))
        labels = self.labels.targets(rows.reshape(-1), classes)
        return images.detach().unflatten(0, rows.shape), labels.detach().unflatten(0, rows.shape)

    def whole(self) -> Step:
        """All classes of the iteration that this step is cut from; nothing that was computed for some of them is kept."""
        return replace(self, start=0, stop=self.data.num_classes, _augmented={}, _features={})

    def of(self, plan: Plan) -> Step:
        """This step for the losses behind a plan: none of what was computed for others is kept."""
        return replace(self, plan=plan, _augmented={}, _features={})

    def chunks(self, limit: int) -> Iterator[Step]:
        """This step cut into runs of classes with at most `limit` synthetic images each; itself when it must stay whole."""
        if not self.plan.separable or self.forward.mixes_images or any(d.kind != "per_class" for d in self.plan.syn):
            yield self
            return
        per_class = sum(self.syn.rows[self.syn.draws.index(draw)].shape[1] for draw in self.plan.syn)
        count = self.stop - self.start
        _, size = chunk_sizes(count, max(1, limit // max(1, per_class)))
        for first in range(self.start, self.stop, size):
            yield replace(self, start=first, stop=min(first + size, self.stop), _augmented={}, _features={})


def take(images: Tensor, rows: Tensor) -> Tensor:
    """Rows of images, in the shape of `rows`: a view where they lie side by side."""
    flat = rows.reshape(-1)
    first, count = int(flat[0]), flat.numel()
    if torch.equal(flat, torch.arange(first, first + count)):
        picked = images[first : first + count]
    else:
        picked = images.index_select(0, flat.to(images.device, non_blocking=True))
    return picked.view(*rows.shape, *images.shape[1:])
