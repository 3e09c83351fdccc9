"""Forgetting: the real images that training forgets most often.

Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019, arXiv:1812.05159.
Counts are made while the pool is trained; an image that is never learned counts as the most forgettable, as the authors
have it. Equal counts are ordered by a random permutation of the class, so that the choice does not depend on the order of
the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.embedding import gather_by_class
from core.experts import Pool


class ForgettingInit:
    """Most forgotten first."""

    def __init__(self, pool: Pool) -> None:
        """Take the counts of a pool.

        Raises:
            ValueError: it was trained without counting.
        """
        if pool.forgetting is None:
            raise ValueError("the pool holds no forgetting counts")
        self._counts = pool.forgetting.cpu()

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) real images in network space; the generator decides between equal counts.

        Raises:
            ValueError: a class has fewer images.
        """

        def most_forgotten(positions: Tensor) -> Tensor:
            order = torch.randperm(len(positions), generator=generator)
            ranks = self._counts[positions[order]].argsort(descending=True, stable=True)
            return order[ranks[:per_class]]

        return gather_by_class(data, per_class, most_forgotten)
