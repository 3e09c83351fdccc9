"""Herding: real images whose mean feature stays on the mean of their class.

Welling, "Herding dynamical weights to learn", ICML 2009, as greedy selection for classes (Rebuffi et al., arXiv:1611.07725).
With features f, class mean m and the sum s of the k images chosen so far, the next image minimises |f - ((k + 1) m - s)|.
Deviations of others that were not followed: DeepCore maximises this distance; IDC takes the images nearest to the mean.
`greedy.GreedyInit` applies the rule to a real set.
Shapes: N images of a class, D features, n chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.distillation.embedding import distances


def herd(features: Tensor, count: int) -> Tensor:
    """(N, D) -> (n,) int64 rows in the order of choice; of equally good images the one at the lowest position."""
    features = features.double()
    mean = features.mean(0)
    total = torch.zeros_like(mean)
    taken = features.new_zeros(len(features))
    chosen = []
    for number in range(1, count + 1):
        row = (distances(features, number * mean - total) + taken).argmin(0, keepdim=True)
        taken.index_fill_(0, row, math.inf)
        total = total + features.index_select(0, row)[0]
        chosen.append(row)
    return torch.cat(chosen)
