"""Greedy k-center: each further real image is the one farthest from all chosen ones.

Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, arXiv:1708.00489, here
class by class. The first image is the one nearest to its class mean, as the authors of DC have it; DeepCore draws the first.
`greedy.GreedyInit` applies the rule to a real set.
Shapes: N images of a class, D features, n chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.embedding import distances


def spread(features: Tensor, count: int) -> Tensor:
    """(N, D) -> (n,) int64 rows in the order of choice; of equally far images the one at the lowest position."""
    features = features.double()
    row = distances(features, features.mean(0)).argmin(0, keepdim=True)
    chosen = [row]
    nearest = distances(features, features.index_select(0, row)[0])
    for _ in range(count - 1):
        nearest.index_fill_(0, row, -1.0)  # copies of a chosen image are at distance 0, and may be needed
        row = nearest.argmax(0, keepdim=True)
        nearest = torch.minimum(nearest, distances(features, features.index_select(0, row)[0]))
        chosen.append(row)
    return torch.cat(chosen)
