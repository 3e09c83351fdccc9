"""Real images that trained networks label rightly, in a random order of each class (DATM).

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024, arXiv:2310.05773,
as its published code has it: the first images of a random order that the first expert labels rightly and, while there are
too few, those that the next expert does. Deviation: where all experts together leave too few, the order itself fills up
(the published code ends there).
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.embedding import BLOCK_IMAGES, gather_by_class
from core.experts import Pool


class CorrectlyClassifiedInit:
    """The networks look at unaugmented images in evaluation mode."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) real images in network space; the generator orders each class.

        Raises:
            ValueError: a class has fewer images.
        """

        def easiest(positions: Tensor) -> Tensor:
            order = torch.randperm(len(positions), generator=generator)
            chosen = torch.zeros(0, dtype=torch.int64)
            for expert in range(len(self._pool.params)):
                left = order[~torch.isin(order, chosen)]
                chosen = torch.cat([chosen, self._right(data, expert, positions, left, per_class - len(chosen))])
                if len(chosen) == per_class:
                    return chosen
            return torch.cat([chosen, order[~torch.isin(order, chosen)]])[:per_class]

        return gather_by_class(data, per_class, easiest)

    def _right(self, data: RealSet, expert: int, positions: Tensor, rows: Tensor, wanted: int) -> Tensor:
        """The first `wanted` rows of a class that an expert labels rightly, or all there are; looks no further than needed."""
        found = torch.zeros(0, dtype=torch.int64)
        for block in rows.split(BLOCK_IMAGES):
            index = positions[block]
            right = self._pool.logits(expert, data.gather(index)).argmax(1).cpu() == data.labels[index.to(data.device)].cpu()
            found = torch.cat([found, block[right]])[:wanted]
            if len(found) == wanted:
                break
        return found
