"""Start from real images that a greedy rule chooses, class by class, in the feature space of a trained network.

Shapes: K classes, N images of a class, D features, n chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.embedding import Embedding, gather_by_class
from core.experts import Pool

Rule = Callable[[Tensor, int], Tensor]
"""(N, D) float32 features and n -> (n,) int64 rows, in the order of choice."""


class GreedyInit:
    """In the order of choice, so that fewer images are the beginning of more."""

    def __init__(self, pool: Pool, rule: Rule) -> None:
        """Embed with the pool's first network; `rule` is `herd` or `spread`."""
        self._pool = pool
        self._rule = rule

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) real images in network space; nothing is drawn.

        Raises:
            ValueError: a class has fewer images.
        """
        features = Embedding.of_pool(self._pool, data).features
        return gather_by_class(data, per_class, lambda positions: self._rule(features(positions), per_class))
