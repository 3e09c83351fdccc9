"""K-means: the real image nearest to each centre of the feature clusters of its class.

Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416, whose start this
is (under an untrained network). Deviations: two centres never choose the same image; images are normalised, where the
published code feeds pixels in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.clustering import representatives
from core.distillation.embedding import Embedding, members, require
from core.experts import Pool


class KMeansInit:
    """As many clusters as images are wanted, in no particular order."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) real images in network space; the generator draws the seeds of the clusters.

        Raises:
            ValueError: a class has fewer images.
        """
        require(data, per_class)
        embedding = Embedding.of_pool(self._pool, data)
        rows = representatives(map(embedding.features, members(data)), per_class, generator).rows.cpu()
        return data.gather(rows + torch.tensor(data.offsets)[:, None])
