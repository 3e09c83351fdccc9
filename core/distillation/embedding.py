"""Features of real images under one network in evaluation mode: what coresets and clusters are chosen by.

Images stay uint8 and are normalised block by block, so that memory holds the features of one class and little more.
Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from core.compilation import CHUNK_IMAGES
from core.data.real_set import RealSet
from core.experts import Pool
from core.networks.network import Forward, Tensors

TAP = "flat"
BLOCK_IMAGES = 1024
"""Images that are normalised, and on CUDA computed, at once."""


@dataclass(frozen=True)
class Embedding:
    """A network with its weights, looking at a real set."""

    forward: Forward
    """In evaluation mode, or of a network to which the mode makes no difference."""

    params: Tensor
    """(P,) float32."""

    buffers: Tensors
    data: RealSet

    @classmethod
    def of_pool(cls, pool: Pool, data: RealSet) -> Embedding:
        """The first network of a pool, computing eagerly: each image is seen once."""
        buffers = {name: value[0] for name, value in pool.buffers.items()}
        return cls(Forward.on(data.device, pool.net, compile_passes=False), pool.params[0], buffers, data)

    @torch.no_grad()
    def features(self, positions: Tensor) -> Tensor:
        """Inputs of the classifier for unaugmented images at (N,) positions of the real set: (N, D) float32 on the device."""
        done = []
        for block in positions.split(BLOCK_IMAGES):
            surplus = -len(block) % CHUNK_IMAGES if self.forward.compiled else 0  # a compiled pass knows one shape
            images = self.data.gather(F.pad(block, (0, surplus)))
            done.append(self.forward(self.params, self.buffers, images, (TAP,))[TAP][: len(block)])
        return torch.cat(done)


def members(data: RealSet) -> list[Tensor]:
    """Positions of each class in the real set, int64 on the CPU."""
    return [torch.arange(start, start + count) for start, count in zip(data.offsets, data.counts, strict=True)]


def gather_by_class(data: RealSet, per_class: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """Images that `choose` picks from each class.

    Args:
        data: real set.
        per_class: n, images of each class.
        choose: from (N,) positions of a class to (n,) rows among them.

    Returns:
        (K, n, C, H, W) float32 in network space.

    Raises:
        ValueError: a class has fewer images than are wanted.
    """
    require(data, per_class)
    return data.gather(torch.stack([positions[choose(positions).cpu()] for positions in members(data)]))


def require(data: RealSet, per_class: int) -> None:
    """Refuse to choose more images than the smallest class has.

    Raises:
        ValueError: a class has fewer.
    """
    smallest = min(data.counts)
    if per_class > smallest:
        raise ValueError(f"{per_class} images are wanted of each class, but class {data.counts.index(smallest)} has {smallest}")


def distances(features: Tensor, point: Tensor) -> Tensor:
    """(N, D) and (D,) -> (N,), from differences: equal images get equal distances, which products do not promise."""
    return torch.cdist(features, point[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
